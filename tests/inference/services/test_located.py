"""Models beside a service: their signatures are kept, and graphs of them run in the service's process."""

import hashlib
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from skyloom.inference.elements import from_bfloat16
from skyloom.inference.services.located import EdgeMismatch, Located
from skyloom.rooms.registry.bundle import Datatype, Manifest, Signature, TensorSpec
from tests.inference.services.workplace import listed, working, write_service
from tests.inference.serving import oracle, toy_rows, write_bundle

SOURCE = """
import numpy as np
from numpy.typing import NDArray
import skyloom

class Beside(skyloom.Service):
    models = {"one": "toy", "two": "toy"}

    @skyloom.endpoint
    def best(self, rows: list[list[float]]) -> list[int]:
        return self.model("one").predict(rows)["scores"].argmax(1).tolist()

    @skyloom.endpoint
    def both(self, rows: NDArray[np.float32]) -> list[str]:
        return sorted(self.flow({"one.x": rows, "two.x": rows}))

    @skyloom.endpoint
    def wrong(self) -> int:
        self.model("one").predict([[1.0]])

    @skyloom.endpoint
    def nobody(self) -> int:
        self.model("three")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


def test_located_model_keeps_to_its_signature(bundle) -> None:
    located = Located.load("toy", bundle, 1)
    rows = toy_rows(3)
    expected = oracle(bundle, rows)
    for given in (rows, rows.tolist(), {"x": rows}, rows.astype(np.float64)):
        np.testing.assert_allclose(located.predict(given)["scores"], expected, rtol=1e-5)
    np.testing.assert_allclose(located.predict(x=rows)["scores"], expected, rtol=1e-5)
    for wrong, words in (
        (rows[:, :2], r"takes x as \[-1, 4\]"),
        (rows[0], "takes x as"),
        (rows[:0], "takes x as"),
        (rows.astype(complex), "complex128"),
        ({"y": rows}, "was given"),
    ):
        with pytest.raises(EdgeMismatch, match=words):
            located.predict(wrong)


def fitted(datatype: Datatype, value):
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, -1))
    model = SimpleNamespace(manifest=SimpleNamespace(signature=Signature(inputs=(spec,), outputs=())), run=list)
    seen = []
    model.run = lambda arrays: seen.extend(arrays) or []
    Located("toy", model).predict(value)
    return seen[0]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (Datatype.INT64, [[1.5]]),
        (Datatype.INT32, np.array([[2**40]])),
        (Datatype.UINT8, [[-1]]),
        (Datatype.BOOL, [[2]]),
        (Datatype.FP32, [["one"]]),
        (Datatype.FP32, [[1.0], [2.0, 3.0]]),
    ],
)
def test_value_that_would_become_another_is_refused(datatype, value) -> None:
    with pytest.raises(EdgeMismatch):
        fitted(datatype, value)


def test_value_that_the_type_holds_is_taken() -> None:
    assert fitted(Datatype.INT32, np.array([[7]])).dtype == np.int32
    assert fitted(Datatype.FP32, [[1, 2]]).tolist() == [[1.0, 2.0]]
    assert from_bfloat16(fitted(Datatype.BF16, [[1.5, -2.0]])).tolist() == [[1.5, -2.0]]


def test_service_asks_the_models_beside_it(bundle, tmp_path) -> None:
    for name in ("one", "two"):
        shutil.copytree(bundle, tmp_path / "models" / name)
    manifest = write_service(tmp_path, SOURCE, "Beside", models={"one": "models/one", "two": "models/two"})
    with working(tmp_path, manifest) as asking:
        rows = toy_rows(5)
        assert asking.call("best", rows=rows.tolist()) == oracle(bundle, rows).argmax(1).tolist()
        assert asking.call("both", rows=rows.tolist()) == ["one.scores", "two.scores"]
        assert "takes x as [-1, 4]" in asking.call("wrong").message
        assert "no model 'three'" in asking.call("nobody").message
    assert {file.path for file in manifest.files} >= {"models/one/model.onnx", "models/two/manifest.json"}
    nested = listed(tmp_path, tmp_path / "models/one/manifest.json")
    assert nested.digest.removeprefix("sha256:") == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest).service is None
