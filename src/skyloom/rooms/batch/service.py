"""The service of batch prediction: finds the versions that are meant, refuses what does not fit, and begins a job and a draft."""

from collections.abc import Callable

import msgspec

from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.ports.door import Change, Handlers
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.batch import model, rules
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.data.making import Predict
from skyloom.rooms.data.model import DraftStatus
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs.model import JobSpec, SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.service import Registry


class BatchPredictions:
    """Batch predictions of all projects. What comes of them is kept by the data room.

    Args:
        idle_cpus: cores of this machine that nothing holds now.
    """

    def __init__(
        self,
        store: Store,
        data: Datasets,
        registry: Registry,
        jobs: Jobs,
        idle_cpus: Callable[[Snapshot], float],
    ) -> None:
        self._store = store
        self._data = data
        self._registry = registry
        self._jobs = jobs
        self._idle_cpus = idle_cpus

    def handlers(self) -> Handlers:
        return {
            model.RunPredictions: Change(self.run, before=self.check),
            model.BeginPredictions: Change(self.begin),
        }

    def check(self, ask: model.RunPredictions, by: Caller) -> None:
        """Refuse a job that could never start."""
        spec = self._store.read(lambda view: self._asked(view, ask, by)[1])
        self._jobs.check(SubmitJob(spec=spec), by)

    def run(self, tx: Transaction, ask: model.RunPredictions, by: Caller) -> DraftStatus:
        making, spec = self._asked(tx, ask, by)
        job_id = self._jobs.submit(tx, SubmitJob(spec=spec), by).job.id
        return self._data.derive(tx, ask.order.to, making, job_id, by)

    def begin(self, tx: Transaction, ask: model.BeginPredictions, by: Caller) -> DraftStatus:
        making, _ = self._resolved(tx, ask.order, by)  # first: what is not theirs is absent
        if not by.task_id:
            raise model.NotABatchTask(
                f"{by.principal} is no task.", next_action="Ask for a job: skyloom predict --dataset … --model … --to …"
            )
        return self._data.derive(tx, ask.order.to, making, by.job_id, by)

    def _asked(self, view: Snapshot, ask: model.RunPredictions, by: Caller) -> tuple[Predict, JobSpec]:
        making, manifest = self._resolved(view, ask.order, by)
        resources: Resources = ask.resources or rules.resources_of(manifest, self._idle_cpus(view))
        pinned = msgspec.structs.replace(
            ask.order, version=str(making.version), model_version=str(making.model_version)
        )
        return making, rules.job(pinned, resources)

    def _resolved(self, view: Snapshot, order: BatchOrder, by: Caller) -> tuple[Predict, Manifest]:
        """What an order means now. Raises `NotFound`, `NotPredictable`."""
        dataset, version = self._data.version(view, order.dataset, order.version, by.project)
        found = self._registry.version(view, order.model, order.model_version, by.project)
        rules.check_target(order, dataset.name)
        rules.outputs(found.manifest)
        columns = rules.fit(order, found.manifest, version.contents.columns)
        return rules.making(order, dataset.name, version.number, found.number, columns), found.manifest
