"""Every row is predicted once, by the model that a replica would serve, or is told with why it was not."""

import io
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from skyloom.inference.elements import from_bfloat16
from skyloom.inference.model import Model
from skyloom.recipes.batch.inputs import RowReader, unheld
from skyloom.recipes.batch.outputs import AnswerWriter
from skyloom.recipes.batch.predicting import LoadedModels
from skyloom.recipes.batch.ranges import KeptRanges, LostRow, Range
from skyloom.recipes.batch.stride import Stride
from skyloom.rooms.batch.model import NotPredictable
from skyloom.rooms.registry.bundle import BundleFile, Datatype, ImageInput, ImageLayout, Manifest, Signature, TensorSpec
from skyloom.tables.memory import MemoryTables
from tests.recipes.batch.kit import Desk, toy_rows, vectors


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, MemoryTables())


def test_all_rows_are_predicted_in_order_with_their_ids(desk: Desk) -> None:
    rows = toy_rows(3_000)
    desk.fill(vectors(rows))
    version, contents = desk.predict(keep=("n",))
    found, expected = desk.rows(), desk.expected(rows)
    assert (version.number, version.num_rows, contents.num_rows) == (1, 3_000, 3_000)
    assert [row["source_row_id"] for row in found] == [row["n"] for row in found] == list(range(3_000))
    np.testing.assert_allclose([row["scores"] for row in found], expected, rtol=1e-6)
    assert [row["prediction"] for row in found] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([row["score"] for row in found], expected.max(axis=1), rtol=1e-6)
    assert "3,000 of 3,000 rows" in desk.said[-1] and "100%" in desk.said[-1]


def test_models_that_were_measured_go_on_and_others_are_let_go() -> None:
    asked: list[int] = []

    def load(threads: int) -> Model:
        asked.append(threads)
        return object()  # type: ignore[return-value]

    loaded = LoadedModels(load)
    first = loaded(1)
    loaded.free()
    measured = [loaded(1), loaded(1), loaded(2)]
    assert measured[0] is first and measured[1] is not first
    loaded.free(1)
    assert {id(loaded(1)), id(loaded(1))} == {id(one) for one in measured[:2]}
    assert asked == [1, 1, 2]
    loaded(2)
    assert asked == [1, 1, 2, 2]


def test_part_of_a_split_keeps_the_ids_of_the_whole(desk: Desk) -> None:
    desk.fill(vectors(toy_rows(100)))
    _, contents = desk.predict(split="test")
    assert [row["source_row_id"] for row in desk.rows()] == list(range(0, 100, 3))
    assert contents.reports[0].rows_in == contents.num_rows == 34


def test_rows_without_a_value_are_left_out_and_told(desk: Desk) -> None:
    values = [None if place % 10 == 0 else row.tolist() for place, row in enumerate(toy_rows(95))]
    values[7] = [1.0, None, 2.0, 3.0]  # type: ignore[list-item]
    desk.fill(pa.table({"x": pa.array(values, pa.list_(pa.float32(), 4))}))
    _, contents = desk.predict()
    (loss,) = contents.reports[0].losses
    assert (loss.num_rows, contents.num_rows, contents.num_rejects) == (11, 84, 11)
    assert "'x'" in loss.reason and loss.examples[1].row_id == 7
    told = [msgspec.json.decode(line, type=LostRow).row_id for line in desk.kept[0].splitlines()]
    assert told == sorted([*range(0, 95, 10), 7])
    assert not {row["source_row_id"] for row in desk.rows()} & set(told)


def test_rows_left_out_for_more_reasons_than_a_report_holds_are_counted_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def each_its_own(self: RowReader, batch: pa.RecordBatch) -> dict[int, str]:
        numbers = batch.column("_rowid").to_pylist()
        return {place: f"reason {number}" for place, number in enumerate(numbers) if number < 250}

    desk.fill(vectors(toy_rows(300)))
    monkeypatch.setattr(RowReader, "rejects", each_its_own)
    monkeypatch.setattr(
        "skyloom.recipes.batch.predicting._pace", lambda *_: Stride(workers=1, threads=1, batch=8, rows_per_s=1e6)
    )
    _, contents = desk.predict()
    (report,) = contents.reports
    assert (report.rows_out, contents.num_rows, contents.num_rejects, len(report.losses)) == (50, 50, 250, 200)


