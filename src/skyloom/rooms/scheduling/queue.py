"""What waits, in groups of gangs that are alike: if the first of a group does not fit, none does, and one try answers for all."""

from collections.abc import Sized
from heapq import heapify, heappop, heappush, nsmallest
from math import inf

from skyloom.rooms.scheduling.model import Demand, Policy, Renting, Rulebook
from skyloom.rooms.scheduling.placement import Floor, Shape
from skyloom.rooms.scheduling.policies import Key, ends_within_s, key_of, rents_from, turns_at

# A gang in line: its key, a number that tells entries apart, itself.
Entry = tuple[Key, int, Demand]
_SLACK = 64
_MOST_UNUSED = 1_000


class Group:
    """Gangs of one shape and priority, and of one project where projects are told apart.

    A gang that leaves stays in the heaps until it comes to their top, or until most of a heap is of such: each costs O(log n) once.
    """

    __slots__ = ("_brief", "_entries", "_line", "key", "priority", "project", "resumed", "shape")

    def __init__(self, key: tuple[object, ...], project: str, shape: Shape, priority: int, resumed: bool) -> None:
        self.key = key
        self.project = project
        self.shape = shape
        self.priority = priority
        self.resumed = resumed
        self._line: list[Entry] = []
        self._entries: dict[str, Entry] = {}
        self._brief: list[tuple[float, int, Entry]] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """A gang, at its place; also to put back what was taken."""
        self._entries[entry[2].id] = entry
        heappush(self._line, entry)
        if _mostly_gone(self._line, self._entries):
            self._line = sorted(self._entries.values())
        if self._brief is not None and (within_s := ends_within_s(entry[2])) < inf:
            heappush(self._brief, (within_s, entry[1], entry))
            if _mostly_gone(self._brief, self._entries):
                self._brief = None

    def drop(self, gang_id: str) -> None:
        """Without this gang."""
        self._entries.pop(gang_id, None)

    def first(self) -> Entry | None:
        """The first in line."""
        line = self._line
        while line:
            entry = line[0]
            if self._entries.get(entry[2].id) is entry:
                return entry
            heappop(line)
        return None

    def briefest(self) -> Entry | None:
        """The one that is known to run the shortest, which is the one to overtake with."""
        if self._brief is None:
            bounded = ((ends_within_s(entry[2]), entry[1], entry) for entry in self._entries.values())
            self._brief = [item for item in bounded if item[0] < inf]
            heapify(self._brief)
        brief = self._brief
        while brief:
            entry = brief[0][2]
            if self._entries.get(entry[2].id) is entry:
                return entry
            heappop(brief)
        return None

    def in_line(self, limit: int) -> list[Entry]:
        """The first so many."""
        return nsmallest(limit, self._entries.values())


