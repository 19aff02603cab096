"""What ran on a pool that is gone for good: ended as lost, in the transaction that removes the pool.

The tokens of these tasks are good no more once this is written (`Jobs.project_of_live_task`), so that what comes back after all can
change nothing here; and should its pool be added again by its name, the loop ends it (`JobLoop.adopt`).
"""

from skyloom.ports.clock import Clock
from skyloom.ports.engine import EndReason, Observation, TaskPhase
from skyloom.ports.store import Transaction
from skyloom.rooms.jobs import rules, settling
from skyloom.rooms.jobs.model import Job, Task
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.reading import jobs_of
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.ports import GivenUp


class Stranded:
    """Gives up the tasks of a pool; a `rooms.pools.ports.Abandon`."""

    def __init__(self, clock: Clock, writer: JobWriter) -> None:
        self._clock = clock
        self._writer = writer

    def __call__(self, tx: Transaction, pool: str, heard_at: float | None, message: str) -> GivenUp:
        held = [task for task in tx.select(TASKS, {"state": rules.HOLDING}) if task.pool == pool]
        lost = {task.id: _lost(task, heard_at, message) for task in held}
        again = [self._settle(tx, job, lost) for job in jobs_of(tx, held).values()]
        return GivenUp(len(held), sum(again))

    def _settle(self, tx: Transaction, job: Job, lost: dict[str, Observation]) -> bool:
        """A gang never spans pools, so all of it that has not ended is lost. True when the job is queued again."""
        gang = rules.newest(job, tx.select(TASKS, {"job_id": job.id}))
        made = settling.settle(job, gang, lost, self._clock.now())
        self._writer.settle(tx, job, made)
        return made.again is not None


def _lost(task: Task, heard_at: float | None, message: str) -> Observation:
    """As if its engine had said so; what began after the pool was last heard of ended as it began."""
    began = task.started_at or task.created_at
    return Observation(
        task_id=task.id,
        phase=TaskPhase.ENDED,
        reason=EndReason.NODE_LOST,
        ended_at=max(began, heard_at or 0.0),
        peak_memory_bytes=task.peak_memory_bytes,
        message=message,
    )
