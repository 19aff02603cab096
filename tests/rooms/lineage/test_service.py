"""One small world: digits version 1 without splits, version 2 with; a run on 2, its model, an endpoint, a prediction."""

from collections.abc import Sequence

import msgspec
import pyarrow as pa
import pytest

from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.ports.store import Snapshot
from skyloom.rooms.lineage.model import GetLineage, GetRowLineage, Kind, LineageNode, RowMissing, SubjectUnknown
from skyloom.rooms.lineage.ports import Held
from skyloom.rooms.lineage.rules import row_ids_digest
from skyloom.rooms.lineage.service import Lineages
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, Signature, TensorSpec
from skyloom.rooms.registry.model import Evaluation, ModelVersion, Provenance, SplitRows
from skyloom.rooms.serving.model import Endpoint, PredictionRecord, Replica, Revision
from skyloom.rooms.serving.predictions import Prediction, PredictionMissing
from skyloom.rooms.tracking.model import Run
from skyloom.stores.memory import MemoryStore
from skyloom.tables.memory import MemoryTables

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())
EVE = Caller(principal="eve", project="q", scope="q", rights=frozenset())
SPLITS = ["train", "test", "train", "train", "test", "train"]
TENSOR = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
MANIFEST = Manifest(
    signature=Signature(inputs=(TENSOR,), outputs=(TENSOR,)),
    files=(BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1),),
)
RUN = Run(
    id="run_1",
    project="p",
    name="first",
    job_id="job_1",
    recipe="image",
    dataset="digits",
    dataset_version=2,
    created_at=20.0,
)
ENDPOINT = Endpoint(
    id="endpoint_1",
    project="p",
    name="reader",
    model="digits",
    revision=1,
    num_replicas=1,
    rest_port=1,
    grpc_port=2,
    created_at=40.0,
    created_by="ann",
)
REVISION = Revision(
    id="revision_1",
    project="p",
    endpoint_id="endpoint_1",
    number=1,
    model_version="version_1",
    version_label="1",
    resources=Resources(),
    files={},
    created_at=40.0,
)
REPLICA = Replica(
    id="rep_1",
    project="p",
    endpoint_id="endpoint_1",
    revision_id="revision_1",
    revision_number=1,
    job_id="job_2",
    created_at=40.0,
)
PREDICTION = Prediction(
    prediction_id="pred_1_0", at=50.0, revision="revision_1", rows=1, latency_us=900, outputs=msgspec.Raw(b"[]")
)


def model_version(**changes: object) -> ModelVersion:
    made = Provenance(
        run_id="run_1",
        job_id="job_1",
        dataset="digits",
        dataset_version=2,
        splits={
            "train": SplitRows(num_rows=4, row_ids_digest=row_ids_digest([0, 2, 3, 5])),
            "test": SplitRows(num_rows=2, row_ids_digest=row_ids_digest([1, 4])),
        },
        num_workers=2,
        seed=7,
    )
    version = ModelVersion(
        id="version_1",
        project="p",
        model="digits",
        number=1,
        run_id="run_1",
        manifest=MANIFEST,
        provenance=made,
        evaluation=Evaluation(split="test", num_rows=2, metrics={"accuracy": 0.9612}),
        created_at=30.0,
    )
    return msgspec.structs.replace(version, **changes)


class MemorySources:
    """`Sources` over what a test gives it."""

    def __init__(self) -> None:
        self.version = model_version()
        self.runs = [RUN]
        self.mounts: list[str] = []

    def prediction(self, prediction_id: str, by: Caller) -> PredictionRecord:
        if (prediction_id, by.project) != ("pred_1_0", "p"):
            raise PredictionMissing(f"No prediction {prediction_id}.", next_action="Check the id.")
        return PredictionRecord(prediction=PREDICTION, endpoint=ENDPOINT, revision=REVISION, replica=REPLICA)

    def on_device(self, prediction_id, project):
        return None

    def served(self, view: Snapshot, subject: str, project: str) -> tuple[Endpoint, Revision] | None:
        return (ENDPOINT, REVISION) if project == "p" and subject in ("revision_1", "endpoint_1", "reader") else None

    def serving(self, view: Snapshot, version_id: str, project: str) -> Sequence[tuple[Endpoint, Revision]]:
        return [(ENDPOINT, REVISION)] if version_id == "version_1" else []

    def model_version(self, view: Snapshot, subject: str, project: str) -> ModelVersion | None:
        return self.version if project == "p" and subject in ("version_1", "digits:1") else None

    def registered(self, view: Snapshot, run_id: str, project: str) -> Sequence[ModelVersion]:
        return [self.version] if run_id == "run_1" else []

    def run(self, view: Snapshot, run_id: str, project: str) -> Run | None:
        return next((run for run in self.runs if run.id == run_id and project == "p"), None)

    def mounted(self, view: Snapshot, job_id: str, project: str) -> Sequence[str]:
        return self.mounts

    def trained_on(self, view: Snapshot, dataset: str, number: int, project: str) -> Sequence[Run]:
        return [run for run in self.runs if (run.dataset, run.dataset_version) == (dataset, number)]

    def held(self, view: Snapshot, dataset: str, project: str) -> Sequence[Held]:
        numbers = (1, 2) if (dataset, project) == ("digits", "p") else ()
        return [Held(dataset="digits", number=number, table="t_digits", table_number=number) for number in numbers]


