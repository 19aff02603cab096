"""Training on a real control plane: from files to a registered model, through jobs."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.jobs.model import ENDED, JobState
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.registry.model import ModelVersion
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane

pytestmark = pytest.mark.slow

SCRIPT = '''
"""A training of one's own, in twenty lines: any network, any loss, the same gang, checkpoints, report and registry."""
import numpy as np
import torch
from skyloom.recipes.package import Meaning, package
from skyloom.recipes.publish import publish
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.registry.model import Provenance
from skyloom.runtime import context
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.fit import FitPlan, fit
from skyloom.runtime.gang import gang
from skyloom.runtime.training import rows, training

plan, here = training(), context()
train, test = (rows(plan).read(split, ["x1", "x2", "y"]).table.to_pandas().to_numpy(np.float32) for split in ("train", "test"))
torch.manual_seed(0)
model = torch.nn.Linear(2, 1)
with gang() as members:
    def loss_of_rows(part):
        return ((model(torch.from_numpy(train[part, :2])) - torch.from_numpy(train[part, 2:])) ** 2).sum()
    fit(model, loss_of_rows, len(train), FitPlan(epochs=20, learning_rate=0.05), members, Checkpoints(here.shared_folder / "ckpt"))
if here.is_first:
    bundle = package(model, {"row": test[:, :2]}, Meaning(ModelKind.REGRESSION, ("y",)), here.task_folder / "bundle")
    publish(bundle, plan.model, Provenance(dataset=plan.dataset, dataset_version=plan.dataset_version))
'''


def iris(folder: Path) -> Path:
    """Real flowers as a CSV file."""
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_iris()
    path = folder / "iris.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sepal_length", "sepal_width", "petal_length", "petal_width", "species"])
        for row, label in zip(found.data, found.target, strict=True):
            writer.writerow([*row, found.target_names[label]])
    return path


def with_flowers(cloud: Client, folder: Path) -> None:
    cloud.data.finish(cloud.data.create("flowers", iris(folder)), timeout_s=60)
    cloud.data.finish(cloud.data.split("flowers", stratify="species", seed=3), timeout_s=60)


def finish(cloud: Client, *args: Any, **options: Any) -> tuple[str, str]:
    """Start a training and wait for its success; returns the ids of run and job."""
    run = cloud.trainings.start(*args, **options).run
    status = cloud.jobs.wait(run.job_id, timeout_s=110)
    output = "".join(cloud.jobs.follow(run.job_id))
    assert status.state is JobState.SUCCEEDED, f"{status.message}\n{output}"
    return run.id, run.job_id


def test_recipe_on_two_workers_ends_in_a_registered_model(control_plane: ControlPlane, tmp_path: Path) -> None:
    with control_plane.client(patience_s=30) as cloud:
        with_flowers(cloud, tmp_path)
        with pytest.raises(InvalidInput, match="no column 'kind'"):
            cloud.trainings.start("tabular", dataset="flowers", target="kind")
        with pytest.raises(NotFound):
            cloud.trainings.start("tabular", dataset="trees", target="species")
        parameters = {"epochs": 120, "hidden": [16]}
        run_id, job_id = finish(
            cloud, "tabular", dataset="flowers", target="species", workers=2, model="iris", parameters=parameters
        )
        version = cloud.models.version("iris")
        _check_version(version, run_id, job_id)
        bundle = {file.path: b"".join(cloud.transport.download(file.digest)) for file in version.manifest.files}
        assert set(bundle) == {"model.onnx", "profile.json", "encoding.json"}
        progress = cloud.runs.get(run_id)
        assert progress.state is JobState.SUCCEEDED
        assert progress.latest["test/accuracy"].value == version.evaluation.metrics["accuracy"]  # type: ignore[union-attr]
        losses = [point.value or 0.0 for point in cloud.runs.series(run_id, "train/loss").points]
        assert len(losses) > 10
        assert losses[-1] < losses[0] / 2
        outcome = msgspec.json.decode(cloud.jobs.result(job_id).result_json)
        assert (outcome["model"], outcome["number"]) == ("iris", 1)


def _check_version(version: ModelVersion, run_id: str, job_id: str) -> None:
    assert (version.number, version.run_id, version.provenance.job_id) == (1, run_id, job_id)
    assert version.manifest.kind is ModelKind.CLASSIFICATION
    assert version.manifest.labels == ("setosa", "versicolor", "virginica")
    assert version.manifest.columns == ("sepal_length", "sepal_width", "petal_length", "petal_width")
    assert version.evaluation is not None
    assert version.evaluation.metrics["accuracy"] >= 0.9
    assert version.parity is not None
    assert version.parity.largest_difference <= 1e-4
    origin = version.provenance
    assert (origin.dataset, origin.dataset_version, origin.recipe, origin.num_workers) == ("flowers", 2, "tabular", 2)
    assert origin.splits["train"].num_rows + origin.splits["test"].num_rows == 150
    assert origin.parameters["hidden"] == (16,)
    assert origin.libraries["torch"].startswith("2.")


def test_rank_killed_in_training_resumes_and_ends_in_the_same_weights(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with control_plane.client(patience_s=30) as cloud:
        with_flowers(cloud, tmp_path)
        told = {"epochs": 300, "checkpoint_every_steps": 50, "report_every_steps": 5}
        options: dict[str, Any] = {"dataset": "flowers", "target": "species", "workers": 2, "parameters": told}
        finish(cloud, "tabular", model="undisturbed", **options)
        run = cloud.trainings.start("tabular", model="disturbed", **options).run
        while "step " not in cloud.jobs.logs(run.job_id).text:
            assert cloud.jobs.get(run.job_id).state not in ENDED
        victim = cloud.jobs.get(run.job_id).tasks[1].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        status = cloud.jobs.wait(run.job_id, timeout_s=110)
        output = "".join(cloud.jobs.follow(run.job_id))
        assert status.state is JobState.SUCCEEDED, output
        assert status.job.attempt == 2
        assert "Resuming from the checkpoint of step" in output
        weights = [
            next(file.digest for file in cloud.models.version(name).manifest.files if file.path == "model.onnx")
            for name in ("undisturbed", "disturbed")
        ]
        assert weights[0] == weights[1]


def test_script_of_ones_own_trains_and_registers_too(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    lines = [f"{x1},{x2},{2 * x1 - x2 + 1}" for x1 in range(20) for x2 in range(10)]
    (tmp_path / "plane.csv").write_text("x1,x2,y\n" + "\n".join(lines))
    with control_plane.client(patience_s=30) as cloud:
        cloud.data.finish(cloud.data.create("plane", tmp_path / "plane.csv"), timeout_s=60)
        cloud.data.finish(cloud.data.split("plane"), timeout_s=60)
        run_id, _ = finish(cloud, script=tmp_path / "own.py", dataset="plane", workers=2)
        version = cloud.models.version("plane")
        assert (version.run_id, version.manifest.kind) == (run_id, ModelKind.REGRESSION)


def test_training_that_fails_says_why_in_one_line(control_plane: ControlPlane, tmp_path: Path) -> None:
    with control_plane.client(patience_s=30) as cloud:
        with_flowers(cloud, tmp_path)
        options: dict[str, Any] = {"dataset": "flowers", "target": "species", "max_retries": 0}
        run = cloud.trainings.start("tabular", parameters={"epoch": 3}, **options).run
        assert cloud.jobs.wait(run.job_id, timeout_s=60).state is JobState.FAILED
        output = "".join(cloud.jobs.follow(run.job_id))
        assert "skyloom: The parameters cannot be meant" in output
        assert "Traceback" not in output
        assert cloud.models.list().items == ()
