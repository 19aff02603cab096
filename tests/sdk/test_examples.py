"""Examples fit what they are examples of."""

import msgspec
import pytest

from skyloom.core import digests
from skyloom.rooms.monitoring.model import Feature, Profile, Reduction
from skyloom.rooms.registry.bundle import (
    ENCODING_FILE,
    PROFILE_FILE,
    BundleFile,
    Datatype,
    FeatureColumn,
    Manifest,
    Signature,
    TensorSpec,
)
from skyloom.rooms.registry.services import ServiceMethod, ServiceParameter
from skyloom.sdk.examples import DescriptionDamaged, example_call, example_of, texts_of

FILE = BundleFile(path="model.onnx", digest=f"sha256:{'0' * 64}", size_bytes=1)


class Blobs:
    def __init__(self, **files: bytes) -> None:
        self.contents = {digests.of_bytes(content): content for content in files.values()}
        names = {"encoding": ENCODING_FILE, "profile": PROFILE_FILE}
        self.files = tuple(
            BundleFile(path=names[name], digest=digests.of_bytes(content), size_bytes=len(content))
            for name, content in files.items()
        )

    def download(self, digest: str):
        yield self.contents[digest]


def manifest_of(*inputs: TensorSpec, files: tuple[BundleFile, ...] = (), columns: tuple[str, ...] = ()) -> Manifest:
    output = TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 1))
    return Manifest(signature=Signature(inputs=inputs, outputs=(output,)), files=(FILE, *files), columns=columns)


def tensor(name: str, datatype: Datatype, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *shape))


def test_row_by_columns_has_known_texts_and_usual_numbers() -> None:
    feature = Feature(name="age", tensor="x", reduction=Reduction.COLUMN, column=0, edges=(1.0, 33.333, 90.0))
    texts = (FeatureColumn(name="age"), FeatureColumn(name="city", values=("Paris", "Rome")))
    blobs = Blobs(encoding=msgspec.json.encode(texts), profile=msgspec.json.encode(Profile(features=(feature,))))
    manifest = manifest_of(tensor("x", Datatype.FP32, 3), files=blobs.files, columns=("age", "city", "fare"))
    assert example_of(blobs, manifest) == {"age": 33.3, "city": "Paris", "fare": 0.0}
    assert texts_of(blobs, manifest) == {"city": ("Paris", "Rome")}


@pytest.mark.parametrize(
    ("inputs", "example"),
    [
        ([tensor("x", Datatype.FP32, 2)], [[0.0, 0.0]]),
        ([tensor("x", Datatype.INT64, 1, 2)], [[[0, 0]]]),
        ([tensor("x", Datatype.FP32)], [0.0]),
        ([tensor("x", Datatype.BYTES, -1)], [["hello"]]),
        ([tensor("a", Datatype.BOOL, 1), tensor("b", Datatype.UINT8, 1)], {"a": [[True]], "b": [[0]]}),
        ([tensor("x", Datatype.FP32, 28, 28)], None),
        ([], None),
    ],
)
def test_rows_without_names_have_the_shape_and_type_of_the_inputs(inputs, example) -> None:
    assert example_of(Blobs(), manifest_of(*inputs)) == example


def test_damaged_descriptions_are_refused() -> None:
    blobs = Blobs(encoding=b"{")
    with pytest.raises(DescriptionDamaged, match=r"encoding\.json"):
        texts_of(blobs, manifest_of(files=blobs.files))


def test_calls_have_what_is_needed() -> None:
    parameters = (
        ServiceParameter(name="text", annotation="str", schema='{"type": "string"}'),
        ServiceParameter(name="whatever", annotation="Any", schema="{}"),
        ServiceParameter(name="times", annotation="int", schema='{"type": "integer"}', required=False),
    )
    assert example_call(ServiceMethod(name="tell", parameters=parameters)) == {"text": "hello", "whatever": None}
