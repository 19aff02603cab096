"""Random traces, played to their end on random clouds under every policy; `Witness` watches each decision.

More than a thousand traces in all, each played twice: once with the reasons asked for, once without.
"""

import random
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.course import Script
from skyloom.rooms.scheduling.model import Allotment, Demand, Node, Policy, Quota, Renting, Rulebook
from skyloom.rooms.scheduling.simulation import Simulation, StopCosts, Unfolding
from tests.rooms.scheduling.witness import PromiseWitness, Witness

POOLS, PROJECTS = ("a", "b"), ("p", "q", "r")
SEEDS = st.integers(0, 2**32)
QUIETLY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


class Chance(random.Random):
    """Draws clouds, traces and rules. By a seed, not piece by piece, so that a thousand traces take seconds."""

    def cloud(self, num_nodes: int) -> tuple[Node, ...]:
        """Nodes in one or two pools."""
        return tuple(
            Node(
                name=f"n{place}",
                pool=self.choice(POOLS),
                total=Resources(cpus=self.randint(2, 8), gpus=self.randint(0, 8), memory_bytes=64),
                labels=self.choice(({}, {"zone": "eu"})),
                usd_per_hour=self.choice((0.0, 1.0, 2.0)),
                rented=self.choice((False, False, True)),
            )
            for place in range(num_nodes)
        )

    def trace(self, num_gangs: int, plain: bool = False) -> list[Script]:
        """``plain``: nothing by which one who comes later could pass another, and durations as told."""
        return [self._script(f"g{place:02}", plain) for place in range(num_gangs)]

    def _script(self, name: str, plain: bool) -> Script:
        least = self.randint(1, 4)
        most = least if plain else least + self.choice((0, self.randint(1, 4)))
        duration_s, at = float(self.randint(1, 60)), float(self.randint(0, 60))
        # In truth somebody stops an endless one after a while; in plain traces nobody does.
        endless = self.random() < 0.15
        told = duration_s if plain else self.choice((None, duration_s, duration_s * 2, duration_s / 2))
        demand = Demand(
            id=name,
            project=self.choice(PROJECTS),
            resources=Resources(cpus=self.choice((0, 0.5, 1)), gpus=self.randint(0, 3), memory_bytes=1),
            min_workers=least,
            max_workers=most,
            priority=0 if plain else self.randint(0, 2),
            submitted_at=at,
            deadline_at=None if plain else self.choice((None, at + 30.0, at + 100.0)),
            expected_s=told,
            limit_s=duration_s if self.random() < 0.2 else None,
            endless=endless,
            # A measured scaling curve, or none; it may fall.
            rates=tuple(self.uniform(0.5, 4.0) for _ in range(self.choice((0, self.randint(1, most))))),
            preemptible=plain or self.random() < 0.8,
            pools=self.choice(((), ("a",), ("b",))),
            labels={} if plain else self.choice(({}, {}, {"zone": "eu"})),
        )
        return Script(demand=demand, duration_s=inf if plain and endless else duration_s, num_workers=least)

    def rules(self, policy: Policy) -> Rulebook:
        """Any rules, with this policy."""
        return Rulebook(
            policy=policy,
            las_limits_gpu_s=self.choice(((), (10.0,), (20.0, 60.0))),
            min_run_s=self.choice((0.0, 5.0, 20.0)),
            restart_s=self.choice((0.0, 2.0)),
            half_life_s=self.choice((10.0, 1e6)),
            quotas={
                project: Quota(
                    guaranteed=self._allotment(8), ceiling=self._allotment(16), weight=self.choice((0.5, 1.0, 3.0))
                )
                for project in PROJECTS
                if self.random() < 0.4
            },
            backfill=self.random() < 0.7,
            preempt=self.random() < 0.7,
            elastic=self.random() < 0.7,
            renting=self.choice(list(Renting)),
        )

    def _allotment(self, most: int) -> Allotment | None:
        if self.random() < 0.5:
            return None
        return Allotment(
            gpus=self.choice((None, self.randint(0, most))), cpus=self.choice((None, float(self.randint(0, most))))
        )


def play(witness: Witness, trace: list[Script], costs: StopCosts) -> Unfolding:
    return Simulation(witness, witness.nodes, trace, costs).run(max_events=20_000)


@pytest.mark.parametrize("policy", list(Policy))
def test_random_traces_keep_every_promise(policy: Policy) -> None:
    @QUIETLY
    @given(seed=SEEDS, num_nodes=st.integers(1, 5), num_gangs=st.integers(1, 16))
    def check(seed: int, num_nodes: int, num_gangs: int) -> None:
        chance = Chance(seed)
        nodes, trace, rules = chance.cloud(num_nodes), chance.trace(num_gangs), chance.rules(policy)
        costs = StopCosts(checkpoint_s=chance.choice((0.0, 0.0, 3.0)))
        told, quick = Witness(rules, nodes, explained=True), Witness(rules, nodes, explained=False)
        outcome = play(told, trace, costs)
        assert outcome == play(quick, trace, costs), "asking why changes nothing; the same input gives the same output"
        assert outcome.complete
        for script, life in zip(trace, outcome.lives, strict=True):
            if life.ended_at is None:
                # Only who can never start is left.
                waits = {wait.gang: wait for wait in told.decisions[-1][1].waits}
                assert waits[script.demand.id].why == "impossible"
        assert not told.held

    check()


@pytest.mark.parametrize("policy", [Policy.FIFO, Policy.DEADLINE])
def test_backfill_never_delays_what_was_promised(policy: Policy) -> None:
    """Durations are as told, and who comes later stands behind: then a promise is kept to the second."""

    @settings(QUIETLY, max_examples=250)
    @given(seed=SEEDS, num_nodes=st.integers(1, 5), num_gangs=st.integers(1, 16))
    def check(seed: int, num_nodes: int, num_gangs: int) -> None:
        chance = Chance(seed)
        nodes, trace = chance.cloud(num_nodes), chance.trace(num_gangs, plain=True)
        rules = Rulebook(policy=policy, preempt=False)
        watched = PromiseWitness(rules, nodes, explained=True)
        outcome = play(watched, trace, StopCosts())
        assert outcome.complete
        assert not any(at < inf for at in watched.promised.values())

    check()
