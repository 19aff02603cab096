"""Estimated starts and ends: right where they can be computed, and as often as they say where they cannot."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.course import Script
from skyloom.rooms.scheduling.durations import Durations, from_history
from skyloom.rooms.scheduling.forecast import GangForecast, forecast
from skyloom.rooms.scheduling.model import Demand, Holding, Node, Policy, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler
from skyloom.rooms.scheduling.simulation import Simulation

GPU = Resources(cpus=0, gpus=1, memory_bytes=0)
NODES = [Node(name="a", total=Resources(cpus=0, gpus=4, memory_bytes=0))]
RULES = Rulebook(policy=Policy.FIFO, backfill=False, preempt=False, elastic=False)
ABOUT_100 = from_history([100.0] * 50, "jobs")


def fresh(rules: Rulebook = RULES) -> Callable[[], Scheduler]:
    return lambda: Scheduler(rules, NODES)


def demand(gang: str, submitted_at: float = 0.0, workers: int = 1, **more: Any) -> Demand:
    sizes = {"min_workers": workers, "max_workers": workers}
    return Demand(id=gang, project="p", resources=GPU, submitted_at=submitted_at, **(sizes | more))


def running(gang: str, started_at: float, workers: int = 1) -> Holding:
    return Holding(demand=demand(gang, workers=workers), placement=(("a", workers),), started_at=started_at)


def test_gang_that_fits_starts_now_and_ends_when_others_like_it_do() -> None:
    told = forecast(fresh(), NODES, [], [demand("x")], {"x": ABOUT_100}, 1_000.0)["x"]
    assert (told.starts.early_at, told.starts.late_at) == (1_000, 1_000)
    assert told.ends.early_at == pytest.approx(1_100, abs=0.1)
    assert told.ends.late_at == pytest.approx(1_100, abs=0.1)
    assert told.basis == "from 50 earlier jobs"


def test_gang_that_waits_starts_when_what_runs_has_done_its_rest() -> None:
    held = [running("long", 970.0, 4)]
    told = forecast(fresh(), NODES, held, [demand("x")], {"long": ABOUT_100, "x": ABOUT_100}, 1_000.0)
    assert told["long"].starts.likely_at == 970
    assert told["long"].ends.likely_at == pytest.approx(1_070, abs=0.1)
    assert told["x"].starts.likely_at == pytest.approx(1_070, abs=0.1)
    assert told["x"].ends.likely_at == pytest.approx(1_170, abs=0.1)


def test_queue_adds_up() -> None:
    queue = [demand(f"x{number}", number, 4) for number in range(5)]
    told = forecast(fresh(), NODES, [], queue, {gang.id: ABOUT_100 for gang in queue}, 10.0)
    starts = [told[gang.id].starts.likely_at for gang in queue]
    assert starts == pytest.approx([10, 110, 210, 310, 410], abs=0.5)


def test_gang_that_was_stopped_has_only_its_rest_to_do() -> None:
    told = forecast(fresh(), NODES, [], [demand("x", workers=2, attained_gpu_s=120.0)], {"x": ABOUT_100}, 0.0)["x"]
    assert told.ends.likely_at == pytest.approx(40, abs=0.1)


def test_gang_of_which_nothing_is_known_gets_a_wide_guess_and_says_so() -> None:
    told = forecast(fresh(), NODES, [], [demand("x"), demand("y", expected_s=50.0)], {}, 0.0)
    assert "guess" in told["x"].basis
    assert told["x"].ends.early_at and told["x"].ends.late_at
    assert told["x"].ends.late_at > 50 * told["x"].ends.early_at
    assert told["y"].basis == "from its own estimate"
    assert told["y"].ends.likely_at == pytest.approx(50, rel=0.1)


def test_gang_that_can_never_start_has_no_moments() -> None:
    told = forecast(fresh(), NODES, [], [demand("wide", workers=5)], {}, 0.0)["wide"]
    assert (told.starts.early_at, told.starts.late_at, told.ends.likely_at) == (None, None, None)


def test_forecast_is_the_same_for_the_same_seed_and_bounded() -> None:
    queue = [demand(f"x{number:02}", number) for number in range(30)]

    def told(seed: int) -> dict[str, GangForecast]:
        return forecast(fresh(), NODES, [], queue, {}, 0.0, seed=seed, max_events=480)

    first = told(1)
    assert first == told(1) != told(2)
    assert sorted(first) == [gang.id for gang in queue[:12]]
    assert first["x00"].num_rollouts == 20


def test_gangs_on_nodes_that_are_gone_or_too_small_now_are_forecast_all_the_same() -> None:
    held = [running("big", 990.0, 6), Holding(demand=demand("lost"), placement=(("z", 1),), started_at=990.0)]
    told = forecast(fresh(), NODES, held, [demand("x", workers=4)], {"big": ABOUT_100, "x": ABOUT_100}, 1_000.0)
    assert told["lost"].ends.likely_at
    assert told["x"].starts.likely_at == pytest.approx(1_090, abs=0.1)


def test_nothing_to_say_of_nothing() -> None:
    assert forecast(fresh(), NODES, [], [], {}, 0.0) == {}


class Cloud:
    """Gangs that run and wait at 1,000 s. Only earlier durations of each are known; what happens is drawn from where those are from."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.known: dict[str, Durations] = {}
        self.real: dict[str, float] = {}
        self.holdings: list[Holding] = []
        while (free := 4 - sum(one.demand.min_workers for one in self.holdings)) > 0:
            workers = min(free, chance.choice((1, 1, 2)))
            self.holdings.append(running(f"r{free}", 1_000 - chance.uniform(0, 60), workers))
            self.draw(f"r{free}", 1_000 - self.holdings[-1].started_at)
        self.queue = [demand(f"w{number}", 900.0 + number, chance.choice((1, 1, 2, 4))) for number in range(6)]
        for gang in self.queue:
            self.draw(gang.id)

    def draw(self, gang: str, more_than: float = 0.0) -> None:
        centre = self.chance.uniform(3.5, 6)
        self.known[gang] = from_history([self.chance.lognormvariate(centre, 0.6) for _ in range(30)], "jobs")
        self.real[gang] = 0.0
        while self.real[gang] <= more_than:
            self.real[gang] = self.chance.lognormvariate(centre, 0.6)

    def ends(self, rules: Rulebook) -> dict[str, float]:
        """What really happens."""
        scripts = [
            Script(demand=one.demand, duration_s=self.real[one.demand.id] - (1_000 - one.started_at), holding=one)
            for one in self.holdings
        ]
        scripts += [Script(demand=gang, duration_s=self.real[gang.id]) for gang in self.queue]
        scripts = [msgspec.structs.replace(one, num_workers=one.demand.min_workers) for one in scripts]
        lives = Simulation(Scheduler(rules, NODES), NODES, scripts).run(1_000.0).lives
        return {life.gang: life.ended_at or 0.0 for life in lives}


@pytest.mark.parametrize("policy", [Policy.FIFO, Policy.LAS, Policy.FAIR])
def test_ends_are_between_early_and_late_in_eighty_of_a_hundred(policy: Policy) -> None:
    rules = Rulebook(policy=policy, backfill=policy is not Policy.FIFO, elastic=False, las_limits_gpu_s=(100.0, 400.0))
    chance = random.Random(policy.value)
    hits = tries = 0
    for _ in range(40):
        cloud = Cloud(chance)
        told = forecast(fresh(rules), NODES, cloud.holdings, cloud.queue, cloud.known, 1_000.0, max_events=1)
        ended = cloud.ends(rules)
        for gang, one in told.items():
            assert one.ends.early_at is not None and one.ends.late_at is not None
            hits += one.ends.early_at <= ended[gang] <= one.ends.late_at
            tries += 1
    assert tries > 300
    assert hits / tries == pytest.approx(0.8, abs=0.06)
