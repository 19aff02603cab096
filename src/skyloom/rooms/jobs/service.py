"""The service of jobs: takes them in, tells how they stand, and writes down that they are to stop. `loop` does the rest."""

from collections.abc import Sequence

import msgspec

from skyloom.core.events import TaskEnded
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query, present_cause
from skyloom.ports.engine import Engine, PythonCall, PythonFile
from skyloom.ports.lookup import listed
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.cost.budget import BudgetExhausted
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.jobs import asked, deadlines, environments, model, mounts, rules
from skyloom.rooms.jobs.bounds import OpenWorkers
from skyloom.rooms.jobs.dependencies import Dependencies
from skyloom.rooms.jobs.model import MOVES, Halt, Job, JobStatus, Reason, Task
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job, find_job, jobs_of
from skyloom.rooms.jobs.spending import wish_of
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter, metered
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.secrets.service import Secrets

_LONGEST_CHARACTER = 4  # of UTF-8, in bytes: who asks for less would never get it


class Jobs:
    """Jobs of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        writer: JobWriter,
        fleet: Fleet,
        blobs: Blobs,
        waits: Waits,
        secrets: Secrets,
        budgets: Budgets | None = None,
        workers: OpenWorkers | None = None,
    ) -> None:
        self.workers = workers or OpenWorkers()
        self._store = store
        self._clock = clock
        self._ids = ids
        self._writer = writer
        self._fleet = fleet
        self._blobs = blobs
        self.dependencies = Dependencies(store, clock, writer)
        self._waits = waits
        # Set by who knows datasets and models, which are rooms above.
        self.resolve_mount: mounts.Resolve = mounts.none_known
        self._secrets = secrets
        self._budgets = budgets

    def handlers(self) -> Handlers:
        return {
            model.SubmitJob: Change(self.submit, before=self._check_before),
            model.GetJob: Query(self.get),
            model.ListJobs: Query(self.list),
            model.CancelJob: Change(self.cancel),
            model.RerunJob: Change(self.rerun, before=self.check_rerun),
            model.ReadLog: Query(self.read_log),
            model.ReadResult: Query(self.read_result),
        }

    # Taking in

    def check_asked(self, ask: model.SubmitJob, by: Caller) -> None:
        """`check`, for a job that somebody describes himself."""
        rules.check_labels(ask.spec.labels)
        self.check(ask, by)

    def check(self, ask: model.SubmitJob, by: Caller) -> None:
        """Refuse what can never run: more than the pool has, files that were not uploaded, what no budget pays for."""
        rules.check_bounds(ask.spec)
        self._check_possible(ask.spec)
        if budgets := self._budgets:
            wish = wish_of(ask.spec, "", by.project, by.principal)
            self._store.read(lambda view: budgets.check(view, wish))

    def _check_before(self, ask: model.SubmitJob, by: Caller) -> None:
        """What `submit` does not look at itself: it has budgets promise what the job needs."""
        rules.check_labels(ask.spec.labels)
        self._check_possible(ask.spec)

    def _check_possible(self, spec: model.JobSpec) -> None:
        asked.check_size(spec)
        self.workers.check(spec.num_workers)
        asked.check_deadline(spec, self._clock.now())
        asked.check_room(spec, self._fleet)
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
        environments.check(spec.python, self._fleet.abilities(spec.pools))
        mounts.check(spec, self._fleet.abilities(spec.pools))

    def pinned(self, view: Snapshot, spec: model.JobSpec, project: str) -> model.JobSpec:
        """A spec whose mounts name exact versions, as they are now. Raises `NotFound` for what the project does not have."""
        return mounts.pinned(spec, mounts.resolved(view, spec, project, self.resolve_mount))

    def submit(self, tx: Transaction, ask: model.SubmitJob, by: Caller, *, refuse: bool = True) -> JobStatus:
        """Queue a job. What no budget pays for is refused with `BudgetExhausted`, or (``refuse`` unset, for loops) is `take_in`'s.

        Raises `TooManyInProject` when the project has as many as it may, if ``refuse`` is set.
        """
        job = Job(
            id=self._ids.new("job"),
            project=by.project,
            spec=self.pinned(tx, ask.spec, by.project),
            submitted_at=self._clock.now(),
            submitted_by=by.principal,
            cause=present_cause(),
        )
        if not refuse:
            return self.take_in(tx, job)
        self.workers.take(tx, job.project, job.spec.num_workers)
        self._promise(tx, job)
        return self._queue(tx, job)

    def take_in(self, tx: Transaction, job: Job) -> JobStatus:
        """Queue a job that was made elsewhere, with an id of its own. One that no budget pays for is there, and has ended for it.

        Raises `AlreadyExists`, `JobMissing` for what it comes after.
        """
        try:
            self._promise(tx, job)
        except BudgetExhausted as error:
            self._queue(tx, job)
            why = Halt(reason=Reason.BUDGET_EXHAUSTED, by="budget", at=self._clock.now(), message=error.message)
            job = self.halt(tx, self.find(tx, job.id, job.project), why)
            return rules.status(job, tx.select(TASKS, {"job_id": job.id}))
        return self._queue(tx, job)

    def _queue(self, tx: Transaction, job: Job) -> JobStatus:
        self.check_named(tx, job.spec, job.project)
        if job.spec.mounts:
            job = changed(job, {"mounts": mounts.resolved(tx, job.spec, job.project, self.resolve_mount)})
        return rules.status(*self._writer.take_in(tx, job))

    def check_named(self, view: Snapshot, spec: model.JobSpec, project: str) -> None:
        """Refuse a description that names what the project does not have: jobs to come after, secrets. Raises `NotFound`."""
        self.dependencies.check(view, spec.after, project)
        self._secrets.check(view, spec.secrets, project)

    def _promise(self, tx: Transaction, job: Job) -> None:
        """Have its budgets promise what it needs. Raises `BudgetExhausted`, having written nothing."""
        if self._budgets:
            self._budgets.reserve(tx, wish_of(job.spec, job.id, job.project, job.submitted_by))

    def cancel(self, tx: Transaction, ask: model.CancelJob, by: Caller) -> JobStatus:
        halt = Halt(
            reason=Reason.CANCELLED, by=by.principal, at=self._clock.now(), message=f"cancelled by {by.principal}"
        )
        job = self.halt(tx, self.find(tx, ask.job_id, by.project), halt)
        return rules.status(job, tx.select(TASKS, {"job_id": job.id}))

    def halt(self, tx: Transaction, job: Job, halt: Halt) -> Job:
        """Tell a job's gang to stop, for one of `model.HALTS`; see `JobWriter.halt`. For the rooms above, too."""
        return self._writer.halt(tx, job, halt)

    def check_rerun(self, ask: model.RerunJob, by: Caller) -> None:
        """Refuse what could not run now, or is not the caller's own to repeat."""
        job = self._store.read(lambda view: self.find(view, ask.job_id, by.project))
        rules.check_repeatable(job)
        self.check(model.SubmitJob(spec=rules.again(job.spec)), by)

    def rerun(self, tx: Transaction, ask: model.RerunJob, by: Caller) -> JobStatus:
        job = self.find(tx, ask.job_id, by.project)
        return self.submit(tx, model.SubmitJob(spec=rules.again(job.spec)), by)

    # Looking

    def find(self, view: Snapshot, job_id: str, project: str) -> Job:
        """Return a job of a project. Raises `JobMissing`, for somebody else's job just the same."""
        return find_job(view, job_id, project)

    def status(self, view: Snapshot, job_id: str, project: str) -> JobStatus:
        """Return a job and what has become of it. Raises `JobMissing`."""
        job = self.find(view, job_id, project)
        return self._told(job, view.select(TASKS, {"job_id": job.id}))

    def _told(self, job: Job, tasks: Sequence[Task]) -> JobStatus:
        """A job with what is known of its waiting and of its future."""
        status = rules.status(job, tasks, *self._waits.of(job.id))
        now = self._clock.now()
        return deadlines.judged(msgspec.structs.replace(status, outlook=rules.foreseen(status, now)), now)

    def get(self, ask: model.GetJob, by: Caller) -> JobStatus:
        return self._store.read(lambda view: self.status(view, ask.job_id, by.project))

    def list(self, ask: model.ListJobs, by: Caller) -> Page[JobStatus]:
        def work(view: Snapshot) -> Page[JobStatus]:
            where: dict[str, str | tuple[str, ...]] = {"project": by.project}
            if ask.array != model.ALL_ARRAYS:
                where["array"] = ask.array
            if ask.live:
                tasks = view.select(TASKS, {"project": by.project, "state": rules.LIVE})
                live = {task.job_id for task in tasks if ask.array in (model.ALL_ARRAYS, task.array)}
                newest = sorted((key for key in live if ask.cursor is None or key < ask.cursor), reverse=True)
                where["id"] = tuple(newest[: ask.limit + 1])  # a query takes only so many values
            jobs = listed(view, JOBS, where, ask)
            gangs = by_job(view.select(TASKS, {"job_id": tuple(job.id for job in jobs.items)}))
            return jobs.shown(lambda job: self._told(job, gangs[job.id]))

        return self._store.read(work)

    def read_log(self, ask: model.ReadLog, by: Caller) -> model.LogChunk:
        status = self._store.read(lambda view: self.status(view, ask.job_id, by.project))
        attempt = ask.attempt or status.job.attempt
        task_id = f"{ask.job_id}.{attempt}.{ask.rank}"
        part = self._engine_of(task_id).read_log(task_id, ask.offset, max(ask.limit, _LONGEST_CHARACTER))
        over = status.state in model.ENDED or attempt < status.job.attempt
        at_end = part.next_offset >= part.total_bytes
        text, used = _whole_characters(part.content, final=over and at_end)
        return model.LogChunk(text=text, next_offset=ask.offset + used, ended=over and at_end)

    def read_result(self, ask: model.ReadResult, by: Caller) -> model.CallResult:
        status = self._store.read(lambda view: self.status(view, ask.job_id, by.project))
        task_id = f"{ask.job_id}.{status.job.attempt}.0"
        found = self._engine_of(task_id).read_result(task_id)
        if found is None or status.state not in model.ENDED:
            return model.CallResult(ready=False)
        return model.CallResult(ready=True, result_json=found.decode("utf-8", "replace"))

    def _engine_of(self, task_id: str) -> Engine:
        """The engine of the pool where a task ran. Raises `PoolDown`."""
        task = self._store.read(lambda view: view.get(TASKS, task_id))
        return self._fleet.engine(task.pool if task else "")

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
        jobs = jobs_of(view, started)
        return tuple(metered(jobs[task.job_id], changed(task, {"ended_at": now})) for task in started)


def _whole_characters(content: bytes, *, final: bool) -> tuple[str, int]:
    """Decode up to the last whole UTF-8 character, so that a chunk border never damages one."""
    cut = len(content)
    if not final:
        for back in range(1, min(_LONGEST_CHARACTER, len(content)) + 1):
            byte = content[-back]
            if byte < 0x80:
                break
            if byte >= 0xC0:
                length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                cut = len(content) - back if length > back else cut
                break
    return content[:cut].decode("utf-8", "replace"), cut
