"""The service of arrays: makes jobs from arrays as room comes free, and adds up how they end.

Level-triggered: each round looks at the open jobs as they are now. The jobs of an array have ids that are known beforehand, and they
are made in the same transaction that says so, so no crash makes one twice or forgets one.
"""

import logging
from collections.abc import Mapping
from functools import partial

from skyloom.core.errors import REFUSALS
from skyloom.core.ids import Ids
from skyloom.core.isolation import isolated
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.arrays import model, rules
from skyloom.rooms.arrays.model import Array, ArrayProgress, ArrayStatus
from skyloom.rooms.arrays.ports import ARRAYS, ENDS, PROGRESS
from skyloom.rooms.jobs import model as jobs_model
from skyloom.rooms.jobs import rules as jobs_rules
from skyloom.rooms.jobs.bounds import MAX_ARRAYS, check_number
from skyloom.rooms.jobs.dependencies import Verdict
from skyloom.rooms.jobs.model import JobStatus, Reason
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job
from skyloom.rooms.jobs.service import Jobs

log = logging.getLogger("skyloom.arrays")
_FEWER = "Wait until some have ended, or cancel some: skyloom array cancel ARRAY."
_BUSY_S, _IDLE_S = 0.1, 5.0
_MAX_ANSWER_BYTES = 2**23