class Place:
    def __init__(self) -> None:
        tables = MemoryTables()
        plain = pa.table({"x": range(7)})
        tables.write("t_digits", plain.to_reader(), base=None, key="1")
        ids = pa.array(range(6), pa.uint64())
        split = pa.table({"x": range(6), "split": SPLITS, "_rowid": ids})
        tables.write("t_digits", split.to_reader(), base=1, key="2")
        self.sources = MemorySources()
        self.walks = Lineages(MemoryStore(), tables, self.sources)

    def back(self, subject_id: str, by: Caller = ANN, **options: object):
        return self.walks.get(GetLineage(subject_id=subject_id, **options), by)

    def forward(self, row_id: int, by: Caller = ANN, dataset: str = "digits") -> LineageNode:
        return self.walks.row(GetRowLineage(dataset=dataset, row_id=row_id), by)


@pytest.fixture
def place() -> Place:
    return Place()


def path(node: LineageNode) -> list[str]:
    """The names along a tree without branches."""
    assert len(node.next) <= 1
    return [node.name, *(path(node.next[0]) if node.next else [])]


FROM_REVISION = ["reader revision 1", "digits version 1", "run first", "digits version 2"]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("pred_1_0", ["prediction pred_1_0", *FROM_REVISION]),
        ("revision_1", FROM_REVISION),
        ("reader", FROM_REVISION),
        ("endpoint_1", FROM_REVISION),
        ("version_1", FROM_REVISION[1:]),
        ("digits:1", FROM_REVISION[1:]),
        ("run_1", FROM_REVISION[2:]),
    ],
)
def test_lineage_of_anything_walks_down_to_the_rows(place: Place, subject: str, expected: list[str]):
    found = place.back(subject)
    assert path(found.subject) == expected
    assert found.rows is not None
    assert (found.rows.row_ids, found.rows.num_rows, found.rows.is_proven) == ((0, 2, 3, 5), 4, True)
    assert found.rows.where == "split = 'train'"


def test_lineage_of_a_run_tells_what_its_job_mounted(place: Place):
    assert "mounts" not in place.back("run_1").subject.facts
    place.sources.mounts = ["dataset:more:2", "model:old:1"]
    assert place.back("run_1").subject.facts["mounts"] == "dataset:more:2, model:old:1"


def test_lineage_rows_come_in_pages_of_any_split(place: Place):
    first = place.back("version_1", limit=3).rows
    second = place.back("version_1", limit=3, after=first.next_after).rows
    assert (first.row_ids, first.next_after) == ((0, 2, 3), 3)
    assert (second.row_ids, second.next_after) == ((5,), None)
    assert place.back("version_1", split="test").rows.row_ids == (1, 4)
    assert place.back("version_1", split="none").rows.num_rows == 0


def test_lineage_of_rows_that_are_not_those_recorded_says_so(place: Place):
    wrong = {"train": SplitRows(num_rows=4, row_ids_digest=row_ids_digest([0, 2, 3]))}
    place.sources.version = model_version(provenance=msgspec.structs.replace(model_version().provenance, splits=wrong))
    assert place.back("version_1").rows.is_proven is False
    assert place.back("version_1", split="test").rows.is_proven is None


def test_lineage_of_a_model_without_a_run_ends_at_the_model(place: Place):
    place.sources.version = model_version(run_id="", provenance=Provenance())
    found = place.back("pred_1_0")
    assert path(found.subject) == ["prediction pred_1_0", "reader revision 1", "digits version 1"]
    assert found.rows is None


def test_lineage_of_the_unknown_and_of_others_is_not_found(place: Place):
    with pytest.raises(SubjectUnknown):
        place.back("version_9")
    with pytest.raises(SubjectUnknown):
        place.back("version_1", EVE)
    with pytest.raises(PredictionMissing):
        place.back("pred_1_0", EVE)
    with pytest.raises(RowMissing):
        place.forward(0, EVE)


def test_row_that_trained_a_model_leads_to_the_endpoint_that_serves_it(place: Place):
    root = place.forward(2)
    second, first = root.next
    assert (first.name, first.next) == ("digits version 1", ())
    assert second.facts["split"] == "train"
    assert path(second) == ["digits version 2", "run first", "digits version 1", "reader revision 1"]
    trained = second.next[0].next[0]
    assert (trained.kind, trained.facts["this row"]) == (Kind.MODEL_VERSION, "trained on it")
    assert trained.next[0].facts["now"] == "serving"


def test_row_that_only_judged_a_model_says_so(place: Place):
    assert place.forward(1).next[0].next[0].next[0].facts["this row"] == "judged on it (test)"


def test_row_that_no_run_read_leads_to_no_run(place: Place):
    only_test = {"test": model_version().provenance.splits["test"]}
    place.sources.version = model_version(
        provenance=msgspec.structs.replace(model_version().provenance, splits=only_test)
    )
    assert place.forward(2).next[0].next == ()


def test_row_that_was_cleaned_away_is_found_where_it_was(place: Place):
    assert [node.name for node in place.forward(6).next] == ["digits version 1"]
    with pytest.raises(RowMissing):
        place.forward(7)


def test_row_of_a_run_without_recorded_splits_may_have_been_read(place: Place):
    place.sources.version = model_version(provenance=Provenance(run_id="run_1"))
    assert place.forward(2).next[0].next[0].next[0].facts["this row"] == "may have trained on it"
