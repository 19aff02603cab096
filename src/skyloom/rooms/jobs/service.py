"""The service of jobs: takes them in, and in a loop brings what runs to what is wanted.

Each tick reads one snapshot, looks at the engine, lets `rules` decide, commits, and only then acts. A crash at any point between two
of these is mended by the next tick: what was committed but not done is done again (the engine runs a task id at most once), and
what was done but not committed is seen again.
"""

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from skyloom.core.errors import SkyloomError, StorageFull, Unavailable
from skyloom.core.events import Moved, TaskEnded
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.engine import Engine, GangPlan, Observation, PythonCall, PythonFile, TaskPhase
from skyloom.ports.store import Snapshot, Store, Transaction, changed, page
from skyloom.rooms.jobs import environments, model, rules
from skyloom.rooms.jobs.model import MOVES, Job, JobStatus, Task, TaskState
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.ports import JOBS, TASKS

log = logging.getLogger("skyloom.jobs")
P = TypeVar("P")
R = TypeVar("R")

_IDLE_S, _BUSY_S, _EAGER_S = 1.0, 0.2, 0.03
_LOOKAHEAD = 64
_MOST_LAUNCHES = 5


class Jobs:
    """Jobs of all projects on one pool."""

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, outbox: Outbox, engine: Engine, blobs: Blobs, plans: Plans
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._engine = engine
        self._blobs = blobs
        self._plans = plans
        self._capacity = engine.capacity()
        # What queued jobs wait for, by job id: said by the last tick, never stored, lost without harm.
        self._waiting: dict[str, str] = {}
        # How often launching a job raised what it should not, by job id: forgotten at a restart, without harm too.
        self._launch_faults: Counter[str] = Counter()
        self._tick_lock = threading.Lock()

    def handlers(self) -> Handlers:
        return {
            model.SubmitJob: Change(self.submit, before=self.check_asked),
            model.GetJob: Query(self.get),
            model.ListJobs: Query(self.list),
            model.CancelJob: Change(self.cancel),
            model.ReadLog: Query(self.read_log),
            model.ReadResult: Query(self.read_result),
        }

    # Taking in

    def check_asked(self, ask: model.SubmitJob, by: Caller) -> None:
        """`check`, for a job that somebody describes himself."""
        rules.check_labels(ask.spec.labels)
        self.check(ask, by)

    def check(self, ask: model.SubmitJob, by: Caller) -> None:
        """Refuse what can never run: more than the pool has, or files that were not uploaded."""
        spec = ask.spec
        missing = spec.resources.times(spec.num_workers).shortfall(self._capacity)
        if missing:
            raise model.ImpossibleRequest(
                f"The job can never start here: it {', '.join(missing)} in all.".replace(" free", ""),
                next_action="Ask for less, or for fewer workers; skyloom status shows what this machine has.",
            )
        absent = [path for path, digest in spec.files.items() if self._blobs.size(digest) is None]
        if absent:
            raise model.FileMissing(
                f"The bytes of {absent[0]!r} were not uploaded.",
                next_action="Upload the file first, then submit again.",
            )
        if isinstance(spec.entry, PythonFile | PythonCall) and spec.entry.path not in spec.files:
            raise model.FileMissing(
                f"The job is to run {spec.entry.path!r}, which is not among its files.",
                next_action="Add it to `files` under that very path.",
            )
        environments.check(spec.python, self._engine.abilities)

    def submit(self, tx: Transaction, ask: model.SubmitJob, by: Caller) -> JobStatus:
        now = self._clock.now()
        job = tx.insert(
            JOBS,
            Job(
                id=self._ids.new("job"),
                project=by.project,
                spec=ask.spec,
                submitted_at=now,
                submitted_by=by.principal,
            ),
        )
        tasks = [tx.insert(TASKS, task) for task in rules.tasks_of(job, now)]
        self._outbox.publish(tx, job.project, job.id, Moved(before="", after=TaskState.QUEUED))
        return rules.status(job, tasks)

    def cancel(self, tx: Transaction, ask: model.CancelJob, by: Caller) -> JobStatus:
        job = self.find(tx, ask.job_id, by.project)
        tasks = tx.select(TASKS, {"job_id": job.id})
        if not job.cancelled_by and rules.status(job, tasks).state not in model.ENDED:
            job = tx.update(JOBS, changed(job, {"cancelled_by": by.principal, "cancelled_at": self._clock.now()}))
            # A gang that was never started ends right here; the loop stops the others.
            settled = rules.settle(job, rules.newest(job, tasks), {}, self._clock.now())
            for task in settled.tasks:
                self._move(tx, job, task)
            tasks = tx.select(TASKS, {"job_id": job.id})
        return rules.status(job, tasks)

    # Looking

    def find(self, view: Snapshot, job_id: str, project: str) -> Job:
        """Return a job of a project. Raises `JobMissing`, for somebody else's job just the same."""
        job = view.get(JOBS, job_id)
        if job is None or job.project != project:
            raise model.JobMissing(f"There is no job {job_id}.", next_action="List yours: skyloom job list.")
        return job

    def status(self, view: Snapshot, job_id: str, project: str) -> JobStatus:
        """Return a job and what has become of it. Raises `JobMissing`."""
        job = self.find(view, job_id, project)
        return rules.status(job, view.select(TASKS, {"job_id": job.id}), self._waits(job))

    def _waits(self, job: Job) -> str:
        """What a job waits for, should it be queued."""
        behind = f"behind {len(self._waiting)} others or more" if len(self._waiting) >= _LOOKAHEAD // 2 else ""
        return self._waiting.get(job.id, behind)

    def get(self, ask: model.GetJob, by: Caller) -> JobStatus:
        return self._store.read(lambda view: self.status(view, ask.job_id, by.project))

    def list(self, ask: model.ListJobs, by: Caller) -> Page[JobStatus]:
        def work(view: Snapshot) -> Page[JobStatus]:
            where: dict[str, str | tuple[str, ...]] = {"project": by.project}
            if ask.live:
                live = {task.job_id for task in view.select(TASKS, {"project": by.project, "state": rules.LIVE})}
                newest = sorted((key for key in live if ask.cursor is None or key < ask.cursor), reverse=True)
                where["id"] = tuple(newest[: ask.limit + 1])  # a query takes only so many values
            found = view.select(JOBS, where, newest_first=True, after=ask.cursor, limit=ask.limit + 1)
            jobs = page(found, ask.limit)
            tasks = _by_job(view.select(TASKS, {"job_id": tuple(job.id for job in jobs.items)}))
            items = [rules.status(job, tasks[job.id], self._waits(job)) for job in jobs.items]
            return Page(items=tuple(items), next_cursor=jobs.next_cursor)

        return self._store.read(work)

    def read_log(self, ask: model.ReadLog, by: Caller) -> model.LogChunk:
        status = self._store.read(lambda view: self.status(view, ask.job_id, by.project))
        attempt = ask.attempt or status.job.attempt
        part = self._engine.read_log(f"{ask.job_id}.{attempt}.{ask.rank}", ask.offset, ask.limit)
        over = status.state in model.ENDED or attempt < status.job.attempt
        at_end = part.next_offset >= part.total_bytes
        text, used = _whole_characters(part.content, final=over and at_end)
        return model.LogChunk(text=text, next_offset=ask.offset + used, ended=over and at_end)

    def read_result(self, ask: model.ReadResult, by: Caller) -> model.CallResult:
        status = self._store.read(lambda view: self.status(view, ask.job_id, by.project))
        found = self._engine.read_result(f"{ask.job_id}.{status.job.attempt}.0")
        if found is None or status.state not in model.ENDED:
            return model.CallResult(ready=False)
        return model.CallResult(ready=True, result_json=found.decode("utf-8", "replace"))

    def project_of_live_task(self, task_id: str) -> str | None:
        """The project of a task that may still speak: it has not ended, and no newer attempt has begun."""

        def work(view: Snapshot) -> str | None:
            task = view.get(TASKS, task_id)
            job = view.get(JOBS, task.job_id) if task and not MOVES.is_terminal(task.state) else None
            return job.project if job and task and job.attempt == task.attempt else None

        return self._store.read(work)

    def unfinished(self, view: Snapshot, project: str, now: float) -> tuple[TaskEnded, ...]:
        """The started tasks of a project that have not ended, as if they ended now; for pricing what still runs."""
        live = view.select(TASKS, {"project": project, "state": rules.LIVE})
        started = [task for task in live if task.started_at is not None]
        jobs = _jobs_of(view, started)
        return tuple(_metered(jobs[task.job_id], changed(task, {"ended_at": now})) for task in started)

    # The loop

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
            jobs, tasks = self._store.read(_held)
            seen = self._engine.observe([task.id for task in tasks]) if tasks else {}
            self._settle(jobs, tasks, seen)
            started = self._place()
            states = {task.state for task in tasks}
            if started or states & {TaskState.STARTING, TaskState.STOPPING}:
                return _EAGER_S
            return _BUSY_S if states else _IDLE_S

    def _settle(self, jobs: Mapping[str, Job], tasks: Sequence[Task], seen: Mapping[str, Observation]) -> None:
        now = self._clock.now()
        decisions = [
            (jobs[job_id], rules.settle(jobs[job_id], gang, seen, now)) for job_id, gang in _by_job(tasks).items()
        ]
        to_write = [(job, made) for job, made in decisions if made.tasks or made.retry]
        self._each(to_write, lambda tx, pair: self._write(tx, *pair, now))
        self._engine.stop([task_id for _, made in decisions for task_id in made.stop])
        for job, made in decisions:
            if made.launch:
                self._launch(job, [task for task in tasks if task.job_id == job.id])

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

    def _write(self, tx: Transaction, job: Job, made: rules.Settled, now: float) -> None:
        current = [tx.get(TASKS, task.id) for task in made.tasks]
        fresh = tx.get(JOBS, job.id)
        stale = any(
            then is None or then.version != task.version for then, task in zip(current, made.tasks, strict=True)
        )
        if stale or fresh is None or fresh.version != job.version:
            return  # somebody was quicker; the next tick decides on what is true then
        for task in made.tasks:
            self._move(tx, job, task)
        if made.retry:
            job = tx.update(JOBS, changed(job, {"attempt": job.attempt + 1}))
            for task in rules.tasks_of(job, now):
                tx.insert(TASKS, task)
            news = Moved(before=TaskState.FAILED, after=TaskState.QUEUED, reason="retry")
            self._outbox.publish(tx, job.project, job.id, news)

    def _move(self, tx: Transaction, job: Job, task: Task) -> None:
        before = tx.get(TASKS, task.id)
        if before is not None and before.state is not task.state:
            MOVES.check(task.id, before.state, task.state)
            news = Moved(before=before.state, after=task.state, reason=task.reason, message=task.message)
            self._outbox.publish(tx, task.project, task.job_id, news)
        stored = tx.update(TASKS, task)
        if MOVES.is_terminal(stored.state) and stored.started_at is not None:
            self._outbox.publish(tx, task.project, task.job_id, _metered(job, stored))

    def _place(self) -> int:
        """Start the gangs whose turn it is; returns how many."""
        waiting, jobs, held = self._store.read(lambda view: (_queue(view), *_held(view)))
        chosen, left = rules.place(waiting, self._capacity, rules.used_by(jobs, held))
        self._waiting = {item.job.id: item.message for item in left}
        if not chosen:
            return 0
        started = self._each(chosen, lambda tx, pair: self._start(tx, *pair))
        for job, gang in chosen:
            if started.get(job.id):
                self._launch(job, gang)
        return sum(started.values())

    def _start(self, tx: Transaction, job: Job, gang: Sequence[Task]) -> bool:
        fresh = tx.get(JOBS, job.id)
        if fresh is None or fresh.version != job.version:
            return False
        for task in gang:
            self._move(tx, job, changed(task, {"state": TaskState.STARTING}))
        return True

    def _launch(self, job: Job, gang: Sequence[Task]) -> None:
        # The intent stands whatever goes wrong; the next tick finds the tasks absent and launches them again.
        try:
            tasks = tuple(self._plans.task(job, task) for task in sorted(gang, key=lambda task: task.rank))
            self._engine.launch(GangPlan(gang_id=f"{job.id}.{job.attempt}", tasks=tasks))
        except (StorageFull, Unavailable) as error:
            self._waiting[job.id] = str(error)
        except Exception as error:
            log.exception("job %s cannot be launched; the other jobs go on", job.id)
            self._launch_faults[job.id] += 1
            if self._launch_faults[job.id] >= _MOST_LAUNCHES:
                self._give_up(job, gang, error)

    def _give_up(self, job: Job, gang: Sequence[Task], error: Exception) -> None:
        """End an attempt that cannot be launched for a reason that time does not mend."""
        del self._launch_faults[job.id]
        self._engine.stop([task.id for task in gang], force=True)
        message = str(error) if isinstance(error, SkyloomError) else "the log of the control plane says why"
        end = {
            "state": TaskState.FAILED,
            "reason": model.Reason.LAUNCH_FAILED,
            "message": f"could not be launched: {message}",
            "ended_at": self._clock.now(),
        }

        def work(tx: Transaction) -> None:
            for task in gang:
                stored = tx.get(TASKS, task.id)
                if stored is not None and stored.state is TaskState.STARTING:
                    self._move(tx, job, changed(stored, end))

        self._store.write(work)


