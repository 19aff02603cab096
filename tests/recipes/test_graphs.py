"""Graphs of registered models: registered from the document's own example, loaded and run as a replica does."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from skyloom.inference.runtimes.graph import RUNTIME
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.recipes.registering import FileNotServable, register_file
from skyloom.rooms.registry.bundle import ImageInput, ImageLayout, ModelKind, RuntimeName
from skyloom.sdk.graph import EdgeInvalid
from tests.inference.serving import graph, oracle, toy_model, toy_rows
from tests.recipes.test_registering import Uploads

DOCUMENT = Path(__file__).parents[2] / "docs" / "services.md"


class Registry(Uploads):
    """A cloud that finds again what was registered."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, object] = {}
        self.models.version = lambda model, reference: self.known[model]

    def register(self, name, manifest, **more):
        made = super().register(name, manifest, **more)
        made.model, made.number = name, 1
        self.known[name] = made
        return made


def scaler():
    """``scaled = raw / 2``: a step before a model, as a model."""
    half = helper.make_node("Constant", [], ["half"], value_float=0.5)
    return graph(
        [half, helper.make_node("Mul", ["raw", "half"], ["scaled"])],
        [helper.make_tensor_value_info("raw", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["batch", 4])],
    )


@pytest.fixture
def cloud(tmp_path):
    made = Registry()
    (tmp_path / "scaler.onnx").write_bytes(scaler().SerializeToString())
    register_file(made, "scaler", tmp_path / "scaler.onnx")
    for seed, name in enumerate(("flowers", "flowers-too")):
        (tmp_path / f"{name}.onnx").write_bytes(toy_model(seed).SerializeToString())
        register_file(made, name, tmp_path / f"{name}.onnx")
    return made


def documented(tmp_path: Path) -> Path:
    (text,) = re.findall(r"```toml\n(# ensemble\.toml\n.*?)```", DOCUMENT.read_text(), re.S)
    (tmp_path / "ensemble.toml").write_text(text)
    return tmp_path / "ensemble.toml"


def test_documented_ensemble_answers_as_its_models_do(cloud, tmp_path) -> None:
    made = register_file(cloud, "ensemble", documented(tmp_path))
    manifest = made.manifest
    assert manifest.runtime is RuntimeName.GRAPH
    assert [spec.name for spec in manifest.signature.inputs] == ["raw"]
    assert [(spec.name, spec.shape) for spec in manifest.signature.outputs] == [("scores", (-1, 3))]
    folder = tmp_path / "loaded"
    loaded = cloud.load(folder)
    rows = toy_rows(5)
    alone = [oracle(folder / "models" / name, rows / 2) for name in ("one", "two")]
    np.testing.assert_allclose(loaded.run([rows])[0], np.mean(alone, axis=0), rtol=1e-5)
    loaded.close()
    # A bundle whose parts were exchanged is not served, whatever its digests say.
    text = (folder / "graph.json").read_text()
    (folder / "graph.json").write_text(text.replace("pre.scaled", "two.scores", 1))
    with pytest.raises(BundleRefused):
        RUNTIME.signature(folder / "graph.json")


def test_meaning_of_pictures_and_labels_passes_through(cloud, tmp_path) -> None:
    means = graph(
        [helper.make_node("ReduceMean", ["image"], ["x"], axes=[2, 3], keepdims=0)],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 4, 2, 2])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
    )
    (tmp_path / "means.onnx").write_bytes(means.SerializeToString())
    seeing = register_file(cloud, "means", tmp_path / "means.onnx")
    image = ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST)
    seeing.manifest = msgspec.structs.replace(seeing.manifest, image=image)
    flowers = cloud.known["flowers"]
    named = {"kind": ModelKind.CLASSIFICATION, "labels": ("a", "b", "c")}
    flowers.manifest = msgspec.structs.replace(flowers.manifest, **named)
    (tmp_path / "seeing.toml").write_text(
        '[models]\nsee = "means"\nsay = "flowers"\n[edges]\n"say.x" = "see.x"\n[inputs]\nphoto = ["see.image"]\n'
    )
    manifest = register_file(cloud, "seeing", tmp_path / "seeing.toml").manifest
    assert manifest.image.tensor == "photo"
    assert (manifest.kind, manifest.labels) == (ModelKind.CLASSIFICATION, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("models = 3", FileNotServable, "no graph"),
        ("[models]\none = 'flowers'\n[wires]\n", FileNotServable, "wires"),
        ("[models", FileNotServable, "no graph"),
        ("[models]\none = 'flowers'\ntwo = 'scaler'\n[edges]\n'two.raw' = 'one.scores'\n", EdgeInvalid, "joins"),
        ("[models]\none = 'scaler'\n[edges]\n'one.raw' = 'one.scaled'\n", EdgeInvalid, "circle"),
    ],
)
def test_graph_that_cannot_be_meant_is_refused_when_it_is_registered(cloud, tmp_path, text, error, words) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(error, match=words):
        register_file(cloud, "odd", tmp_path / "odd.toml")


def test_model_of_a_process_of_its_own_is_no_part_of_a_graph(cloud, tmp_path) -> None:
    (tmp_path / "smol.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little"))
    register_file(cloud, "smol", tmp_path / "smol.gguf")
    (tmp_path / "odd.toml").write_text('[models]\none = "smol"\n')
    with pytest.raises(FileNotServable, match="process of its own"):
        register_file(cloud, "odd", tmp_path / "odd.toml")
