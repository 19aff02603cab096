"""The service of training: one request becomes a run and a job, in one transaction."""

from skyloom.core.ids import Ids
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.jobs.model import SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.tracking.model import RunProgress
from skyloom.rooms.tracking.ports import RUNS
from skyloom.rooms.training import rules
from skyloom.rooms.training.model import FoundVersion, Train
from skyloom.rooms.training.ports import FindVersion


class Training:
    """Trainings of all projects.

    Args:
        find_version: looks dataset versions up (the data room).
        code_version: Skyloom's own version, for the provenance of recipes.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        jobs: Jobs,
        find_version: FindVersion,
        code_version: str,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._jobs = jobs
        self._find_version = find_version
        self._code_version = code_version

    def handlers(self) -> Handlers:
        return {Train: Change(self.start, before=self.check)}

    def check(self, ask: Train, by: Caller) -> None:
        """Refuse what can never train: an unclear request, a missing target, more than the pool has, files not uploaded."""
        rules.check(ask)
        found = self._store.read(lambda view: self._found(view, ask, by))
        plan = rules.plan(ask, found, "")
        self._jobs.check(SubmitJob(spec=rules.job(ask, plan, "")), by)

    def start(self, tx: Transaction, ask: Train, by: Caller) -> RunProgress:
        found = self._found(tx, ask, by)
        plan = rules.plan(ask, found, rules.code_digest(ask, self._code_version))
        run_id = self._ids.new("run")
        status = self._jobs.submit(tx, SubmitJob(spec=rules.job(ask, plan, run_id)), by)
        run = tx.insert(RUNS, rules.run(ask, plan, run_id, status.job.id, by.project, self._clock.now()))
        return RunProgress(run=run, state=status.state)

    def _found(self, view: Snapshot, ask: Train, by: Caller) -> FoundVersion | None:
        if not ask.dataset:
            return None
        found = self._find_version(view, by.project, ask.dataset, ask.version)
        rules.check_version(ask, found)
        return found