def test_number_that_the_input_cannot_hold_is_told_and_not_made_another_one(tmp_path: Path) -> None:
    inputs = (
        TensorSpec(name="n", datatype=Datatype.INT8, shape=(-1,)),
        TensorSpec(name="pair", datatype=Datatype.UINT8, shape=(-1, 2)),
        TensorSpec(name="wide", datatype=Datatype.FP32, shape=(-1,)),
    )
    file = BundleFile(path="model.onnx", digest="sha256:" + "0" * 64, size_bytes=1)
    made = Manifest(signature=Signature(inputs=inputs, outputs=()), files=(file,))
    pairs = pa.array([[9, 9], [1, 2], [3, 4], None, [255, 0], [256, 0]], pa.list_(pa.int64(), 2))[1:]
    batch = pa.record_batch({"n": pa.array([127, 128, -128, None, -129]), "pair": pairs, "wide": pa.array([2**40] * 5)})
    reader = RowReader(made, {"n": "n", "pair": "pair", "wide": "wide"}, tmp_path)
    _, tensors, reasons = reader.read(batch)
    assert sorted(reasons) == [1, 2, 3, 4] and "'n' that INT8" in reasons[1] and "'n' that INT8" in reasons[4]
    assert [tensor.tolist() for tensor in tensors[:2]] == [[127], [[1, 2]]]


def _tabular(folder: Path, kind: Datatype, *columns: str) -> RowReader:
    spec = TensorSpec(name="rows", datatype=kind, shape=(-1, len(columns)))
    file = BundleFile(path="model.onnx", digest="sha256:" + "0" * 64, size_bytes=1)
    made = Manifest(signature=Signature(inputs=(spec,), outputs=()), files=(file,), columns=columns)
    return RowReader(made, {name: name for name in columns}, folder)


def test_fraction_or_no_number_where_a_row_takes_whole_numbers_is_told_and_not_cut_off(tmp_path: Path) -> None:
    reader = _tabular(tmp_path, Datatype.INT64, "age", "id")
    ages = pa.array([1.0, 1.7, float("nan"), float("inf"), -3.0, 2.0**63, None])
    kept, (tensor,), reasons = reader.read(pa.record_batch({"age": ages, "id": pa.array([2**53 + 1] * 7)}))
    assert (kept.num_rows, tensor.tolist()) == (2, [[1, 2**53 + 1], [-3, 2**53 + 1]])
    assert reasons == {
        1: "a fraction in 'age'; the model takes INT64",
        2: "a value in 'age' that is no number; the model takes INT64",
        3: "a value in 'age' that is no number; the model takes INT64",
        5: "a value in 'age' that INT64 does not hold",
        6: "no value in 'age'",
    }


def test_number_too_large_for_a_row_of_floats_is_told_and_not_made_infinite(tmp_path: Path) -> None:
    reader = _tabular(tmp_path, Datatype.FP32, "income")
    _, (tensor,), reasons = reader.read(pa.record_batch({"income": pa.array([1e300, 0.1, float("nan")])}))
    assert reasons == {0: "a value in 'income' that FP32 does not hold"}
    assert tensor[0, 0] == np.float32(0.1) and np.isnan(tensor[1, 0])
    double = _tabular(tmp_path, Datatype.FP64, "income").read(pa.record_batch({"income": pa.array([0.1])}))
    assert double[1][0].tolist() == [[0.1]]  # as a request has it, not by way of FP32


@pytest.mark.parametrize(
    ("kind", "numbers", "beyond"),
    [
        (Datatype.BF16, np.array([[70_000], [-1]]), [False, False]),
        (Datatype.BF16, np.array([[3.3e38], [3.4e38]]), [False, True]),
        (Datatype.FP16, np.array([[65_504], [70_000]]), [False, True]),
        (Datatype.BOOL, np.array([[0], [5]]), [False, True]),
        (Datatype.UINT64, np.array([[-1], [1]]), [True, False]),
        (Datatype.UINT8, np.array([[1, 2], [255, 256]]), [False, True]),
    ],
)
def test_what_a_type_does_not_hold_is_found(kind: Datatype, numbers: np.ndarray, beyond: list[bool]) -> None:
    assert unheld(kind, numbers).tolist() == beyond


def test_no_row_that_can_be_predicted_makes_no_version(desk: Desk) -> None:
    desk.fill(pa.table({"x": pa.array([None, None], pa.list_(pa.float32(), 4))}))
    with pytest.raises(NotPredictable, match=r"None of 2 rows.*row 0: .*'x'"):
        desk.predict()
    assert desk.tables.versions("p/said") == []


def test_second_try_goes_on_with_the_ranges_that_are_missing(desk: Desk) -> None:
    rows = toy_rows(1_000)
    desk.fill(vectors(rows))
    done = KeptRanges(desk.folder / "shards", 1_000)
    _, contents = Desk(desk.folder, desk.tables).predict()
    assert contents.num_rows == 1_000
    again = desk.predict()  # committed before: nothing is read or written
    assert again[0].number == 1 and not desk.said and len(done.done()) >= 1


