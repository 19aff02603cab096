"""The scheduler: told what there is and what happened, it says what to do now. Deterministic; no clock of its own."""

from collections.abc import Iterable
from math import inf

from skyloom.rooms.scheduling.fairness import Standings
from skyloom.rooms.scheduling.model import Admission, Decision, Demand, Holding, Node, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants, pool_of
from skyloom.rooms.scheduling.placement import Floor
from skyloom.rooms.scheduling.queue import Queue
from skyloom.rooms.scheduling.round import Round
from skyloom.rooms.scheduling.waits import explain


class Scheduler:
    """One cloud's queue and what its nodes hold. Not thread-safe.

    The caller tells facts; `decide` changes none of them: a decided start is in force once `hold` is told, a stop once the gang
    is told to be stopping and then `release`d and `submit`ted again. Every method costs O(log n) or less, but `set_nodes`, which costs
    what there is, and `decide`, which costs what can start or move now and how many kinds of gangs wait, not how many wait.
    """

    def __init__(self, rulebook: Rulebook, nodes: Iterable[Node] = ()) -> None:
        self._rules = rulebook
        self._floor = Floor(nodes)
        self._queue = Queue(rulebook)
        self._occupants = Occupants()
        self._standings = Standings(rulebook, self._floor.total)
        self._now = -inf

    def set_nodes(self, nodes: Iterable[Node]) -> None:
        """The nodes there are now; what is held on a node that is gone stays held until its gang is released."""
        self._floor = Floor(nodes)
        self._standings.total = self._floor.total
        self._occupants.moved(self._floor)

    def submit(self, gang: Demand) -> None:
        """A gang waits from now on. Telling it again replaces what was told."""
        self._queue.add(gang, max(self._now, gang.submitted_at))

    def withdraw(self, gang_id: str) -> None:
        """A gang waits no more. Unknown: nothing happens."""
        self._queue.drop(gang_id)

    def hold(self, holding: Holding) -> None:
        """A gang runs (and waits no more), or its holding changed."""
        gang = holding.demand
        self._queue.drop(gang.id)
        self._return(gang.id, holding.started_at)
        run = Occupant(holding, pool_of(holding.placement, self._floor))
        self._floor.take(run.placement, run.worker)
        self._standings.charge(gang, run.used, 1, run.started_at)
        self._occupants.add(run)

    def release(self, gang_id: str, now: float) -> None:
        """A gang gave back what it held; its project's use is charged until ``now``."""
        self._return(gang_id, now)

    def _return(self, gang_id: str, at: float) -> None:
        run = self._occupants.drop(gang_id)
        if run is not None:
            self._floor.give(run.placement, run.worker)
            self._standings.charge(run.gang, run.used, -1, at)

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        """What to start and to stop now, and why the first ``num_explained`` of the others wait."""
        self._now = max(self._now, now)
        again_at = self._queue.turn(now)
        turn = Round(self._rules, self._floor, self._queue, self._occupants, self._standings, now)
        with turn.on_trial():
            turn.run()
            waits = explain(turn, num_explained) if num_explained else ()
        return Decision(
            admissions=tuple(
                Admission(gang=entry[2].id, placement=run.placement, backfill=overtook)
                for _, entry, run, overtook in turn.started
            ),
            evictions=tuple(turn.evictions),
            waits=waits,
            again_at=again_at if again_at < inf else None,
        )