def _held(view: Snapshot) -> tuple[dict[str, Job], list[Task]]:
    """The gangs that have been started and have not wholly ended, and their jobs."""
    held = view.select(TASKS, {"state": rules.HOLDING})
    jobs = _jobs_of(view, held)
    gangs = tuple(job.id for job in jobs.values() if job.spec.num_workers > 1)
    peers = [task for part in _parts(gangs) for task in view.select(TASKS, {"job_id": part})]
    attempts = {(task.job_id, task.attempt) for task in held}
    alone = [task for task in held if task.job_id not in set(gangs)]
    return jobs, alone + [task for task in peers if (task.job_id, task.attempt) in attempts]


def _queue(view: Snapshot) -> list[tuple[Job, tuple[Task, ...]]]:
    """The gangs at the head of the queue; a look at all of it would cost the more the longer it is."""
    first = view.select(TASKS, {"state": TaskState.QUEUED}, order="turn", limit=_LOOKAHEAD)
    jobs = _jobs_of(view, first)
    tasks = _by_job(view.select(TASKS, {"job_id": tuple(jobs)}))
    return [(job, rules.newest(job, tasks[job.id])) for job in jobs.values()]


def _jobs_of(view: Snapshot, tasks: Iterable[Task]) -> dict[str, Job]:
    ids = tuple(dict.fromkeys(task.job_id for task in tasks))
    return {job.id: job for part in _parts(ids) for job in view.select(JOBS, {"id": part})}


def _parts(ids: tuple[str, ...], size: int = 500) -> Iterable[tuple[str, ...]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _by_job(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        found[task.job_id].append(task)
    return found


def _metered(job: Job, task: Task) -> TaskEnded:
    return TaskEnded(
        job_id=job.id,
        task_id=task.id,
        resources=job.spec.resources,
        started_at=task.started_at or 0.0,
        ended_at=task.ended_at or 0.0,
        labels={**job.spec.labels, "user": job.submitted_by},
    )


def _whole_characters(content: bytes, *, final: bool) -> tuple[str, int]:
    """Decode up to the last whole UTF-8 character, so that a chunk border never damages one."""
    cut = len(content)
    if not final:
        for back in range(1, min(4, len(content)) + 1):
            byte = content[-back]
            if byte < 0x80:
                break
            if byte >= 0xC0:
                length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                cut = len(content) - back if length > back else cut
                break
    return content[:cut].decode("utf-8", "replace"), cut
