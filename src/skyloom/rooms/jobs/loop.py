"""The loop of jobs: brings what runs to what is wanted.

Each tick reads one snapshot, looks at the engine, lets `rules` decide, commits, and only then acts. A crash at any point between two
of these is mended by the next tick: what was committed but not done is done again (the engine runs a task id at most once), and
what was done but not committed is seen again.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from skyloom.core.errors import StorageFull, Unavailable
from skyloom.ports.clock import Clock
from skyloom.ports.engine import Engine, Observation, TaskPhase
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.launches import Launches
from skyloom.rooms.jobs.model import Halt, Job, Reason, Task, TaskState
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job, held, queue
from skyloom.rooms.jobs.spending import has_allowance
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter

log = logging.getLogger("skyloom.jobs")
P = TypeVar("P")
R = TypeVar("R")

_IDLE_S, _BUSY_S, _EAGER_S = 1.0, 0.2, 0.03


class JobLoop:
    """Starts, watches and ends the gangs of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        writer: JobWriter,
        engine: Engine,
        plans: Plans,
        waits: Waits,
        budgets: Budgets | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self._engine = engine
        self._capacity = engine.capacity()
        self._waits = waits
        self._budgets = budgets
        self._launches = Launches(store, clock, writer, engine, plans, waits)
        self._tick_lock = threading.Lock()

    def adopt(self) -> None:
        """After a start: end what runs without any record of it (a restored or removed database), keep all the rest."""
        known = self._engine.known()
        seen = self._engine.observe(known)
        alive = [key for key, what in seen.items() if what.phase in (TaskPhase.STARTING, TaskPhase.RUNNING)]
        live = {task.id for task in self._store.read(lambda view: view.select(TASKS, {"state": rules.LIVE}))}
        self._engine.stop([key for key in alive if key not in live], force=True)

    def tick(self) -> float:
        """One round of the loop. Returns the seconds after which the next one is due."""
        with self._tick_lock:
            jobs, tasks = self._store.read(held)
            seen = self._engine.observe([task.id for task in tasks]) if tasks else {}
            self._settle(jobs, tasks, seen)
            started = self._place()
            look_again_s = self._keep_budgets(jobs)
            states = {task.state for task in tasks}
            if started or states & {TaskState.STARTING, TaskState.STOPPING}:
                return _EAGER_S
            return min(_BUSY_S if states else _IDLE_S, look_again_s)

    def _keep_budgets(self, jobs: Mapping[str, Job]) -> float:
        """Tell those to stop that budgets no longer pay for. Returns the seconds until it may have to be looked at again."""
        if self._budgets is None:
            return _IDLE_S
        verdict = self._budgets.judge(own=any(has_allowance(job.spec) for job in jobs.values()))
        for job_id, why in verdict.halts.items():
            halt = Halt(reason=Reason.BUDGET_EXHAUSTED, by="budget", at=self._clock.now(), message=why)
            self._store.write(partial(self._halt, job_id=job_id, halt=halt))
        if verdict.halts:
            return 0.0
        return _IDLE_S if verdict.look_again_s is None else max(0.0, verdict.look_again_s)

    def _halt(self, tx: Transaction, job_id: str, halt: Halt) -> None:
        job = tx.get(JOBS, job_id)
        if job is not None:
            self._writer.halt(tx, job, halt)

    def _settle(self, jobs: Mapping[str, Job], tasks: Sequence[Task], seen: Mapping[str, Observation]) -> None:
        now = self._clock.now()
        decisions = [
            (jobs[job_id], rules.settle(jobs[job_id], gang, seen, now)) for job_id, gang in by_job(tasks).items()
        ]
        to_write = [(job, made) for job, made in decisions if made.tasks or made.again is not None]
        written = self._each(to_write, lambda tx, pair: self._write(tx, *pair))
        agreed = [
            (job, made) for job, made in decisions if written.get(job.id, not (made.tasks or made.again is not None))
        ]
        self._engine.stop([task_id for _, made in agreed for task_id in made.stop])
        for job, made in agreed:
            if made.launch:
                self._launches.launch(job, [task for task in tasks if task.job_id == job.id])

    def _each(self, pairs: Sequence[tuple[Job, P]], work: Callable[[Transaction, tuple[Job, P]], R]) -> dict[str, R]:
        """Do the work of every job in one transaction; when one of them fails, each in its own, so that it stops nobody else's."""
        if not pairs:
            return {}
        try:
            return self._store.write(lambda tx: {pair[0].id: work(tx, pair) for pair in pairs})
        except (StorageFull, Unavailable):
            raise  # nobody's own fault: the whole round is done again
        except Exception as error:
            if len(pairs) == 1:
                log.exception("job %s is left as it is; the next round tries again", pairs[0][0].id)
                return {}
            log.warning("one of %d jobs failed (%s); each is done by itself", len(pairs), error)
        return {job_id: made for pair in pairs for job_id, made in self._each([pair], work).items()}

    def _write(self, tx: Transaction, job: Job, made: rules.Settled) -> bool:
        current = [tx.get(TASKS, task.id) for task in made.tasks]
        fresh = tx.get(JOBS, job.id)
        stale = any(
            then is None or then.version != task.version for then, task in zip(current, made.tasks, strict=True)
        )
        if stale or fresh is None or fresh.version != job.version:
            return False  # somebody was quicker; the next tick decides on what is true then
        self._writer.moves(tx, job, made.tasks, comes_again=made.again is not None)
        if made.again is not None:
            self._writer.requeue(tx, job, made.again, job.halt.message if job.halt and made.again else "")
        return True

    def _place(self) -> int:
        """Start the gangs whose turn it is; returns how many."""
        waiting, jobs, holding = self._store.read(lambda view: (queue(view), *held(view)))
        chosen, left = rules.place(waiting, self._capacity, rules.used_by(jobs, holding))
        self._waits.tell({item.job.id: item.message for item in left}, len(waiting))
        if not chosen:
            return 0
        started = self._each(chosen, lambda tx, pair: self._start(tx, *pair))
        for job, gang in chosen:
            if started.get(job.id):
                self._launches.launch(job, gang)
        return sum(started.values())

    def _start(self, tx: Transaction, job: Job, gang: Sequence[Task]) -> bool:
        fresh = tx.get(JOBS, job.id)
        if fresh is None or fresh.version != job.version:
            return False
        begun = {"state": TaskState.STARTING, "reason": Reason.NONE, "message": ""}
        self._writer.moves(tx, job, [changed(task, begun) for task in gang])
        return True
