"""The scheduler: told what there is and what happened, it says what to do now. Deterministic; no clock of its own."""

from collections.abc import Iterable, Mapping
from math import inf

from skyloom.rooms.scheduling.fairness import Standings
from skyloom.rooms.scheduling.model import (
    Admission,
    Cause,
    Decision,
    Demand,
    Eviction,
    Holding,
    Node,
    Policy,
    Rulebook,
    Wait,
)
from skyloom.rooms.scheduling.occupants import Occupant, Occupants, pool_of
from skyloom.rooms.scheduling.placement import Floor, Ground
from skyloom.rooms.scheduling.policies import Key, queue_of, waiting_key
from skyloom.rooms.scheduling.queue import Queue
from skyloom.rooms.scheduling.round import Round
from skyloom.rooms.scheduling.waits import GroupWait, explain, explain_groups


class Scheduler:
    """One cloud's queue and what its nodes hold. Not thread-safe.

    The caller tells facts; `decide` changes none of them: a decided start is in force once `hold` is told, a stop once the gang
    is told to be stopping (`hold` again, with ``stopping``) and then `release`d and `submit`ted again, with the service it has
    attained and the time it still needs. Every method costs O(log n) or less, but `set_nodes`, which costs what there is, and `decide`,
    which costs what can start or move now and how many kinds of gangs wait, not how many wait.
    """

    def __init__(self, rulebook: Rulebook, nodes: Iterable[Node] = ()) -> None:
        self._rules = rulebook
        self._floor = Floor(Ground(nodes))
        self._queue = Queue(rulebook, self._floor)
        self._occupants = Occupants(rulebook)
        self._standings = Standings(rulebook, self._floor.ground.total)
        self._now = -inf
        self._behind: Mapping[tuple[object, ...], GroupWait] = {}
        self._resuming: dict[str, int] = {}  # with how many workers a resized gang was told to go on
        self._came_back: dict[str, Key] = {}  # where a stopped gang goes on waiting in its LAS queue

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """The nodes there are now; what is held on a node that is gone stays held until its gang is released."""
        self._floor = Floor(Ground(nodes))
        self._standings.total = self._floor.ground.total
        self._occupants.moved(self._floor)
        self._queue.moved(self._floor, self._now)

    def submit(self, gang: Demand) -> None:
        """A gang waits from now on. Telling it again replaces what was told."""
        key = self._came_back.get(gang.id)
        if key is not None and key[0] != queue_of(self._rules, gang.attained_gpu_s):
            key = None
        self._queue.add(gang, max(self._now, gang.submitted_at), key, gang.id in self._resuming)

    def withdraw(self, gang_id: str) -> None:
        """A gang waits no more. Unknown: nothing happens."""
        self._queue.drop(gang_id)
        self._resuming.pop(gang_id, None)
        self._came_back.pop(gang_id, None)

    def hold(self, holding: Holding) -> None:
        """A gang runs (and waits no more), or its holding changed."""
        gang = holding.demand
        before = self._return(gang.id, holding.started_at)
        if holding.stopping:
            self._queue.drop(gang.id)
        else:
            self.withdraw(gang.id)
        one = Occupant(holding, pool_of(holding.placement, self._floor))
        self._floor.take(one.placement, one.worker)
        self._standings.charge(gang, one.used, 1, one.started_at)
        self._occupants.add(one, before)

    def release(self, gang_id: str, now: float) -> None:
        """A gang gave back what it held; its project's use is charged until ``now``."""
        one = self._return(gang_id, now)
        if one is not None and one.stopping and self._rules.policy is Policy.LAS:
            tail, since = (1.0, now) if one.demoted else (0.0, -now)
            self._came_back[gang_id] = waiting_key(one.gang, one.queue, tail, since, one.seat)

    def _return(self, gang_id: str, at: float) -> Occupant | None:
        one = self._occupants.drop(gang_id)
        if one is not None:
            self._floor.give(one.placement, one.worker)
            self._standings.charge(one.gang, one.used, -1, at)
        return one

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        """What to start and to stop now, and why the first ``num_explained`` of the others wait."""
        self._now = max(self._now, now)
        again_at = min(self._queue.turn(now), self._occupants.demote(now) if len(self._queue) else inf)
        turn = Round(self._rules, self._floor, self._queue, self._occupants, self._standings, self._resuming, now)
        waits: tuple[Wait, ...] = ()
        if num_explained or not turn.idle():
            with turn.on_trial():
                turn.run(explained=num_explained > 0)
                waits = explain(turn, num_explained) if num_explained else ()
                if num_explained:
                    self._behind = explain_groups(turn) if len(waits) >= num_explained else {}
        again_at = min(again_at, turn.again_at())
        self._remember(turn.evictions)
        return Decision(
            admissions=tuple(
                Admission(gang=start.gang.id, placement=start.placement, backfill=start.gang.id in turn.overtook)
                for start in turn.starts
            ),
            evictions=tuple(turn.evictions),
            waits=waits,
            again_at=again_at if again_at < inf else None,
        )

    def why_behind(self, gang_id: str) -> Wait | None:
        """Why a gang waits that was too far back to be explained, as the last explained round has it; None when nobody knows.

        May be called from any thread: what was said is replaced, never changed.
        """
        place = self._queue.group_of(gang_id)
        found = self._behind.get(place[0]) if place is not None else None
        if place is None or found is None:
            return None
        return found.mine if place[1] == found.owner else found.others

    def _remember(self, evictions: Iterable[Eviction]) -> None:
        for eviction in evictions:
            if eviction.why in (Cause.SHRINK, Cause.GROW) and eviction.num_workers is not None:
                self._resuming[eviction.gang] = eviction.num_workers
            else:
                # It stops for another: it has to stand behind that one when it is back, whatever it was promised before.
                self._resuming.pop(eviction.gang, None)
