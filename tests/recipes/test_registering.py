"""Models from elsewhere: estimators as ONNX, and model files."""

from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest

from skyloom.inference import model as models
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.recipes.registering import EstimatorDiffers, FileNotServable, register_estimator, register_file
from skyloom.rooms.registry.bundle import ModelKind, RuntimeName, TextLimits
from skyloom.rooms.registry.model import BundleInvalid
from skyloom.rooms.registry.rules import check_manifest
from tests.inference.serving import TOY_SIGNATURE, oracle, toy_rows, write_bundle


class Uploads:
    """A cloud that keeps what it is given."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked = None
        self.transport = self
        self.models = SimpleNamespace(register=self.register)

    def upload(self, chunks, digest) -> None:
        self.blobs[digest] = b"".join(chunks())

    def register(self, name, manifest, **more):
        check_manifest(manifest)
        self.asked = SimpleNamespace(name=name, manifest=manifest, **more)
        return self.asked

    def load(self, folder):
        """The registered model, as a replica loads it."""
        folder.mkdir(exist_ok=True)
        for file in self.asked.manifest.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.path).write_bytes(self.blobs[file.digest])
        (folder / "manifest.json").write_bytes(msgspec.json.encode(self.asked.manifest))
        return models.load(folder, 1)


def test_model_file_is_registered_with_the_signature_that_it_declares(tmp_path) -> None:
    bundle, cloud = write_bundle(tmp_path / "made"), Uploads()
    made = register_file(cloud, "toy", bundle / "model.onnx")
    assert made.manifest.runtime is RuntimeName.ONNX
    assert made.manifest.signature == TOY_SIGNATURE
    rows = toy_rows(3)
    np.testing.assert_allclose(cloud.load(tmp_path / "loaded").run([rows])[0], oracle(bundle, rows), rtol=1e-6)


def test_file_of_no_runtime_is_refused(tmp_path) -> None:
    for name, content in (("model.pkl", b"x"), ("model.onnx", b"not onnx")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((FileNotServable, BundleRefused)):
            register_file(Uploads(), "toy", tmp_path / name)
    with pytest.raises(FileNotServable):
        register_file(Uploads(), "toy", tmp_path / "absent.onnx")


@pytest.mark.slow
def test_estimators_become_models_that_say_the_same(tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
    from skl2onnx.operator_converters.linear_regressor import convert_sklearn_linear_regressor
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from skyloom.runtime.estimators import NotConvertible

    rows, classes = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    names = np.array(["a", "b", "c"])[classes]
    fitted = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(rows, names)
    cloud = Uploads()
    made = register_estimator(cloud, "iris", fitted, rows, columns=("one", "two", "three", "four"))
    assert (made.manifest.kind, made.manifest.labels) == (ModelKind.CLASSIFICATION, ("a", "b", "c"))
    scores = cloud.load(tmp_path / "iris").run([rows])[0]
    differences = np.abs(scores - fitted.predict_proba(rows)).max(axis=1)
    assert (differences < 1e-5).mean() > 0.98  # a value on a tree's threshold may fall to either side of it
    assert made.parity.largest_difference == pytest.approx(differences.max(), abs=1e-6)

    class Off(Ridge):
        def predict(self, rows):
            return super().predict(rows) + 1

    update_registered_converter(Off, "Off", calculate_linear_regressor_output_shapes, convert_sklearn_linear_regressor)
    line = Ridge().fit(rows, classes.astype(np.float32))
    made = register_estimator(cloud, "line", line, rows)
    assert made.manifest.kind is ModelKind.REGRESSION
    values = cloud.load(tmp_path / "line").run([rows[:7]])[0]
    np.testing.assert_allclose(values[:, 0], line.predict(rows[:7]), atol=1e-5)
    with pytest.raises(EstimatorDiffers, match="of the rows"):
        register_estimator(cloud, "off", Off().fit(rows, classes), rows)
    with pytest.raises(NotConvertible, match="cannot be converted"):
        register_estimator(cloud, "raw", Ridge(), rows)


@pytest.mark.slow
def test_boosted_trees_of_xgboost_become_models_that_say_the_same(tmp_path) -> None:
    pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxmltools", reason="NOT TESTED: XGBoost needs pip install 'skyloom[sklearn]'")
    xgboost = pytest.importorskip("xgboost", reason="NOT TESTED: pip install xgboost")
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 5)).astype(np.float32)
    classes = (rows[:, 0] * rows[:, 1] > 0).astype(int) + (rows[:, 2] > 1)
    holes = np.where(random.random(rows.shape) < 0.2, np.float32("nan"), rows)
    cloud = Uploads()
    for name, estimator, given in (
        ("classes", xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(rows, classes), rows),
        ("missing", xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(holes, classes), holes),
        ("values", xgboost.XGBRegressor(n_estimators=8, max_depth=3).fit(rows, rows[:, 0]), rows),
    ):
        made = register_estimator(cloud, name, estimator, given)
        said = cloud.load(tmp_path / name).run([given[:50]])[0]
        ours = estimator.predict_proba(given[:50]) if made.manifest.labels else estimator.predict(given[:50])[:, None]
        np.testing.assert_allclose(said, ours, atol=1e-5)
        assert made.parity.largest_difference < 1e-4
    # The converter is wrong about forests, and what is wrong is not registered.
    forest = xgboost.XGBRFClassifier(n_estimators=8, max_depth=3).fit(rows, classes)
    with pytest.raises(EstimatorDiffers, match="100% of the rows") as refusal:
        register_estimator(cloud, "forest", forest, rows)
    assert "your own Python" in refusal.value.next_action


def test_language_model_is_registered_by_its_head(tmp_path) -> None:
    cloud = Uploads()
    (tmp_path / "smol.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(100))
    made = register_file(cloud, "smol", tmp_path / "smol.gguf", text=TextLimits(context_tokens=256))
    assert made.manifest.runtime is RuntimeName.GGUF and made.manifest.text.context_tokens == 256
    assert made.manifest.files[0].path == "model.gguf" and not made.manifest.signature.inputs
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + (1).to_bytes(4, "little"))
    with pytest.raises(FileNotServable, match="version 2 or 3"):
        register_file(cloud, "old", tmp_path / "old.gguf")
    with pytest.raises(FileNotServable, match="no language model"):
        bundle = write_bundle(tmp_path / "made")
        register_file(cloud, "toy", bundle / "model.onnx", text=TextLimits())
    tensors = msgspec.structs.replace(made.manifest, signature=TOY_SIGNATURE)
    with pytest.raises(BundleInvalid, match="tensors"):
        check_manifest(tensors)


def _exported(folder, weights: str = "net.onnx.data") -> None:
    """A graph whose weights lie in a file beside it, as torch's exporter writes it."""
    folder.mkdir(exist_ok=True)
    made = onnx.load(write_bundle(folder / "made") / "model.onnx")
    onnx.save(made, folder / "net.onnx", save_as_external_data=True, location=weights, size_threshold=0)


