"""The tabular recipe on real tables, in real processes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from skyloom.rooms.registry.bundle import Datatype, Manifest, ModelKind
from tests.runtime.gangs import run_gang

TABLES = '''
import os, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from sklearn import datasets
from skyloom.recipes.tabular_training import run
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.rows import MemoryRows

def mixed():
    """Numbers with gaps and a text column; the answer hangs on both."""
    random = np.random.default_rng(1)
    colour, size = random.choice(["red", "green", "blue"], 600), random.normal(100, 30, 600)
    price = size * 2 + np.where(colour == "red", 50, 0)
    size[random.random(600) < 0.02] = np.nan
    return pa.table({"colour": colour, "size": size, "id": np.arange(600), "price": price})

def real(name):
    found = getattr(datasets, "load_" + name)()
    columns = {str(feature): found.data[:, at] for at, feature in enumerate(found.feature_names)}
    names = getattr(found, "target_names", None)
    target = found.target if name == "diabetes" else np.array([str(names[label]) for label in found.target])
    return pa.table({**columns, "target": target})

for name in sys.argv[3].split(","):
    table = mixed() if name == "mixed" else real(name)
    order = np.random.default_rng(0).permutation(table.num_rows)
    cut = len(order) * 4 // 5
    splits = {"train": table.take(order[:cut]), "test": table.take(order[cut:])}
    folder = Path(os.environ["OUT"]) / name
    os.environ["SKYLOOM_SHARED_FOLDER"] = os.environ["SKYLOOM_TASK_FOLDER"] = str(folder)
    plan = TrainingPlan(
        target="price" if name == "mixed" else "target",
        parameters={"ignore": ["id"]} if name == "mixed" else {},
    )
    run(plan, MemoryRows(splits))
'''
NAMES = ("breast_cancer", "wine", "diabetes", "mixed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    program = folder / "tables.py"
    program.write_text(TABLES.replace("sys.argv[3]", repr(",".join(NAMES))))
    done = run_gang(program, 1, folder, OUT=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def metrics(folder: Path, name: str) -> dict[str, Any]:
    outcome = json.loads((folder / name / "result.json").read_text())
    found: dict[str, Any] = outcome["evaluation"]["metrics"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "floor"),
    [("breast_cancer", "accuracy", 0.94), ("wine", "accuracy", 0.94), ("diabetes", "r2", 0.3), ("mixed", "r2", 0.97)],
)
def test_tabular_recipe_reaches_its_figure(trained: Path, name: str, metric: str, floor: float) -> None:
    assert metrics(trained, name)[metric] >= floor


@pytest.mark.slow
def test_tabular_bundle_says_what_its_columns_are_and_takes_gaps(trained: Path) -> None:
    folder = trained / "mixed" / "bundle"
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    assert manifest.kind is ModelKind.REGRESSION
    assert manifest.columns == ("colour", "size")
    (row,) = manifest.signature.inputs
    assert (row.name, row.datatype, row.shape) == ("row", Datatype.FP32, (-1, 2))
    encoding = json.loads((folder / "encoding.json").read_bytes())
    assert encoding[0] == {"name": "colour", "values": ["blue", "green", "red"]}
    assert {file.path for file in manifest.files} == {"model.onnx", "profile.json", "encoding.json"}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    red, blue, gap, unknown = [2.0, 100.0], [0.0, 100.0], [2.0, np.nan], [np.nan, 100.0]
    (said,) = session.run(None, {"row": np.array([red, blue, gap, unknown], dtype=np.float32)})
    assert said.shape == (4, 1)
    assert np.isfinite(said).all()
    assert pytest.approx(said[0, 0], abs=12) == 250
    assert pytest.approx(said[1, 0], abs=12) == 200


@pytest.mark.slow
def test_classifier_bundle_keeps_its_labels(trained: Path) -> None:
    manifest = msgspec.json.decode((trained / "wine" / "bundle" / "manifest.json").read_bytes(), type=Manifest)
    assert manifest.kind is ModelKind.CLASSIFICATION
    assert manifest.labels == ("class_0", "class_1", "class_2")
