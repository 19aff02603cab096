"""The facts that lineage reads off the rooms' own collections."""

import msgspec
import pytest

from skyloom.core.operation import Caller
from skyloom.ports.engine import Command
from skyloom.ports.environment import Mount, MountFile
from skyloom.ports.store import Transaction
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Deduplicate, DropMissing, Format, Ingest, SourceFile, Split
from skyloom.rooms.data.model import Dataset, DatasetVersion
from skyloom.rooms.data.ports import DATASETS
from skyloom.rooms.data.ports import VERSIONS as DATASET_VERSIONS
from skyloom.rooms.jobs.model import Job, JobSpec
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.lineage.rules import line_of
from skyloom.rooms.lineage.sources import RoomSources
from skyloom.rooms.registry.ports import VERSIONS as MODEL_VERSIONS
from skyloom.rooms.serving.model import FindPrediction, PredictionRecord
from skyloom.rooms.serving.ports import ENDPOINTS, REVISIONS
from skyloom.rooms.tracking.ports import RUNS
from skyloom.stores.memory import MemoryStore
from tests.rooms.lineage.test_service import ANN, ENDPOINT, PREDICTION, REPLICA, REVISION, RUN, model_version

NEWER = msgspec.structs.replace(REVISION, id="revision_2", number=2, model_version="version_2")
OTHERS = msgspec.structs.replace(ENDPOINT, id="endpoint_9", project="q", name="theirs")


def find_prediction(ask: FindPrediction, by: Caller) -> PredictionRecord:
    assert (ask.prediction_id, by) == ("pred_1_0", ANN)
    return PredictionRecord(prediction=PREDICTION, endpoint=ENDPOINT, revision=REVISION, replica=REPLICA)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()

    def fill(tx: Transaction) -> None:
        tx.insert(ENDPOINTS, msgspec.structs.replace(ENDPOINT, revision=2))
        tx.insert(ENDPOINTS, OTHERS)
        tx.insert(REVISIONS, REVISION)
        tx.insert(REVISIONS, NEWER)
        tx.insert(MODEL_VERSIONS, model_version())
        tx.insert(RUNS, RUN)
        tx.insert(RUNS, msgspec.structs.replace(RUN, id="run_2", dataset_version=1))

        dataset = Dataset(id="dataset_1", project="p", name="digits", created_at=1.0, created_by="ann")
        tx.insert(DATASETS, dataset)
        source = SourceFile(path="digits.csv", digest=f"sha256:{'0' * 64}")
        for number, parent, making in (
            (1, None, Ingest(sources=(source, source), format=Format.CSV)),
            (3, 1, Clean(steps=(Deduplicate(), DropMissing()))),
            (4, 3, Split(seed=5)),
        ):
            tx.insert(
                DATASET_VERSIONS,
                DatasetVersion(
                    id=f"dataset_1.{number}",
                    project="p",
                    dataset_id="dataset_1",
                    number=number,
                    parent=parent,
                    making=making,
                    job_id="job_1",
                    contents=Contents(num_rows=9, columns=(), digest=f"sha256:{'0' * 64}"),
                    created_at=2.0,
                ),
            )

    store.write(fill)
    return store


@pytest.fixture
def sources() -> RoomSources:
    return RoomSources(find_prediction)


def test_served_is_found_by_revision_and_by_endpoint_which_means_its_newest(store: MemoryStore, sources: RoomSources):
    def revisions(project: str) -> list[str | None]:
        subjects = ("revision_1", "endpoint_1", "reader", "nothing", "endpoint_9")
        found = [store.read(lambda view, name=name: sources.served(view, name, project)) for name in subjects]
        return [pair[1].id if pair else None for pair in found]

    assert revisions("p") == ["revision_1", "revision_2", "revision_2", None, None]
    assert revisions("q") == [None] * 5


def test_serving_is_every_revision_of_a_model_version(store: MemoryStore, sources: RoomSources):
    found = store.read(lambda view: sources.serving(view, "version_1", "p"))
    assert [(endpoint.name, revision.id) for endpoint, revision in found] == [("reader", "revision_1")]


@pytest.mark.parametrize(
    ("subject", "project", "expected"),
    [
        ("version_1", "p", "version_1"),
        ("digits:1", "p", "version_1"),
        ("digits:2", "p", None),
        ("digits:x", "p", None),
        ("version_1", "q", None),
        ("digits:1", "q", None),
    ],
)
def test_model_version_is_found_by_id_and_by_name_and_number(
    store: MemoryStore, sources: RoomSources, subject: str, project: str, expected: str | None
):
    found = store.read(lambda view: sources.model_version(view, subject, project))
    assert (found.id if found else None) == expected


def test_runs_are_found_by_id_and_by_what_they_trained_on(store: MemoryStore, sources: RoomSources):
    assert store.read(lambda view: sources.run(view, "run_1", "q")) is None
    assert store.read(lambda view: sources.run(view, "run_1", "p")).name == "first"
    assert [run.id for run in store.read(lambda view: sources.trained_on(view, "digits", 1, "p"))] == ["run_2"]
    assert [one.id for one in store.read(lambda view: sources.registered(view, "run_1", "p"))] == ["version_1"]


def test_held_versions_say_what_made_them_and_from_which(store: MemoryStore, sources: RoomSources):
    held = store.read(lambda view: sources.held(view, "digits", "p"))
    assert [(one.number, one.parent, one.facts["made by"]) for one in held] == [
        (1, None, "ingest of digits.csv and 1 more"),
        (3, 1, "Deduplicate, DropMissing"),
        (4, 3, "split with seed 5"),
    ]
    assert {one.table for one in held} == {"p/dataset_1"}
    assert [one.number for one in line_of(held, 4)] == [4, 3, 1]
    assert line_of(held, 2) == []
    assert store.read(lambda view: sources.held(view, "digits", "q")) == []


def test_prediction_is_asked_of_serving(sources: RoomSources):
    assert sources.prediction("pred_1_0", ANN).replica == REPLICA


def test_mounts_of_a_job_are_told_to_its_own_project(store: MemoryStore) -> None:
    file = MountFile(path="a", digest=f"sha256:{'0' * 64}", route="blobs/x")
    mount = Mount(name="old", subject="model:reader:1", files=(file,))
    spec = JobSpec(entry=Command(argv=("true",)))
    job = Job(id="job_7", project="p", spec=spec, submitted_at=1.0, submitted_by="ann", mounts=(mount,))
    store.write(lambda tx: tx.insert(JOBS, job))
    sources = RoomSources(find_prediction)
    assert store.read(lambda view: sources.mounted(view, "job_7", "p")) == ["model:reader:1"]
    assert store.read(lambda view: sources.mounted(view, "job_7", "q")) == []
    assert store.read(lambda view: sources.mounted(view, "job_8", "p")) == []
