"""What fits is found; what does not is named, before anything runs."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.recipes.batch.ranges import Range, gaps
from skyloom.rooms.batch import rules
from skyloom.rooms.batch.model import BatchOrder, NotPredictable
from skyloom.rooms.data.contents import Column
from skyloom.rooms.data.making import ColumnType
from skyloom.rooms.registry.bundle import (
    BundleFile,
    Datatype,
    ImageInput,
    ImageLayout,
    Manifest,
    ModelKind,
    Signature,
    TensorSpec,
)
from skyloom.rooms.registry.services import ServiceMethod, ServiceSpec

ORDER = BatchOrder(dataset="d", model="m", to="said")
FILE = BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1)
ENCODED = BundleFile(path="encoding.json", digest=f"sha256:{'0' * 64}", size_bytes=1)


def spec(name: str, *tail: int, datatype: Datatype = Datatype.FP32) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *tail))


def manifest(*inputs: TensorSpec, columns: tuple[str, ...] = (), **changes: Any) -> Manifest:
    files = (FILE, ENCODED) if changes.pop("encoded", False) else (FILE,)
    output = changes.pop("output", spec("scores", 3))
    return Manifest(signature=Signature(inputs=inputs, outputs=(output,)), files=files, columns=columns, **changes)


def column(name: str, kind: ColumnType = ColumnType.FLOAT, *shape: int, arrow: str = "double", **more: Any) -> Column:
    return Column(name=name, type=kind, arrow_type=arrow, shape=shape, **more)


TABULAR = manifest(spec("row", 2), columns=("a", "b"))
NUMBERS = (column("a"), column("b", ColumnType.INTEGER), column("t", ColumnType.TEXT))


def order(**changes: Any) -> BatchOrder:
    return msgspec.structs.replace(ORDER, **changes)


def test_columns_of_a_table_are_found_by_name_or_as_told() -> None:
    assert rules.fit(ORDER, TABULAR, NUMBERS) == {"a": "a", "b": "b"}
    assert rules.fit(order(columns={"b": "a"}), TABULAR, NUMBERS) == {"a": "a", "b": "a"}


@pytest.mark.parametrize(
    ("asked", "model", "words"),
    [
        (order(columns={"b": "gone"}), TABULAR, ("'b'", "'gone'")),
        (order(columns={"z": "a"}), TABULAR, ("takes no 'z'",)),
        (order(columns={"b": "t"}), TABULAR, ("'t' is text", "takes numbers.")),
        (order(keep=("gone",)), TABULAR, ("'gone'",)),
        (order(keep=("source_row_id",)), TABULAR, ("'source_row_id'",)),
        (order(split="test"), TABULAR, ("not split",)),
        (ORDER, manifest(spec("image", 28, 28)), ("takes 'image'", "no column 'image'")),
        (order(columns={"x": "t"}), manifest(spec("x", 4)), ("'t' is text", "'x' takes FP32 of [4]")),
        (order(columns={"x": "a"}), manifest(spec("x", 4)), ("'a' holds [1]", "[4]")),
        (order(columns={"x": "a"}), manifest(spec("x", datatype=Datatype.INT64)), ("'a' holds fractions",)),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(asked: BatchOrder, model: Manifest, words: tuple[str, ...]) -> None:
    known = (*NUMBERS, column("source_row_id", ColumnType.INTEGER)) if "source_row_id" in asked.keep else NUMBERS
    with pytest.raises(NotPredictable) as refused:
        rules.fit(asked, model, known)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert refused.value.next_action


def test_part_that_no_row_is_in_is_named() -> None:
    split = column("split", ColumnType.TEXT, top={"train": 3, "test": 1})
    assert rules.fit(order(split="test"), TABULAR, (*NUMBERS, split))
    with pytest.raises(NotPredictable, match=r"part 'nope'.*train, test"):
        rules.fit(order(split="nope"), TABULAR, (*NUMBERS, split))


def test_texts_are_taken_where_the_bundle_knows_them() -> None:
    encoded = manifest(spec("row", 2), columns=("a", "t"), encoded=True)
    assert rules.fit(ORDER, encoded, NUMBERS) == {"a": "a", "t": "t"}


def test_only_image_that_fits_is_taken_whatever_it_is_called() -> None:
    model = manifest(spec("pixels", 8, 8, datatype=Datatype.UINT8))
    image = column("image", ColumnType.IMAGE, 8, 8, arrow="fixed_size_list<uint8>[64]")
    small = column("thumb", ColumnType.IMAGE, 4, 4, arrow="fixed_size_list<uint8>[16]")
    assert rules.fit(ORDER, model, (image, small)) == {"pixels": "image"}
    with pytest.raises(NotPredictable, match="--column pixels=COLUMN"):
        rules.fit(ORDER, model, (image, msgspec.structs.replace(image, name="other")))


def test_pictures_go_where_pictures_are_taken_and_pixels_are_not_left_unscaled() -> None:
    image = ImageInput(tensor="pixels", layout=ImageLayout.GREY, scale=1 / 255)
    model = manifest(spec("pixels", 8, 8), image=image)
    photo = column("image", ColumnType.ENCODED_IMAGE, arrow="binary")
    pixels = column("other", ColumnType.IMAGE, 8, 8, arrow="fixed_size_list<uint8>[64]")
    assert rules.fit(ORDER, model, (photo, pixels)) == {"pixels": "image"}
    with pytest.raises(NotPredictable, match=r"'other' is image.*scales pictures itself"):
        rules.fit(order(columns={"pixels": "other"}), model, (photo, pixels))
    plain = manifest(spec("pixels", 8, 8), image=ImageInput(tensor="pixels", layout=ImageLayout.GREY))
    assert rules.fit(order(columns={"pixels": "other"}), plain, (photo, pixels)) == {"pixels": "other"}
    with pytest.raises(NotPredictable, match="leaves their size open"):
        rules.fit(order(columns={"pixels": "image"}), manifest(spec("pixels", -1, -1), image=image), (photo,))


def test_service_of_own_python_is_refused() -> None:
    service = ServiceSpec(entry="service/a.py", class_name="A", methods=(ServiceMethod(name="greet"),))
    with pytest.raises(NotPredictable, match="service"):
        rules.outputs(manifest(spec("row", 2), service=service))


def test_outputs_become_columns_and_free_axes_are_refused() -> None:
    classes = manifest(spec("row", 2), kind=ModelKind.CLASSIFICATION)
    assert list(rules.outputs(classes)) == ["prediction", "score", "scores"]
    number = manifest(spec("row", 2), kind=ModelKind.REGRESSION, output=spec("prediction", 1))
    assert list(rules.outputs(number)) == ["prediction"]
    plain = manifest(spec("row", 2), output=spec("split", 4))
    assert list(rules.outputs(plain)) == ["split_output"]
    with pytest.raises(NotPredictable, match="'boxes'"):
        rules.outputs(manifest(spec("row", 2), output=spec("boxes", -1, 4)))


def test_job_carries_its_order_and_its_cores() -> None:
    resources = rules.resources_of(TABULAR, 2.7)
    job = rules.job(order(columns={"a": "b"}), resources)
    assert (resources.cpus, rules.resources_of(TABULAR, -1.0).cpus) == (2, 1)
    assert msgspec.json.decode(job.entry.args[1], type=BatchOrder) == order(columns={"a": "b"})  # type: ignore[union-attr]
    assert job.entry.args[-2:] == ("--cpus", "2") and job.max_retries > 0  # type: ignore[union-attr]


@given(st.sets(st.integers(0, 30)), st.integers(1, 30))
def test_gaps_are_all_that_is_not_done(rows: set[int], total: int) -> None:
    done = [Range(row, row + 1) for row in rows if row < total]
    left = [row for gap in gaps(done, total) for row in range(gap.start, gap.stop)]
    assert left == [row for row in range(total) if row not in rows]
