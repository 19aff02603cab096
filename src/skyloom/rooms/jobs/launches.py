"""Launching gangs: what goes wrong with one of them stops nobody else's."""

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence

from skyloom.core.errors import SkyloomError, StorageFull, Unavailable
from skyloom.ports.clock import Clock
from skyloom.ports.engine import GangPlan, NoRoomNow
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.jobs.model import Job, Reason, Task, TaskState
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import LOCAL

log = logging.getLogger("skyloom.jobs")
_MOST_FAULTS = 5


class Launches:
    """Hands gangs whose start is written down to their engine; gives up on those that never can be."""

    def __init__(self, store: Store, clock: Clock, writer: JobWriter, fleet: Fleet, plans: Plans, waits: Waits) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self._fleet = fleet
        self._plans = plans
        self._waits = waits
        # How often in a row launching a job raised what it should not, by job id: forgotten at a restart, without harm.
        self._faults: Counter[str] = Counter()

    def launch(self, job: Job, gang: Sequence[Task]) -> None:
        """Start the tasks of an attempt that are meant to run."""
        # The intent stands whatever goes wrong; the next tick finds the tasks absent and launches them again.
        pool = gang[0].pool or LOCAL
        try:
            engine, about = self._fleet.engine(pool), self._fleet.links()[pool].pool
            tasks = tuple(self._plans.task(job, task, about) for task in sorted(gang, key=lambda task: task.rank))
            engine.launch(GangPlan(gang_id=f"{job.id}.{job.attempt}", tasks=tasks))
            self._faults.pop(job.id, None)
            self._waits.hold_up(job.id, "")
        except (NoRoomNow, StorageFull) as error:
            self._waits.hold_up(job.id, str(error))
        except Unavailable as error:
            self._fleet.suspect(pool, error)
            self._waits.hold_up(job.id, str(error))
        except Exception as error:
            log.exception("job %s cannot be launched; the other jobs go on", job.id)
            self._faults[job.id] += 1
            if self._faults[job.id] >= _MOST_FAULTS:
                self._give_up(job, gang, error)

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