def test_weights_in_a_file_beside_the_graph_go_along(tmp_path, monkeypatch) -> None:
    cloud = Uploads()
    _exported(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")  # ONNX Runtime looked for them in the working folder
    made = register_file(cloud, "toy", "net.onnx")
    assert [file.path for file in made.manifest.files][:2] == ["model.onnx", "net.onnx.data"]
    rows = toy_rows(3)
    monkeypatch.chdir(tmp_path)
    said = cloud.load(tmp_path / "loaded").run([rows])[0]
    np.testing.assert_allclose(said, oracle(tmp_path / "here" / "made", rows), rtol=1e-6)


def test_weights_that_are_not_beside_the_graph_are_refused_by_their_name(tmp_path) -> None:
    _exported(tmp_path)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(FileNotServable, match=r"net\.onnx\.data, which is not beside it"):
        register_file(Uploads(), "toy", tmp_path / "net.onnx")
    _exported(tmp_path / "odd", "manifest.json")
    with pytest.raises(FileNotServable, match=r"weights in 'manifest\.json'"):
        register_file(Uploads(), "toy", tmp_path / "odd" / "net.onnx")


@pytest.mark.parametrize(
    ("name", "says"), [("a.pkl", "register_estimator"), ("a.pt", "torch.onnx.export"), ("a.h5", ".onnx, .tflite")]
)
def test_file_of_no_runtime_says_what_would_do(tmp_path, name, says) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotServable) as refused:
        register_file(Uploads(), "toy", tmp_path / name)
    assert says in refused.value.next_action
    with pytest.raises(FileNotServable, match="There is no file"):
        register_file(Uploads(), "toy", tmp_path / "absent.pkl")
