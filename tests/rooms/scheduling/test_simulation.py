"""The imagined clock, with schedulers of a few lines: what arrivals, ends, stops and their costs add up to."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.course import Life, Script, Stretch
from skyloom.rooms.scheduling.model import Admission, Cause, Decision, Demand, Eviction, Holding, Node
from skyloom.rooms.scheduling.simulation import IllegalDecision, Simulation, StopCosts, Unfolding
from tests.rooms.scheduling.strict import StrictQueue

GPU = Resources(cpus=0, gpus=1, memory_bytes=0)
Told = Mapping[float, tuple[Admission | Eviction, ...]]


def machine(name: str = "a", gpus: int = 4) -> Node:
    return Node(name=name, total=Resources(cpus=0, gpus=gpus, memory_bytes=0))


def demand(gang: str, submitted_at: float = 0.0, workers: int = 1, **more: Any) -> Demand:
    sizes = {"min_workers": workers, "max_workers": workers}
    return Demand(id=gang, project="p", resources=GPU, submitted_at=submitted_at, **(sizes | more))


def script(gang: str, submitted_at: float, duration_s: float, workers: int = 1, **more: Any) -> Script:
    told = demand(gang, submitted_at, workers, expected_s=duration_s, **more)
    return Script(demand=told, duration_s=duration_s, num_workers=workers)


class Scripted(StrictQueue):
    """Decides what it was told to decide at each moment, each once; keeps what it is told."""

    def __init__(self, nodes: Iterable[Node], told: Told) -> None:
        super().__init__(nodes)
        self.told = dict(told)
        self.submitted: list[Demand] = []
        self.holdings: list[Holding] = []

    def submit(self, gang: Demand) -> None:
        super().submit(gang)
        self.submitted.append(gang)

    def hold(self, holding: Holding) -> None:
        super().hold(holding)
        self.holdings.append(holding)

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        moves = self.told.pop(now, ())
        return Decision(
            admissions=tuple(move for move in moves if isinstance(move, Admission)),
            evictions=tuple(move for move in moves if isinstance(move, Eviction)),
            again_at=min(self.told, default=None),
        )


def start(gang: str, *placement: tuple[str, int]) -> Admission:
    return Admission(gang=gang, placement=placement or (("a", 1),))


def ends(outcome: Unfolding) -> dict[str, float | None]:
    return {life.gang: life.ended_at for life in outcome.lives}


def played(scripts: list[Script], told: Told, costs: StopCosts | None = None) -> tuple[Unfolding, Scripted]:
    scheduler = Scripted([machine()], told)
    return Simulation(scheduler, [machine()], scripts, costs).run(), scheduler


def test_first_come_first_served_on_one_gpu_is_as_computed_by_hand() -> None:
    nodes = [machine(gpus=1)]
    scripts = [script("a", 0, 10), script("b", 1, 4), script("c", 2, 1)]
    outcome = Simulation(StrictQueue(nodes), nodes, scripts).run()
    assert ends(outcome) == {"a": 10, "b": 14, "c": 15}
    assert [life.started_at for life in outcome.lives] == [0, 10, 14]
    assert outcome.stretches[1] == Stretch("b", 10, 14, (("a", 1),))


def test_gang_that_does_not_fit_stops_all_behind_it_when_the_queue_is_strict() -> None:
    nodes = [machine(gpus=2)]
    scripts = [script("a", 0, 10), script("wide", 1, 5, 2), script("small", 2, 3)]
    assert ends(Simulation(StrictQueue(nodes), nodes, scripts).run()) == {"a": 10, "wide": 15, "small": 18}


def test_ends_come_before_arrivals_of_the_same_moment() -> None:
    nodes = [machine(gpus=1)]
    scripts = [script("a", 0, 0.3), script("b", 0.1 + 0.2, 1)]
    outcome = Simulation(StrictQueue(nodes), nodes, scripts).run()
    assert outcome.lives[1].started_at == pytest.approx(0.3)
    assert outcome.usage == ((0, 1), (pytest.approx(1.3), 0))


def test_gang_without_a_duration_ends_when_it_starts() -> None:
    nodes = [machine(gpus=1)]
    outcome = Simulation(StrictQueue(nodes), nodes, [script("a", 5, 0), script("b", 5, 0)]).run()
    assert ends(outcome) == {"a": 5, "b": 5}


def test_gang_that_was_stopped_goes_on_where_it_was() -> None:
    outcome, scheduler = played(
        [script("a", 0, 10)],
        {0: (start("a"),), 4: (Eviction(gang="a", why=Cause.POLICY),), 7: (start("a"),)},
    )
    assert outcome.lives[0] == Life(
        gang="a",
        submitted_at=0,
        started_at=0,
        ended_at=13,
        held_s=10,
        held_gpu_s=10,
        served_s=10,
        num_preemptions=1,
        num_resizes=0,
    )
    again = scheduler.submitted[-1]
    assert (again.attained_gpu_s, again.expected_s) == (4, 6)
    assert outcome.usage == ((0, 1), (4, 0), (7, 1), (13, 0))


def test_stops_cost_what_was_said_and_get_nothing_done_meanwhile() -> None:
    outcome, scheduler = played(
        [script("a", 0, 10)],
        {0: (start("a"),), 4: (Eviction(gang="a", why=Cause.PRIORITY),), 7: (start("a"),)},
        StopCosts(checkpoint_s=2, restart_s=3),
    )
    life = outcome.lives[0]
    assert life.ended_at == 7 + 3 + 6  # starts, restarts, does the rest
    assert life.held_s == 6 + 9
    assert (scheduler.submitted[-1].attained_gpu_s, scheduler.submitted[-1].expected_s) == (6, 3 + 6)
    assert [holding.stopping for holding in scheduler.holdings] == [False, True, False]


def test_gang_that_would_be_done_before_its_checkpoint_still_comes_back() -> None:
    outcome, _ = played(
        [script("a", 0, 5)],
        {0: (start("a"),), 4: (Eviction(gang="a", why=Cause.PRIORITY),), 14: (start("a"),)},
        StopCosts(checkpoint_s=10),
    )
    assert ends(outcome) == {"a": 15}


def test_elastic_gang_is_as_fast_as_its_rates_say() -> None:
    elastic = demand("a", min_workers=1, max_workers=4, rates=(10.0, 18.0, 24.0, 28.0), expected_s=9.0)
    outcome, scheduler = played(
        [Script(demand=elastic, duration_s=5.0, num_workers=2)],
        {0: (start("a"),), 4.5: (Eviction(gang="a", why=Cause.GROW, num_workers=4),), 5: (start("a", ("a", 4)),)},
    )
    # 5 s with 2 workers are 90 units: 45 by one worker, the other 45 by four.
    assert outcome.lives[0].ended_at == pytest.approx(5 + 45 / 28)
    assert outcome.lives[0].num_resizes == 1
    assert scheduler.submitted[-1].expected_s == pytest.approx(4.5)
    assert outcome.lives[0].held_gpu_s == pytest.approx(4.5 + 4 * 45 / 28)


def test_expected_durations_may_be_wrong_and_shrink_by_what_was_done() -> None:
    wrong = Script(demand=demand("a", expected_s=6.0), duration_s=10.0)
    outcome, scheduler = played(
        [wrong],
        {
            0: (start("a"),),
            4: (Eviction(gang="a", why=Cause.POLICY),),
            5: (start("a"),),
            9: (Eviction(gang="a", why=Cause.POLICY),),
            10: (start("a"),),
        },
    )
    assert [told.expected_s for told in scheduler.submitted] == [6.0, 2.0, 0.0]
    assert ends(outcome) == {"a": 12}


def test_gang_that_runs_at_the_beginning_keeps_its_start_and_has_its_rest_to_do() -> None:
    nodes = [machine(gpus=1)]
    running = Holding(demand=demand("a", expected_s=30.0), placement=(("a", 1),), started_at=90.0)
    scripts = [
        Script(demand=running.demand, duration_s=5.0, holding=running),
        Script(demand=demand("b", submitted_at=95.0), duration_s=2.0),
    ]
    outcome = Simulation(StrictQueue(nodes), nodes, scripts).run(100.0)
    assert ends(outcome) == {"a": 105, "b": 107}
    assert [life.started_at for life in outcome.lives] == [90, 105]


def test_gang_that_is_stopping_at_the_beginning_comes_back() -> None:
    nodes = [machine(gpus=1)]
    running = Holding(demand=demand("a"), placement=(("a", 1),), started_at=90.0, stopping=True)
    outcome = Simulation(
        StrictQueue(nodes),
        nodes,
        [Script(demand=running.demand, duration_s=5.0, holding=running)],
        StopCosts(checkpoint_s=3, restart_s=1),
    ).run(100.0)
    assert ends(outcome) == {"a": 109}


def test_gang_that_can_never_start_is_left_without_an_end() -> None:
    nodes = [machine(gpus=1)]
    outcome = Simulation(StrictQueue(nodes), nodes, [script("a", 0, 3), script("wide", 1, 3, 2)]).run()
    assert ends(outcome) == {"a": 3, "wide": None}
    assert outcome.complete


def test_scheduler_that_wants_to_look_again_for_ever_is_not_asked_for_ever() -> None:
    class Hopeful(StrictQueue):
        def decide(self, now: float, num_explained: int = 200) -> Decision:
            return Decision(again_at=now)

    outcome = Simulation(Hopeful([machine()]), [machine()], [script("a", 0, 3)]).run()
    assert ends(outcome) == {"a": None}
    assert outcome.num_decisions < 5_000


def test_simulation_that_is_cut_off_says_so() -> None:
    nodes = [machine(gpus=1)]
    scripts = [script(str(number), number, 5) for number in range(10)]
    told: list[int] = []
    outcome = Simulation(StrictQueue(nodes), nodes, scripts).run(max_events=8, advance=told.append)
    assert not outcome.complete
    assert sum(told) == sum(life.ended_at is not None for life in outcome.lives) < 10


@pytest.mark.parametrize(
    ("moves", "why"),
    [
        ((start("a", ("a", 2)),), "2 workers"),
        ((start("a"), start("b", ("a", 4))), "more than it has"),
        ((start("a"), start("a")), "does not wait"),
        ((start("a", ("gone", 1)),), "gone was given more than it has"),
        ((Eviction(gang="a", why=Cause.POLICY),), "does not run"),
    ],
)
def test_decisions_that_cannot_be_are_refused(moves: tuple[Admission | Eviction, ...], why: str) -> None:
    with pytest.raises(IllegalDecision, match=why):
        played([script("a", 0, 3), script("b", 0, 3, 4)], {0: moves})


def test_scheduler_that_gives_and_takes_in_a_circle_is_stopped() -> None:
    class Fickle(StrictQueue):
        def decide(self, now: float, num_explained: int = 200) -> Decision:
            if self.held:
                return Decision(evictions=(Eviction(gang="a", why=Cause.POLICY),))
            return Decision(admissions=(start("a"),), evictions=(Eviction(gang="a", why=Cause.POLICY),))

    with pytest.raises(IllegalDecision, match="changed its mind"):
        Simulation(Fickle([machine()]), [machine()], [script("a", 0, 3)]).run()
