"""What cannot be trained is refused with one clear line; nothing is half done."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skyloom.core.errors import SkyloomError
from skyloom.recipes import columns, image_training, tabular_training
from skyloom.recipes.config import BadParameters
from skyloom.recipes.entry import LibraryMissing, require, start
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.gang import NoGpu
from skyloom.runtime.rows import ColumnMissing, MemoryRows, SplitEmpty
from skyloom.runtime.shards import TooFewRows

RNG = np.random.default_rng(0)
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Outside of a job, with folders of its own."""
    for name in ("SKYLOOM_JOB_ID", "SKYLOOM_RUN", "SKYLOOM_TRAINING", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def table(num_rows: int = 20, **changes: Any) -> pa.Table:
    fields: dict[str, Any] = {"a": RNG.normal(size=num_rows), "b": RNG.normal(size=num_rows), "label": ["x", "y"] * 10}
    return pa.table({**{name: values[:num_rows] for name, values in fields.items()}, **changes})


def splits(**changes: Any) -> MemoryRows:
    return MemoryRows({"train": table(**changes), "test": table(**changes)})


def plan(**changes: Any) -> TrainingPlan:
    return TrainingPlan(**{"target": "label", "parameters": {"epochs": 1}, **changes})


@pytest.mark.parametrize(
    ("asked", "rows", "error", "words"),
    [
        (plan(target="price"), splits(), ColumnMissing, "no column 'price'"),
        (plan(parameters={"features": ("a", "z")}), splits(), ColumnMissing, "no column 'z'"),
        (plan(parameters={"ignore": ("a", "b")}), splits(), tabular_training.NoFeatures, "No column is left"),
        (plan(), splits(label=["x"] * 20), columns.TargetUnusable, "one class only: 'x'"),
        (plan(), splits(label=["x", None] * 10), columns.TargetUnusable, "10 training rows have no 'label'"),
        (plan(parameters={"task": "regression"}), splits(), columns.TargetUnusable, "regression needs numbers"),
        (plan(evaluate_on="validation"), splits(), SplitEmpty, "'validation' has no rows"),
        (plan(), MemoryRows({"train": table(), "test": table().slice(0, 0)}), SplitEmpty, "'test' has no rows"),
        (plan(parameters={"epochs": 0}), splits(), BadParameters, "epochs"),
        (plan(parameters={"epoch": 5}), splits(), BadParameters, "learning_rate"),
        (plan(parameters={"learning_rate": "fast"}), splits(), BadParameters, "learning_rate"),
        (plan(), splits(when=pa.array([1] * 20, pa.timestamp("s"))), tabular_training.NoFeatures, "ignore=['when']"),
        (plan(), splits(text=[None] * 20), tabular_training.NoFeatures, "'text'"),
    ],
)
def test_tabular_training_that_cannot_be_is_refused(
    asked: TrainingPlan, rows: MemoryRows, error: type[SkyloomError], words: str
) -> None:
    with pytest.raises(error) as caught:
        tabular_training.run(asked, rows)
    assert words in str(caught.value)
    assert caught.value.next_action


def test_fewer_rows_than_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from skyloom.runtime.fit import FitPlan, fit
    from skyloom.runtime.gang import Gang

    model = torch.nn.Linear(1, 1)
    with pytest.raises(TooFewRows, match="2 training rows for 3 workers"):
        fit(model, lambda rows: model(torch.ones(1, 1)).sum(), 2, FitPlan(), Gang(0, 3, torch.device("cpu")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(NoGpu, match="device is cuda"):
        tabular_training.run(plan(parameters={"device": "cuda"}), splits())


def test_device_that_is_no_word_of_ours_is_refused() -> None:
    with pytest.raises(SkyloomError, match="Use auto, cpu or cuda"):
        tabular_training.run(plan(parameters={"device": "tpu"}), splits())


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.chunked_array([["a.png"] * 20]), "not images of one size"),
        (pa.chunked_array([pa.array([[1, 2], [3]] * 10, pa.list_(pa.uint8()))]), "not images of one size"),
        (pa.chunked_array([pa.array([[1, 2, 3]] * 20, pa.list_(pa.uint8(), 3))]), "no square image"),
        (pa.chunked_array([pa.array([[1] * 4, None] * 10, pa.list_(pa.uint8(), 4))]), "10 rows have no image"),
    ],
)
def test_column_that_holds_no_images_is_refused(column: pa.ChunkedArray, words: str) -> None:
    rows = pa.table({"image": column, "label": ["x", "y"] * 10})
    with pytest.raises(columns.NotAnImageColumn, match=words):
        image_training.run(plan(), MemoryRows({"train": rows, "test": rows}))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (1, 3, 5), (8, 9, 3), (3, 8, 9)])
def test_image_network_takes_every_layout(shape: tuple[int, ...]) -> None:
    net = image_training.ImageNet(shape, 4, 8)
    said = net(torch.randint(0, 256, (6, *shape), dtype=torch.uint8))
    assert said.shape == (6, 4)
    assert torch.allclose(said.sum(dim=1), torch.ones(6))


def test_layouts_of_one_picture_say_the_same() -> None:
    torch.manual_seed(0)
    last = image_training.ImageNet((16, 12, 3), 4, 8)
    first = image_training.ImageNet((3, 16, 12), 4, 8)
    first.load_state_dict(last.state_dict())
    pixels = torch.randint(0, 256, (2, 16, 12, 3), dtype=torch.uint8)
    assert torch.equal(last(pixels), first(pixels.permute(0, 3, 1, 2)))


def test_recipe_without_a_plan_says_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("skyloom.recipes.tabular_training", []) == 2
    assert "skyloom train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be meant"),
        ('{"target": 3}', "$.target"),
        ('{"targt": "x"}', "targt"),
        ('{"target": "x"}', "--dataset"),
    ],
)
def test_recipe_with_a_plan_that_cannot_be_read_says_what(
    tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(content)
    assert start("skyloom.recipes.tabular_training", ["--config", "plan.json"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_library_that_is_not_installed_is_named_with_what_to_do() -> None:
    with pytest.raises(LibraryMissing, match=r"no_such_library is not installed here. Install it: pip install torch"):
        require("json", "no_such_library")


@pytest.mark.slow
def test_recipe_without_torch_ends_with_one_line_and_no_trace(tmp_path: Path) -> None:
    """A Python whose torch cannot be found."""
    program = (
        "import importlib.util as util, runpy, sys\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
        "sys.argv = ['image', '--config', 'plan.json']\n"
        "runpy.run_module('skyloom.recipes.image', run_name='__main__')\n"
    )
    (tmp_path / "plan.json").write_text(json.dumps({"target": "x"}))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("skyloom: torch is not installed here. Install it")
    assert "Traceback" not in done.stderr
