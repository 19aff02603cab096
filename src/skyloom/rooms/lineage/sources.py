"""Where lineage reads its facts: the records of the rooms below. The only file of this room that knows how they are stored."""

from collections.abc import Callable, Sequence

from skyloom.core.operation import Caller
from skyloom.ports.lookup import named, owned
from skyloom.ports.store import Snapshot
from skyloom.rooms.data.making import Clean, Collect, Ingest, Making, Predict
from skyloom.rooms.data.model import Dataset, DatasetVersion
from skyloom.rooms.data.ports import DATASETS
from skyloom.rooms.data.ports import VERSIONS as DATASET_VERSIONS
from skyloom.rooms.devices.model import DevicePrediction
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.lineage.ports import Held
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.registry.ports import VERSIONS as MODEL_VERSIONS
from skyloom.rooms.serving.model import Endpoint, FindPrediction, PredictionRecord, Revision
from skyloom.rooms.serving.outlook import newest_revision
from skyloom.rooms.serving.ports import ENDPOINTS, REVISIONS
from skyloom.rooms.tracking.model import Run
from skyloom.rooms.tracking.ports import RUNS

FindPredictions = Callable[[FindPrediction, Caller], PredictionRecord]
FindOnDevices = Callable[[str, str], DevicePrediction | None]


class RoomSources:
    """`Sources` over the rooms' own collections.

    Args:
        find_prediction: serving's, which reads the request log.
        find_on_devices: what devices brought, by prediction id and project.
    """

    def __init__(self, find_prediction: FindPredictions, find_on_devices: FindOnDevices = lambda *_: None) -> None:
        self._find_prediction = find_prediction
        self._find_on_devices = find_on_devices

    def prediction(self, prediction_id: str, by: Caller) -> PredictionRecord:
        return self._find_prediction(FindPrediction(prediction_id=prediction_id), by)

    def on_device(self, prediction_id: str, project: str) -> DevicePrediction | None:
        return self._find_on_devices(prediction_id, project)

    def served(self, view: Snapshot, subject: str, project: str) -> tuple[Endpoint, Revision] | None:
        revision = owned(view, REVISIONS, subject, project)
        if revision is not None:
            endpoint = view.get(ENDPOINTS, revision.endpoint_id)
            return (endpoint, revision) if endpoint else None
        endpoint = owned(view, ENDPOINTS, subject, project) or named(view, ENDPOINTS, subject, project)
        if endpoint is None:
            return None
        newest = newest_revision(view, endpoint)
        return (endpoint, newest) if newest else None

    def serving(self, view: Snapshot, version_id: str, project: str) -> Sequence[tuple[Endpoint, Revision]]:
        revisions = view.select(REVISIONS, {"project": project, "model_version": version_id})
        found = [(view.get(ENDPOINTS, revision.endpoint_id), revision) for revision in revisions]
        return [(endpoint, revision) for endpoint, revision in found if endpoint is not None]

    def model_version(self, view: Snapshot, subject: str, project: str) -> ModelVersion | None:
        name, _, number = subject.partition(":")
        if number.isdecimal():
            found = view.select(MODEL_VERSIONS, {"project": project, "model": name, "number": int(number)})
            return found[0] if found else None
        return owned(view, MODEL_VERSIONS, subject, project)

    def registered(self, view: Snapshot, run_id: str, project: str) -> Sequence[ModelVersion]:
        return view.select(MODEL_VERSIONS, {"project": project, "run_id": run_id})

    def run(self, view: Snapshot, run_id: str, project: str) -> Run | None:
        return owned(view, RUNS, run_id, project)

    def mounted(self, view: Snapshot, job_id: str, project: str) -> Sequence[str]:
        job = owned(view, JOBS, job_id, project)
        return [mount.subject for mount in job.mounts] if job else []

    def trained_on(self, view: Snapshot, dataset: str, number: int, project: str) -> Sequence[Run]:
        runs = view.select(RUNS, {"project": project, "dataset": dataset})
        return [run for run in runs if run.dataset_version == number]

    def held(self, view: Snapshot, dataset: str, project: str) -> Sequence[Held]:
        holder = named(view, DATASETS, dataset, project)
        if holder is None:
            return []
        versions = view.select(DATASET_VERSIONS, {"dataset_id": holder.id}, order="number")
        return [_held(holder, version) for version in versions]


def _held(dataset: Dataset, version: DatasetVersion) -> Held:
    facts = {"rows": str(version.contents.num_rows), "made by": _made_by(version.making)}
    return Held(
        dataset=dataset.name,
        number=version.number,
        table=dataset.table,
        table_number=version.number,
        parent=version.parent,
        made_at=version.created_at,
        facts=facts | ({"tags": ", ".join(version.tags)} if version.tags else {}),
        predicted=version.making if isinstance(version.making, Predict) else None,
    )


def _made_by(making: Making) -> str:
    if isinstance(making, Ingest):
        more = f" and {len(making.sources) - 1} more" if len(making.sources) > 1 else ""
        return f"ingest of {making.sources[0].path}{more}"
    if isinstance(making, Clean):
        return ", ".join(type(step).__name__ for step in making.steps)
    if isinstance(making, Predict):
        part = f", part {making.split}" if making.split else ""
        return f"{making.model} version {making.model_version} on {making.dataset} version {making.version}{part}"
    if isinstance(making, Collect):
        return f"samples of requests at endpoint {making.name}"
    return f"split with seed {making.seed}"
