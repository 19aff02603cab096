"""What runs: in the order in which it is expected to end, and in the order in which its policy would stop it."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush, merge
from math import inf, nextafter

from skyloom.rooms.scheduling.model import Demand, Holding, Placement, Policy, Rulebook
from skyloom.rooms.scheduling.placement import Floor
from skyloom.rooms.scheduling.policies import Key, Seat, queue_of, remaining_s, running_key, speed, width
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus, vector

_SAME_S = 1e-6  # so near, two moments are one

# A moment, when it started, its id: what sorts what runs.
End = tuple[float, float, str]


class Occupant:
    """A holding, and what is often asked of it.

    Attributes:
        end: when it is expected to end: what policies go by.
        leaves: when it has ended at the latest, as far as anybody may count on it: what promises are built on.
    """

    __slots__ = (
        "demoted",
        "end",
        "gang",
        "leaves",
        "num_workers",
        "placement",
        "pool",
        "queue",
        "seat",
        "started_at",
        "stopping",
        "used",
        "worker",
    )

    def __init__(self, holding: Holding, pool: str) -> None:
        self.gang: Demand = holding.demand
        self.placement: Placement = holding.placement
        self.pool = pool
        self.worker: Vector = vector(holding.demand.resources)
        self.num_workers = size(holding.placement)
        self.used = plus(ZERO, self.worker, self.num_workers)
        self.started_at = holding.started_at
        self.stopping = holding.stopping
        self.end: End = (self._ends_at(), self.started_at, self.gang.id)
        self.leaves: End = (self._leaves_at(), self.started_at, self.gang.id)
        # Of LAS alone: its queue, its place there, and whether it came down in this very round.
        self.queue = 0
        self.seat: Seat = (self.started_at, 0.0)
        self.demoted = False

    def _ends_at(self) -> float:
        return self.started_at + remaining_s(self.gang) / max(speed(self.gang, self.num_workers or 1), 1e-9)

    def _leaves_at(self) -> float:
        if self.gang.endless:
            return inf
        return self.end[0] if self.gang.limit_s is None else min(self.end[0], self.started_at + self.gang.limit_s)

    def left_s(self, now: float) -> float:
        """How long it still runs; as long as it ran already where nobody knows."""
        return max(0.0, self.end[0] - now) if self.end[0] < inf else max(0.0, now - self.started_at)


class Occupants:
    """All that holds resources."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rules = rulebook
        self._las = rulebook.policy is Policy.LAS
        self.all: dict[str, Occupant] = {}
        self.stopping: dict[str, Occupant] = {}
        self.lasting: dict[str, Occupant] = {}  # those that never end by themselves
        self.priorities: Counter[int] = Counter()
        self.num_elastic = 0
        self._ends: dict[str, list[End]] = {}
        self._lines: dict[float, list[tuple[Key, str]]] = {}
        self._num_seats = 0
        self._demotions: list[tuple[float, float, str, float, int]] = []
        self._demoted: list[str] = []  # in this very round

    def add(self, one: Occupant, before: Occupant | None = None) -> None:
        """One more; ``before`` is what was known of the same run of it."""
        gang = one.gang
        self.all[gang.id] = one
        self.priorities[gang.priority] += 1
        self.num_elastic += gang.max_workers > gang.min_workers
        if one.stopping:
            self.stopping[gang.id] = one
        if gang.endless:
            self.lasting[gang.id] = one
        else:
            insort(self._ends.setdefault(one.pool, []), one.leaves)
        if self._las:
            self._num_seats += 1
            one.seat = (one.started_at, float(self._num_seats))
            one.queue = queue_of(self._rules, gang.attained_gpu_s)
            if before is not None and before.started_at == one.started_at:
                one.queue, one.seat, one.demoted = before.queue, before.seat, before.demoted
            # Told again as it was, it need not be expected twice: it is told again every minute.
            if before is None or (before.started_at, before.used) != (one.started_at, one.used):
                self._expect_demotion(one)
        self._line_up(one)

    def drop(self, gang_id: str) -> Occupant | None:
        """One less; None when it is not known."""
        one = self.all.pop(gang_id, None)
        if one is not None:
            self.stopping.pop(gang_id, None)
            self.num_elastic -= one.gang.max_workers > one.gang.min_workers
            self.priorities[one.gang.priority] -= 1
            if not self.priorities[one.gang.priority]:
                del self.priorities[one.gang.priority]
            if self.lasting.pop(gang_id, None) is None:
                ends = self._ends[one.pool]
                del ends[bisect_left(ends, one.leaves)]
            self._step_out(one)
        return one

    def by_end(self, pool: str) -> Iterator[Occupant]:
        """What ends in a pool: the soonest first, then what nobody knows the end of, the oldest first."""
        return (self.all[gang_id] for _, _, gang_id in self._ends.get(pool, ()))

    def unbounded(self, pool: str) -> Iterator[Occupant]:
        """What nobody knows the end of in a pool, and what has none."""
        yield from (one for one in self.lasting.values() if one.pool == pool)
        ends = self._ends.get(pool, [])
        yield from (self.all[gang_id] for _, _, gang_id in ends[bisect_left(ends, (inf, -inf, "")) :])

    def worst_first(self, now: float) -> Iterator[tuple[Key, Occupant]]:
        """By the keys of a preemptive policy, the one whose turn it is the least first."""
        lines = [self._keyed(line, now) for line in self._lines.values()]
        return lines[0] if len(lines) == 1 else merge(*lines, key=lambda item: item[0], reverse=True)

    def _keyed(self, line: list[tuple[Key, str]], now: float) -> Iterator[tuple[Key, Occupant]]:
        for _, gang_id in reversed(line):
            one = self.all[gang_id]
            yield self.key(one, now), one

    def key(self, one: Occupant, now: float) -> Key:
        """Its place among what runs and waits, by a preemptive policy."""
        return running_key(self._rules, one.gang, one.num_workers, one.end[0] - now, one.queue, one.demoted, one.seat)

    def demote(self, now: float) -> float:
        """Move down the LAS queues what has had its share of the one it is in; returns when the next one does.

        Who comes down stands at the tail of its new queue for one round, behind who waits there; if it still runs after that, it
        stands with those who run, in front of them.
        """
        for gang_id in self._demoted:
            one = self.all.get(gang_id)
            if one is not None and one.demoted:
                self._step_out(one)
                one.demoted = False
                self._line_up(one)
        self._demoted = []
        while self._demotions and self._demotions[0][0] <= now:
            at, _, gang_id, started_at, queue = heappop(self._demotions)
            found = self.all.get(gang_id)
            if found is not None and (found.started_at, found.queue) == (started_at, queue):
                self._step_out(found)
                found.queue += 1
                self._num_seats += 1
                # Behind those who start there at the same moment. Who came down while nobody waited has its place already.
                found.seat, found.demoted = (nextafter(at, inf), float(self._num_seats)), at >= now - _SAME_S
                self._line_up(found)
                if found.demoted:
                    self._demoted.append(gang_id)
                self._expect_demotion(found)
        return self._demotions[0][0] if self._demotions else inf

    def _expect_demotion(self, one: Occupant) -> None:
        at = demoted_at(self._rules, one.gang, one.queue, one.num_workers, one.started_at)
        if at < inf:
            heappush(self._demotions, (at, one.gang.submitted_at, one.gang.id, one.started_at, one.queue))

    def _line_up(self, one: Occupant) -> None:
        lane, key = self._place(one)
        insort(self._lines.setdefault(lane, []), (key, one.gang.id))

    def _step_out(self, one: Occupant) -> None:
        lane, key = self._place(one)
        line = self._lines[lane]
        del line[bisect_left(line, (key, one.gang.id))]
        if not line:
            del self._lines[lane]

    def _place(self, one: Occupant) -> tuple[float, Key]:
        """A lane in which the order does not change with time, and the place in it."""
        if self._las:
            return 0.0, (float(one.queue), float(one.demoted), *one.seat)
        lane = width(one.gang, one.num_workers) if self._rules.policy is Policy.SRSF else 0.0
        return lane, (one.end[0],)

    def moved(self, floor: Floor) -> None:
        """The nodes are others now: take from them what is held, and find the pools again."""
        self._ends = {}
        for one in self.all.values():
            one.pool = pool_of(one.placement, floor, one.pool)
            floor.take(one.placement, one.worker)
            if not one.gang.endless:
                insort(self._ends.setdefault(one.pool, []), one.leaves)


def size(placement: Placement) -> int:
    """How many workers are there."""
    return sum(count for _, count in placement)


def demoted_at(rulebook: Rulebook, gang: Demand, queue: int, num_workers: int, started_at: float) -> float:
    """When a gang has had its share of its LAS queue; `inf` in the last one."""
    limits = rulebook.las_limits_gpu_s
    if queue >= len(limits):
        return inf
    return started_at + (limits[queue] - gang.attained_gpu_s) / max(width(gang, num_workers), 1e-9)


def pool_of(placement: Placement, floor: Floor, unknown: str = "") -> str:
    """The pool that a placement is in, by its first node that is still there."""
    for name, _ in placement:
        place = floor.place_of.get(name)
        if place is not None:
            return floor.ground.nodes[place].pool
    return unknown
