"""What runs, in the order in which it is expected to end."""

from bisect import bisect_left, insort
from collections.abc import Iterable

from skyloom.rooms.scheduling.model import Demand, Holding, Placement
from skyloom.rooms.scheduling.placement import Floor
from skyloom.rooms.scheduling.policies import remaining_s, speed, width
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus, vector

# When it is expected to end, when it started, its id: what sorts what runs.
End = tuple[float, float, str]


class Occupant:
    """A holding, and what is often asked of it."""

    __slots__ = (
        "end",
        "gang",
        "holding",
        "num_workers",
        "placement",
        "pool",
        "started_at",
        "stopping",
        "used",
        "worker",
    )

    def __init__(self, holding: Holding, pool: str) -> None:
        self.holding = holding
        self.gang: Demand = holding.demand
        self.placement: Placement = holding.placement
        self.pool = pool
        self.worker: Vector = vector(holding.demand.resources)
        self.num_workers = sum(count for _, count in holding.placement)
        self.used = plus(ZERO, self.worker, self.num_workers)
        self.started_at = holding.started_at
        self.stopping = holding.stopping
        self.end: End = (self._ends_at(), self.started_at, self.gang.id)

    def _ends_at(self) -> float:
        return self.started_at + remaining_s(self.gang) / max(speed(self.gang, self.num_workers or 1), 1e-9)

    def attained(self, now: float) -> float:
        """Service so far, this run's included."""
        return self.gang.attained_gpu_s + max(0.0, now - self.started_at) * width(self.gang, self.num_workers)


class Occupants:
    """All that holds resources."""

    def __init__(self) -> None:
        self.runs: dict[str, Occupant] = {}
        self._ends: dict[str, list[End]] = {}

    def add(self, run: Occupant) -> None:
        """One more."""
        self.runs[run.gang.id] = run
        insort(self._ends.setdefault(run.pool, []), run.end)

    def drop(self, gang_id: str) -> Occupant | None:
        """One less; None when it is not known."""
        run = self.runs.pop(gang_id, None)
        if run is not None:
            ends = self._ends[run.pool]
            del ends[bisect_left(ends, run.end)]
        return run

    def by_end(self, pool: str) -> Iterable[Occupant]:
        """What runs in a pool: the soonest end first, then what nobody knows the end of, the oldest first."""
        return (self.runs[gang_id] for _, _, gang_id in self._ends.get(pool, ()))

    def moved(self, floor: Floor) -> None:
        """The nodes are others now: take from them what is held, and find the pools again."""
        runs = list(self.runs.values())
        self.runs, self._ends = {}, {}
        for run in runs:
            run.pool = pool_of(run.placement, floor, run.pool)
            floor.take(run.placement, run.worker)
            self.add(run)


def pool_of(placement: Placement, floor: Floor, unknown: str = "") -> str:
    """The pool that a placement is in, by its first node that is still there."""
    for name, _ in placement:
        place = floor.place_of.get(name)
        if place is not None:
            return floor.nodes[place].pool
    return unknown
