"""A trace, driven through the scheduler by a small discrete-event clock that breaks off at the first broken promise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from skyloom.core.resources import NOTHING, Resources
from skyloom.rooms.scheduling.model import Cause, Decision, Demand, Holding, Node, Placement, Rulebook
from skyloom.rooms.scheduling.policies import speed, width
from skyloom.rooms.scheduling.scheduler import Scheduler

ARRIVES, ENDS, STOPS, TICKS = range(4)


@dataclass
class Ride:
    """What becomes of one gang."""

    demand: Demand
    left_s: float  # with its fewest workers
    placement: Placement = ()
    started_at: float = 0.0
    first_start_at: float | None = None
    ended_at: float | None = None
    num_stops: int = 0
    stopping: bool = False
    turn: int = 0
    attained_gpu_s: float = 0.0


@dataclass
class Drive:
    """One trace on one cloud.

    Attributes:
        durations: how long each gang really runs with its fewest workers; ``Demand.expected_s`` is what the scheduler is told.
        stop_s: how long a stop takes.
        watch: is shown each decision before it is carried out.
    """

    rulebook: Rulebook
    nodes: tuple[Node, ...]
    demands: Iterable[Demand]
    durations: dict[str, float]
    stop_s: float = 0.0
    watch: Callable[["Drive", Decision], None] | None = None
    num_explained: int = 0
    now: float = 0.0
    rides: dict[str, Ride] = field(default_factory=dict)
    log: list[tuple[float, Decision]] = field(default_factory=list)
    keep_log: bool = False
    num_decisions: int = 0
    max_decisions: int = 1_000_000

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.rulebook, self.nodes)
        self._events: list[tuple[float, int, str, int]] = []
        for demand in self.demands:
            self.rides[demand.id] = Ride(demand, self.durations[demand.id])
            heappush(self._events, (demand.submitted_at, ARRIVES, demand.id, 0))

    def run(self) -> "Drive":
        """Until nothing happens any more."""
        while self._events:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] <= self.now:
                _, kind, gang_id, turn = heappop(self._events)
                self._happen(kind, gang_id, turn)
            self._settle()
        return self

    def waiting(self) -> list[Ride]:
        """Arrived, neither running nor ended."""
        return [
            ride
            for ride in self.rides.values()
            if ride.demand.submitted_at <= self.now and ride.ended_at is None and not ride.placement
        ]

    def running(self) -> list[Ride]:
        """What holds resources."""
        return [ride for ride in self.rides.values() if ride.placement]

    def used(self) -> dict[str, Resources]:
        """By node."""
        used = {node.name: NOTHING for node in self.nodes}
        for ride in self.running():
            for name, count in ride.placement:
                used[name] += ride.demand.resources.times(count)
        return used

    def _happen(self, kind: int, gang_id: str, turn: int) -> None:
        if kind == TICKS:
            return
        ride = self.rides[gang_id]
        if kind == ARRIVES:
            self.scheduler.submit(ride.demand)
        elif turn == ride.turn and ride.placement:
            self._leave(ride, ended=kind == ENDS)

    def _leave(self, ride: Ride, ended: bool) -> None:
        count = sum(n for _, n in ride.placement)
        ran_s = self.now - ride.started_at
        ride.left_s -= ran_s * speed(ride.demand, count)
        ride.attained_gpu_s += ran_s * width(ride.demand, count)
        ride.placement, ride.stopping = (), False
        ride.turn += 1
        self.scheduler.release(ride.demand.id, self.now)
        if ended or ride.left_s <= 1e-6:
            ride.ended_at = self.now
            return
        known = ride.demand.expected_s is not None
        self.scheduler.submit(self._demand(ride, ride.left_s if known else None))

    def _demand(self, ride: Ride, expected_s: float | None) -> Demand:
        fields = {name: getattr(ride.demand, name) for name in ride.demand.__struct_fields__}
        fields |= {"expected_s": expected_s, "attained_gpu_s": ride.attained_gpu_s}
        ride.demand = Demand(**fields)
        return ride.demand

    def _settle(self) -> None:
        """Decide until there is nothing more to do at this moment."""
        while True:
            decision = self.scheduler.decide(self.now, self.num_explained)
            self.num_decisions += 1
            assert self.num_decisions < self.max_decisions, "it decides for ever"
            if self.watch is not None:
                self.watch(self, decision)
            if self.keep_log:
                self.log.append((self.now, decision))
            for admission in decision.admissions:
                self._start(self.rides[admission.gang], admission.placement)
            for eviction in decision.evictions:
                self._stop(self.rides[eviction.gang])
            if not (decision.evictions and self.stop_s == 0.0):
                break
        if decision.again_at is not None:
            assert decision.again_at > self.now
            heappush(self._events, (decision.again_at, TICKS, "", 0))

    def _start(self, ride: Ride, placement: Placement) -> None:
        ride.placement, ride.started_at = placement, self.now
        if ride.first_start_at is None:
            ride.first_start_at = self.now
        self.scheduler.hold(Holding(demand=ride.demand, placement=placement, started_at=self.now))
        ends_at = self.now + ride.left_s / speed(ride.demand, sum(n for _, n in placement))
        heappush(self._events, (ends_at, ENDS, ride.demand.id, ride.turn))

    def _stop(self, ride: Ride) -> None:
        ride.num_stops += 1
        if self.stop_s == 0.0:
            self.scheduler.hold(
                Holding(demand=ride.demand, placement=ride.placement, started_at=ride.started_at, stopping=True)
            )
            self._leave(ride, ended=False)
            return
        ride.stopping = True
        self.scheduler.hold(
            Holding(demand=ride.demand, placement=ride.placement, started_at=ride.started_at, stopping=True)
        )
        heappush(self._events, (self.now + self.stop_s, STOPS, ride.demand.id, ride.turn))


GROWTH = (Cause.SHRINK, Cause.GROW)