def test_row_that_the_model_fails_on_costs_only_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from skyloom.inference.model import Model, ModelFailed

    plain = Model.run

    def fails(self: Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if (inputs[0] == 77.0).any():
            raise ModelFailed("no", next_action="no")
        return plain(self, inputs)

    monkeypatch.setattr(Model, "run", fails)
    rows = toy_rows(700)
    rows[[3, 600]] = 77.0
    desk.fill(vectors(rows))
    _, contents = desk.predict()
    (loss,) = contents.reports[0].losses
    assert [one.row_id for one in loss.examples] == [3, 600] and contents.num_rows == 698
    good = [row["source_row_id"] for row in desk.rows()]
    np.testing.assert_allclose([row["scores"] for row in desk.rows()], desk.expected(rows[good]), rtol=1e-6)


def test_batch_of_which_the_model_fails_on_every_row_costs_only_itself(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skyloom.inference.model import Model, ModelFailed

    def fails(self: Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
        raise ModelFailed("no", next_action="no")

    desk.fill(vectors(toy_rows(20)))
    monkeypatch.setattr(
        "skyloom.recipes.batch.predicting._pace", lambda *_: Stride(workers=1, threads=1, batch=8, rows_per_s=1e6)
    )
    monkeypatch.setattr(Model, "run", fails)
    with pytest.raises(NotPredictable, match="the model failed on this row"):
        desk.predict()


def test_failure_of_a_worker_ends_all_and_commits_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.fill(vectors(toy_rows(2_000)))
    monkeypatch.setattr(KeptRanges, "keep", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        desk.predict()
    assert desk.tables.versions("p/said") == []


def test_empty_part_is_refused(desk: Desk) -> None:
    desk.fill(vectors(toy_rows(10)))
    with pytest.raises(NotPredictable, match="no row"):
        desk.predict(split="validation")


def test_claims_of_many_workers_cover_each_row_once(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64())])
    shards = KeptRanges(tmp_path / "s", 100)
    shards.keep(Range(10, 20), schema, [], [])
    shards.keep(Range(50, 61), schema, [], [])
    claimed = []
    later = KeptRanges(tmp_path / "s", 100)
    while one := later.claim(7):
        claimed += range(one.start, one.stop)
    assert sorted(claimed) == [n for n in range(100) if not 10 <= n < 20 and not 50 <= n < 61]


def test_texts_and_half_precision_go_in_and_come_out(tmp_path: Path) -> None:
    answers = {"words": np.array(["a", "ü"], object), "half": np.array([[1.5, 2.0], [0.25, -1.0]], np.float16)}
    inputs = (
        TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1, 1)),
        TensorSpec(name="brain", datatype=Datatype.BF16, shape=(-1,)),
    )
    outputs = (
        TensorSpec(name="words", datatype=Datatype.BYTES, shape=(-1,)),
        TensorSpec(name="half", datatype=Datatype.FP16, shape=(-1, 2)),
    )
    file = BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1)
    manifest = Manifest(signature=Signature(inputs=inputs, outputs=outputs), files=(file,))
    reader = RowReader(manifest, {"text": "t", "brain": "n"}, tmp_path)
    batch = pa.record_batch({"t": pa.array(["x", None, "z"]), "n": pa.array([1.0, 2.0, 1.5])})
    assert list(reader.rejects(batch)) == [1]
    text, brain = reader.tensors(batch.take(pa.array([0, 2])))
    assert text.tolist() == [["x"], ["z"]] and from_bfloat16(brain).tolist() == [1.0, 1.5]
    writer = AnswerWriter(manifest, [])
    made = writer.batch(pa.array([4, 9]), [], [answers["words"], answers["half"]]).to_pylist()
    assert made[1] == {"source_row_id": 9, "words": "ü", "half": [0.25, -1.0]}


def test_pictures_are_read_as_the_bundle_says_and_broken_ones_are_told(tmp_path: Path) -> None:
    from PIL import Image

    def png(value: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", (4, 2), value).save(file, "PNG")
        return file.getvalue()

    spec = TensorSpec(name="pixels", datatype=Datatype.FP32, shape=(-1, 2, 4))
    file = BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1)
    image = ImageInput(tensor="pixels", layout=ImageLayout.GREY, scale=0.5, mean=(1.0,))
    signature = Signature(inputs=(spec,), outputs=(spec,))
    reader = RowReader(Manifest(signature=signature, files=(file,), image=image), {"pixels": "photo"}, tmp_path)
    batch = pa.record_batch({"photo": pa.array([png(10), b"no picture", None, png(20)], pa.binary())})
    kept, (tensor,), reasons = reader.read(batch)
    assert kept.num_rows == 2 and tensor.shape == (2, 2, 4) and sorted(reasons) == [1, 2]
    assert "'photo'" in reasons[1] and "not a picture" in reasons[1]
    assert [float(row.mean()) for row in tensor] == [4.0, 9.0]