class Arrays:
    """Arrays of all projects."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, blobs: Blobs, jobs: Jobs, most: int = MAX_ARRAYS) -> None:
        self._most = most  # of one project, that have not ended
        self._full: set[str] = set()  # projects that may have no more workers, as far as this round knows
        self._store = store
        self._clock = clock
        self._ids = ids
        self._blobs = blobs
        self._jobs = jobs
        jobs.dependencies.kinds["array"] = lambda view, array_id, project: self.status(view, array_id, project).state

    def handlers(self) -> Handlers:
        return {
            model.SubmitArray: Change(self.submit, before=self.check),
            model.GetArray: Query(self.get),
            model.ListArrays: Query(self.list),
            model.CancelArray: Change(self.cancel),
            model.ReadArrayResults: Query(self.results),
        }

    # Taking in

    def check(self, ask: model.SubmitArray, by: Caller) -> None:
        """Refuse what no job could be made of."""
        rules.check(ask)
        self._jobs.check_asked(jobs_model.SubmitJob(spec=ask.spec), by)
        if any(self._blobs.size(digest) is None for digest in ask.inputs):
            raise jobs_model.FileMissing(
                "The bytes of an input were not uploaded.", next_action="Upload the inputs first, then submit again."
            )

    def submit(self, tx: Transaction, ask: model.SubmitArray, by: Caller) -> ArrayStatus:
        self._jobs.check_named(tx, ask.spec, by.project)
        check_number(tx, PROGRESS, {"project": by.project, "active": True}, self._most, "open arrays", _FEWER)
        array = tx.insert(
            ARRAYS,
            Array(
                id=self._ids.new("array"),
                project=by.project,
                spec=self._jobs.pinned(tx, ask.spec, by.project),
                size=ask.size,
                max_parallel=ask.max_parallel,
                inputs=ask.inputs,
                per_input=ask.per_input,
                submitted_at=self._clock.now(),
                submitted_by=by.principal,
            ),
        )
        jobs_rules.check_bounds(rules.job(array, 0, array.submitted_at))
        tx.insert(PROGRESS, self._go_on(tx, array, ArrayProgress(id=array.id, project=array.project)))
        return self._status(tx, array)

    def _go_on(self, tx: Transaction, array: Array, progress: ArrayProgress) -> ArrayProgress:
        """Make the jobs that are due, unless what they come after has to end first."""
        found, why = self._verdict(tx, array, progress)
        if found is Verdict.WAIT:
            return progress
        if found is Verdict.NEVER:
            return rules.stopped(array, progress, Reason.DEPENDENCY_FAILED, why, self._clock.now())
        indexes = rules.due(array, progress)
        # The others are made as there is room: an array waits, where a job would be refused.
        granted = self._jobs.workers.grant(tx, array.project, len(indexes), array.spec.num_workers)
        if granted < len(indexes):
            self._full.add(array.project)
        indexes = indexes[:granted]
        for index in indexes:
            self._jobs.take_in(tx, rules.job(array, index, self._clock.now()))
        return rules.made(progress, indexes)

    def _verdict(self, view: Snapshot, array: Array, progress: ArrayProgress) -> tuple[Verdict, str]:
        if not rules.is_waiting(array, progress):
            return Verdict.READY, ""
        return self._jobs.dependencies.verdict(view, array.spec.after, array.project)

    def cancel(self, tx: Transaction, ask: model.CancelArray, by: Caller) -> ArrayStatus:
        array, progress = self._found(tx, ask.array_id, by.project)
        if progress.active and not progress.stopped:
            message = f"cancelled by {by.principal}"
            now = self._clock.now()
            tx.update(PROGRESS, rules.stopped(array, progress, Reason.CANCELLED, message, now))
            for index in progress.open:
                self._jobs.cancel(tx, jobs_model.CancelJob(job_id=rules.job_id(array.id, index)), by)
        return self._status(tx, array)

    # Looking

    def _found(self, view: Snapshot, array_id: str, project: str) -> tuple[Array, ArrayProgress]:
        """An array of a project. Raises `ArrayMissing`, for somebody else's just the same."""
        array, progress = owned(view, ARRAYS, array_id, project), view.get(PROGRESS, array_id)
        if array is None or progress is None:
            raise model.ArrayMissing(f"There is no array {array_id}.", next_action="List yours: skyloom array list.")
        return array, progress

    def status(self, view: Snapshot, array_id: str, project: str) -> ArrayStatus:
        """An array and what has become of it. Raises `ArrayMissing`."""
        return self._status(view, self._found(view, array_id, project)[0])

    def _status(self, view: Snapshot, array: Array) -> ArrayStatus:
        progress = view.get(PROGRESS, array.id)
        assert progress is not None
        open_ = _open(view, array, progress)
        states = {index: one.state for index, one in open_.items()}
        status = rules.status(array, _begun(progress, open_), states)
        held = rules.held_up(status, states)
        if held is None:
            return status
        return rules.told(status, self._jobs.status(view, rules.job_id(array.id, held), array.project))

    def get(self, ask: model.GetArray, by: Caller) -> ArrayStatus:
        return self._store.read(lambda view: self.status(view, ask.array_id, by.project))

    def list(self, ask: model.ListArrays, by: Caller) -> Page[ArrayStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, ARRAYS, where, ask).shown(partial(self._status, view)))

    def results(self, ask: model.ReadArrayResults, by: Caller) -> model.ArrayResults:
        def work(view: Snapshot) -> tuple[bool, list[tuple[int, model.ArrayEnd]]]:
            _, progress = self._found(view, ask.array_id, by.project)
            found = view.entries(ENDS, {"array_id": ask.array_id}, after=ask.after, limit=ask.limit + 1)
            return progress.active, found

        active, found = self._store.read(work)
        items: list[model.ArrayResult] = []
        size, following = 0, ask.after
        for sequence, end in found[: ask.limit]:
            one = self._result(end, by)
            size += len(one.result_json or "")
            if items and size > _MAX_ANSWER_BYTES:
                break
            items.append(one)
            following = sequence
        return model.ArrayResults(items=tuple(items), next=following, ended=not active and len(items) == len(found))

    def _result(self, end: model.ArrayEnd, by: Caller) -> model.ArrayResult:
        job_id = rules.job_id(end.array_id, end.index)
        left = self._jobs.read_result(jobs_model.ReadResult(job_id=job_id), by)
        return model.ArrayResult(
            index=end.index,
            job_id=job_id,
            state=end.state,
            reason=end.reason,
            message=end.message,
            result_json=left.result_json if left.ready else None,
        )

    # The loop

    def tick(self) -> float:
        """One round over the arrays that have something left to do. Returns the seconds after which the next one is due."""
        self._full.clear()
        active = self._store.read(lambda view: view.select(PROGRESS, {"active": True}))
        for progress in active:
            with isolated(log, f"array {progress.id}"):
                self._go_on_or_give_up(progress.id)
        return _BUSY_S if active else _IDLE_S

    def _go_on_or_give_up(self, array_id: str) -> None:
        try:
            self._round(array_id)
        except REFUSALS as refusal:
            self._give_up(array_id, str(refusal))

    def _round(self, array_id: str) -> None:
        array, progress, open_, waits = self._store.read(lambda view: self._seen(view, array_id))
        statuses = ((index, one.state, one.reason, one.message) for index, one in open_.items())
        ends = rules.ends_of(array, statuses)
        after = _begun(rules.folded(array, progress, ends, self._clock.now()) if ends else progress, open_)
        if after == progress and (waits or array.project in self._full or not rules.due(array, after)):
            return

        def work(tx: Transaction) -> None:
            if tx.get(PROGRESS, array_id) != progress:
                return  # it was changed meanwhile; the next round looks again
            for end in ends:
                tx.append(ENDS, end)
            made = self._go_on(tx, array, after)
            if made != progress:
                tx.update(PROGRESS, made)

        self._store.write(work)

    def _give_up(self, array_id: str, why: str) -> None:
        """Make no more jobs of an array that names what is no longer there (a secret, a version); those that it has go on."""

        def work(tx: Transaction) -> None:
            array, progress = tx.get(ARRAYS, array_id), tx.get(PROGRESS, array_id)
            if array is not None and progress is not None and progress.active and not progress.stopped:
                tx.update(PROGRESS, rules.stopped(array, progress, Reason.LAUNCH_FAILED, why, self._clock.now()))

        self._store.write(work)

    def _seen(self, view: Snapshot, array_id: str) -> tuple[Array, ArrayProgress, Mapping[int, JobStatus], bool]:
        array, progress = view.get(ARRAYS, array_id), view.get(PROGRESS, array_id)
        assert array is not None and progress is not None
        waits = self._verdict(view, array, progress)[0] is Verdict.WAIT
        return array, progress, _open(view, array, progress), waits


def _open(view: Snapshot, array: Array, progress: ArrayProgress) -> dict[int, JobStatus]:
    """The jobs of the open indexes as they are now."""
    ids = {rules.job_id(array.id, index): index for index in progress.open}
    gangs = by_job(view.select(TASKS, {"job_id": tuple(ids)}))
    jobs = view.select(JOBS, {"id": tuple(ids)})
    return {ids[job.id]: jobs_rules.status(job, gangs[job.id]) for job in jobs}


def _begun(progress: ArrayProgress, open_: Mapping[int, JobStatus]) -> ArrayProgress:
    """The progress, which knows when the first of the jobs began."""
    starts = [one.started_at for one in open_.values() if one.started_at is not None]
    return changed(progress, {"started_at": min(starts)}) if starts and progress.started_at is None else progress
