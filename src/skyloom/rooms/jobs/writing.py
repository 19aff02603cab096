"""Writing jobs down: every move of a task passes here, with its event in the same transaction."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from skyloom.core.errors import StorageFull, Unavailable
from skyloom.core.events import JobEnded, Moved, Noted, TaskEnded
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.jobs import rules, settling
from skyloom.rooms.jobs.model import MOVES, Halt, Job, Reason, Task, TaskState
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.pools.model import LOCAL

log = logging.getLogger("skyloom.jobs")
P = TypeVar("P")
R = TypeVar("R")


def write_each(store: Store, work: Callable[[Transaction, P], R], items: Sequence[tuple[str, P]]) -> dict[str, R]:
    """Do the work of every (job id, item) in one transaction; while one of them fails, in halves, so that it holds up nobody else's.

    Returns what was made, by job id; one that failed alone is missing. Raises `StorageFull`, `Unavailable`: those are nobody's own
    fault, and the whole round is done again.
    """
    if not items:
        return {}
    try:
        return store.write(lambda tx: {job_id: work(tx, item) for job_id, item in items})
    except (StorageFull, Unavailable):
        raise
    except Exception:
        if len(items) == 1:
            log.exception("job %s is left as it is; the next round tries again", items[0][0])
            return {}
    half = len(items) // 2
    return write_each(store, work, items[:half]) | write_each(store, work, items[half:])


class JobWriter:
    """Writes what was decided about jobs, and the news of it."""

    def __init__(self, clock: Clock, outbox: Outbox, budgets: Budgets | None = None) -> None:
        self._clock = clock
        self._outbox = outbox
        self._budgets = budgets

    def take_in(self, tx: Transaction, job: Job) -> tuple[Job, tuple[Task, ...]]:
        """Store a new job and queue its first attempt. Raises `JobBeyondBounds`."""
        rules.check_bounds(job)
        job = tx.insert(JOBS, job)
        tasks = tuple(tx.insert(TASKS, task) for task in rules.tasks_of(job, job.submitted_at))
        self._outbox.publish(tx, job.project, job.id, Moved(before="", after=tasks[0].state), job.cause)
        return job, tasks

    def halt(self, tx: Transaction, job: Job, halt: Halt) -> Job:
        """Tell a gang to stop. What never started ends right here; the loop stops the others.

        A halt that is final replaces one that is not, and never the other way round. Raises `StaleVersion` when the job has
        changed since it was read. Nothing happens to a job that has ended.
        """
        tasks = tx.select(TASKS, {"job_id": job.id, "state": rules.LIVE})
        if not tasks or (job.halt and (job.halt.is_final or not halt.is_final)):
            return job
        job = tx.update(JOBS, changed(job, {"halt": halt}))
        gang = rules.newest(job, tx.select(TASKS, {"job_id": job.id}))
        settled = settling.settle(job, gang, {}, halt.at)
        self.moves(tx, job, settled.tasks)
        states = {task.id: task.state for task in gang}
        if all(task.state is states[task.id] for task in settled.tasks):
            # It was stopping already, so no task moves; the loop knows of a job what events name, and has to read this one again.
            self._outbox.publish(tx, job.project, job.id, Noted(message=halt.message), job.cause)
        return job

    def requeue(self, tx: Transaction, job: Job, again: Reason, message: str = "") -> Job:
        """Queue the next attempt of a job, at the age it has."""
        job = tx.update(JOBS, settling.next_attempt(job, again))
        for task in rules.tasks_of(job, self._clock.now(), again, message):
            tx.insert(TASKS, task)
        news = Moved(before="ended", after=TaskState.QUEUED, reason=again or "retry", message=message)
        self._outbox.publish(tx, job.project, job.id, news, job.cause)
        return job

    def settle(self, tx: Transaction, job: Job, made: settling.Settled) -> None:
        """Write what was decided about an attempt, and queue the next where there is to be one. Raises as `moves` does."""
        self.moves(tx, job, made.tasks, comes_again=made.again is not None)
        if made.again is not None:
            self.requeue(tx, job, made.again, job.halt.message if job.halt and made.again else "")

    def moves(self, tx: Transaction, job: Job, tasks: Sequence[Task], *, comes_again: bool = False) -> None:
        """Write changed tasks. Raises `IllegalMove`, `StaleVersion`.

        Args:
            comes_again: the caller queues another attempt in this transaction; otherwise a job whose tasks have all ended is over, and
                gives back what budgets had promised it.
        """
        for task in tasks:
            self._move(tx, job, task)
        ended = any(MOVES.is_terminal(task.state) for task in tasks)
        if ended and not comes_again and not tx.count(TASKS, {"job_id": job.id, "state": rules.LIVE}):
            self._over(tx, job)

    def _over(self, tx: Transaction, job: Job) -> None:
        """A job has ended for good: it gives back what it was promised, and says so unless its array speaks for it."""
        if self._budgets:
            self._budgets.release(tx, job.id)
        if not job.array:
            status = rules.status(job, tx.select(TASKS, {"job_id": job.id}))
            news = JobEnded(state=status.state, reason=status.reason, message=status.message)
            self._outbox.publish(tx, job.project, job.id, news, job.cause)

    def _move(self, tx: Transaction, job: Job, task: Task) -> None:
        before = tx.get(TASKS, task.id)
        if before is not None and before.state is not task.state:
            MOVES.check(task.id, before.state, task.state)
            news = Moved(before=before.state, after=task.state, reason=task.reason, message=task.message)
            self._outbox.publish(tx, task.project, task.job_id, news, job.cause)
        stored = tx.update(TASKS, task)
        if MOVES.is_terminal(stored.state) and stored.started_at is not None:
            self._outbox.publish(tx, task.project, task.job_id, metered(job, stored), job.cause)


def metered(job: Job, task: Task) -> TaskEnded:
    """The life of a task, as costs need it."""
    return TaskEnded(
        job_id=job.id,
        task_id=task.id,
        pool=task.pool or LOCAL,
        resources=job.spec.resources,
        started_at=task.started_at or 0.0,
        ended_at=task.ended_at or 0.0,
        labels={**job.spec.labels, "user": job.submitted_by},
    )