class Queue:
    """All that waits."""

    def __init__(self, rulebook: Rulebook, floor: Floor) -> None:
        self._rules = rulebook
        self._floor = floor
        self._shapes: dict[tuple[object, ...], Shape] = {}
        self._groups: dict[tuple[object, ...], Group] = {}
        self._waiting: dict[str, tuple[Group, Entry, bool]] = {}
        self._turns: list[tuple[float, int, str]] = []
        self._num_told = 0
        self.num_fixed = 0  # that may not be stopped once they run
        self._fair = rulebook.policy is Policy.FAIR

    def __len__(self) -> int:
        return len(self._waiting)

    def project(self, gang_id: str) -> str | None:
        """Whose gang that waits; None for one that does not."""
        known = self._waiting.get(gang_id)
        return known[1][2].project if known is not None else None

    def group_of(self, gang_id: str) -> tuple[tuple[object, ...], str] | None:
        """The key of the group that a gang waits in, and its project; None for one that does not. One look, from any thread."""
        known = self._waiting.get(gang_id)
        return (known[0].key, known[1][2].project) if known is not None else None

    def groups(self) -> list[Group]:
        """All that have somebody in line."""
        return [group for group in self._groups.values() if len(group)]

    def add(self, gang: Demand, now: float, key: Key | None = None, resumed: bool = False) -> None:
        """A gang waits; ``key`` where the policy's own is not meant, ``resumed`` for one that was promised to go on."""
        self.drop(gang.id)
        self._num_told += 1
        group = self._group(gang, now, resumed)
        entry = (key or key_of(self._rules, gang, now), self._num_told, gang)
        group.add(entry)
        self._waiting[gang.id] = (group, entry, resumed)
        self.num_fixed += not gang.preemptible
        turn = turns_at(self._rules, gang, now)
        if turn < inf:
            heappush(self._turns, (turn, self._num_told, gang.id))
            if _mostly_gone(self._turns, self._waiting):
                self._turns = sorted(turn for turn in self._turns if self._stands(turn))

    def drop(self, gang_id: str) -> None:
        """It waits no more; unknown: nothing happens."""
        known = self._waiting.pop(gang_id, None)
        if known is not None:
            group = known[0]
            group.drop(gang_id)
            self.num_fixed -= not known[1][2].preemptible
            if not len(group):
                del self._groups[group.key]

    def turn(self, now: float) -> float:
        """Move the gangs whose place changed with time; returns when the next one does."""
        while self._turns and self._turns[0][0] <= now:
            turn = heappop(self._turns)
            if self._stands(turn):
                self._look_again(turn[2], now)
        return self._turns[0][0] if self._turns else inf

    def moved(self, floor: Floor, now: float) -> None:
        """The nodes are others now: gangs with a deadline may have to rent, or need not any more."""
        self._floor = floor
        if self._rules.renting is Renting.FOR_DEADLINES:
            for gang_id, (_, entry, _) in list(self._waiting.items()):
                if entry[2].deadline_at is not None:
                    self._look_again(gang_id, now)

    def shape(self, gang: Demand, now: float) -> Shape:
        """The shape of a gang, and where it may run by now; alike gangs have the very same."""
        return self._shape(gang, self._rents(gang, now))

    def _stands(self, turn: tuple[float, int, str]) -> bool:
        """Whether a turn is that of a gang as it was told last."""
        known = self._waiting.get(turn[2])
        return known is not None and known[1][1] == turn[1]

    def _look_again(self, gang_id: str, now: float) -> None:
        """Find the group of a gang again. Its place in line is kept where the policy's places do not change with time."""
        _, entry, resumed = self._waiting[gang_id]
        self.add(entry[2], now, None if self._rules.policy is Policy.DEADLINE else entry[0], resumed)

    def _rents(self, gang: Demand, now: float) -> bool:
        """Whether it may run on rented nodes by now."""
        if self._rules.renting is Renting.FREELY:
            return True
        if gang.deadline_at is None:
            return False
        if rents_from(self._rules, gang) <= now <= gang.deadline_at:
            return True
        # What no owned node can ever hold need not wait for one.
        return not self._floor.ground.can_ever(self._shape(gang, False))

    def _group(self, gang: Demand, now: float, resumed: bool) -> Group:
        shape = self.shape(gang, now)
        project = gang.project if self._fair or gang.project in self._rules.quotas else ""
        key = (project, shape, gang.priority, resumed)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, project, shape, gang.priority, resumed)
        return group

    def _shape(self, gang: Demand, renting: bool) -> Shape:
        need = gang.resources
        labels = tuple(sorted(gang.labels.items())) if gang.labels else ()
        key = (need.gpus, need.cpus, need.memory_bytes, gang.min_workers, gang.max_workers, renting, gang.pools, labels)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) > _MOST_UNUSED + 2 * len(self._groups):
                self._forget_shapes()
            shape = self._shapes[key] = Shape(gang, renting)
        return shape

    def _forget_shapes(self) -> None:
        """Keep only the shapes of who waits: there is no end to the sizes that gangs may have."""
        used = {group.shape for group in self._groups.values()}
        self._shapes = {key: shape for key, shape in self._shapes.items() if shape in used}
        self._floor.ground.forget()


def _mostly_gone(heap: Sized, live: Sized) -> bool:
    """Whether a heap from which nothing is taken but its top holds so much of the past that it is to be made anew."""
    return len(heap) > 2 * len(live) + _SLACK
