"""Launching gangs: what goes wrong with one of them stops nobody else's, and what takes long on one pool holds up no other."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence, Set
from queue import Empty, SimpleQueue
from typing import NamedTuple

from skyloom.core.errors import SkyloomError, StorageFull, Unavailable
from skyloom.ports.clock import Clock
from skyloom.ports.engine import GangPlan, NoRoomNow
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.jobs.hands import Hands
from skyloom.rooms.jobs.model import Job, Reason, Task, TaskState
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import LOCAL

log = logging.getLogger("skyloom.jobs")
_MOST_FAULTS = 5


class Launch(NamedTuple):
    """A gang that is handed to its pool. ``trouble`` is what came of it, None for none."""

    job: Job
    gang: tuple[Task, ...]
    pool: str
    trouble: Exception | None = None


class Launches:
    """Hands gangs whose start is written down to their engine; gives up on those that never can be.

    Sending a gang to another machine takes as long as its bytes do, so hands do that. They decide nothing: what came of it is looked
    at by whoever calls `launch`, `collect` and `under_way`, which is one thread, the loop's.

    Attributes:
        done: set by the composition root; called, from any thread, when there is something to collect.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        writer: JobWriter,
        fleet: Fleet,
        plans: Plans,
        waits: Waits,
        hands: Hands,
    ) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self._fleet = fleet
        self._plans = plans
        self._waits = waits
        self._hands = hands
        self.done: Callable[[], None] = lambda: None
        # How often in a row launching a job raised what it should not, by job id: forgotten at a restart, without harm.
        self._faults: Counter[str] = Counter()
        self._under_way: dict[str, frozenset[str]] = {}  # gang → its tasks
        self._came: SimpleQueue[Launch] = SimpleQueue()

    def launch(self, job: Job, gang: Sequence[Task]) -> None:
        """Start the tasks of an attempt that are meant to run; nothing happens while that is under way."""
        # The intent stands whatever goes wrong; the next tick finds the tasks absent and launches them again.
        asked = Launch(job, tuple(sorted(gang, key=lambda task: task.rank)), gang[0].pool or LOCAL)
        if asked.pool == LOCAL:
            self._take(self._tried(asked))
        elif _gang_id(job) not in self._under_way:
            self._hands.give(asked.pool, lambda: self._carry_out(asked))
            self._under_way[_gang_id(job)] = frozenset(task.id for task in gang)
            self.collect()

    def under_way(self) -> Set[str]:
        """Ids of the tasks that are being handed to their pools now. What an engine says of these means nothing: one that is absent
        may be running a moment later. Ask before the engine is asked."""
        return frozenset().union(*self._under_way.values())

    def collect(self) -> None:
        """Look at what has come of launches."""
        with contextlib.suppress(Empty):
            while True:
                came = self._came.get_nowait()
                self._under_way.pop(_gang_id(came.job), None)
                self._take(came)

    def close(self) -> None:
        """Hand out nothing more. What was not begun is launched by the next control plane."""
        self._hands.close()

    # --- in the hands of its pool ----------------------------------------------------------------------------------------------

    def _carry_out(self, asked: Launch) -> None:
        self._came.put(self._tried(asked))
        self.done()

    def _tried(self, asked: Launch) -> Launch:
        try:
            if asked.pool == LOCAL or self._is_wanted(asked):
                self._send(*asked[:3])
        except Exception as trouble:
            return asked._replace(trouble=trouble)
        return asked

    def _is_wanted(self, asked: Launch) -> bool:
        """Whether it is still to start: its turn may have come long after it was asked for."""
        starting = {"job_id": asked.job.id, "state": TaskState.STARTING}
        found = self._store.read(lambda view: view.select(TASKS, starting))
        return any(task.attempt == asked.job.attempt for task in found)

    def _send(self, job: Job, gang: Sequence[Task], pool: str) -> None:
        engine, about = self._fleet.engine(pool), self._fleet.links()[pool].pool
        tasks = tuple(self._plans.task(job, task, about) for task in gang)
        engine.launch(GangPlan(gang_id=_gang_id(job), tasks=tasks))

    # --- in the loop -----------------------------------------------------------------------------------------------------------

    def _take(self, came: Launch) -> None:
        """Draw the conclusions from a launch."""
        job, trouble = came.job, came.trouble
        if trouble is None:
            self._faults.pop(job.id, None)
            self._waits.hold_up(job.id, "")
        elif isinstance(trouble, Unavailable | StorageFull):
            if isinstance(trouble, Unavailable) and not isinstance(trouble, NoRoomNow):
                self._fleet.suspect(came.pool, trouble)
            self._waits.hold_up(job.id, str(trouble))
        else:
            log.error("job %s cannot be launched; the other jobs go on", job.id, exc_info=trouble)
            self._faults[job.id] += 1
            if self._faults[job.id] >= _MOST_FAULTS:
                self._give_up(job, came.gang, trouble)

    def _give_up(self, job: Job, gang: Sequence[Task], error: Exception) -> None:
        """End an attempt that cannot be launched for a reason that time does not mend."""
        del self._faults[job.id]
        with contextlib.suppress(SkyloomError):
            self._fleet.engine(gang[0].pool).stop([task.id for task in gang], force=True)
        message = str(error) if isinstance(error, SkyloomError) else "the log of the control plane says why"
        end = {
            "state": TaskState.FAILED,
            "reason": Reason.LAUNCH_FAILED,
            "message": f"could not be launched: {message}",
            "ended_at": self._clock.now(),
        }

        def work(tx: Transaction) -> None:
            for task in gang:
                stored = tx.get(TASKS, task.id)
                if stored is not None and stored.state is TaskState.STARTING:
                    self._writer.moves(tx, job, [changed(stored, end)])

        self._store.write(work)


def _gang_id(job: Job) -> str:
    return f"{job.id}.{job.attempt}"
