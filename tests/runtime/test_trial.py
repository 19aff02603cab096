"""Trials: the first steps of a training, timed and left in its result; an ordinary training is untouched by them."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from skyloom.rooms.planning.model import StepTimes
from skyloom.rooms.training.model import TrialOrder
from skyloom.runtime.trial import Trial, noise_scale
from tests.runtime.gangs import run_gang

FIT = """
import torch
from skyloom.runtime import context
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.fit import FitPlan, fit
from skyloom.runtime.gang import gang

torch.manual_seed(3)
rows = torch.rand(640, 12)
model = torch.nn.Linear(12, 2)
here = context()

def loss_of_rows(part):
    return torch.nn.functional.cross_entropy(model(rows[part]), (rows[part].sum(1) > 6).long(), reduction="sum")

with gang("cpu") as members:
    plan = FitPlan(epochs=5, batch_size=16, checkpoint_every_steps=60)
    fitted = fit(model, loss_of_rows, len(rows), plan, members, Checkpoints(here.shared_folder / "ckpt"))
if members.is_first:
    print("steps", fitted.steps)
    here.task_folder.mkdir(parents=True, exist_ok=True)
    (here.task_folder / "result.json").write_text('{"model": "m"}')
"""
STEPS = """
from skyloom.runtime import steps
done = [step for step in steps(400)]
print("done", len(done), done[-1])
"""
REPORT = """
from skyloom.runtime import report
for step in range(10, 10_000, 10):
    report({"loss": 1.0}, step)
print("to the end")
"""


def run(folder: Path, code: str, order: TrialOrder | None) -> tuple[str, dict[str, object]]:
    """Run a program as a task of a job that is a trial, or not; returns its output and its result."""
    program = folder / "program.py"
    program.write_text(code)
    told = {"SKYLOOM_TRIAL": msgspec.json.encode(order).decode()} if order else {}
    source = str(Path(__file__).parents[2] / "src")
    variables = {
        "SKYLOOM_TASK_FOLDER": str(folder / "task"),
        "SKYLOOM_SHARED_FOLDER": str(folder),
        "PYTHONPATH": source,
    }
    done = subprocess.run(
        [sys.executable, str(program)], env={**variables, **told}, capture_output=True, text=True, check=True
    )
    result = folder / "task" / "result.json"
    return done.stdout, json.loads(result.read_bytes()) if result.exists() else {}


def times(result: dict[str, object]) -> StepTimes:
    return msgspec.convert(result["trial"], StepTimes)


@pytest.mark.slow
def test_fit_in_a_trial_stops_early_and_times_steps_one_checkpoint_and_the_gradient_noise(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    # The ranks of this launcher leave by os._exit, which runs no exit function.
    program.write_text(FIT + "    from skyloom.runtime.trial import trial\n    trial().leave(here.task_folder)\n")
    order = msgspec.json.encode(TrialOrder(share=0.2)).decode()
    done = run_gang(program, 2, tmp_path, SKYLOOM_TRIAL=order, SKYLOOM_TASK_FOLDER=str(tmp_path / "task"))
    assert done.returncode == 0, done.stderr
    assert "steps 40" in done.stdout
    result = json.loads((tmp_path / "task" / "result.json").read_bytes())
    found = times(result)
    assert result["model"] == "m", "what the program left itself is kept"
    assert (found.total_steps, found.last_step, found.batch_size, found.num_rows) == (200, 40, 16, 640)
    assert len(found.step_s) == 32, "a fifth is warm-up"
    assert min(found.step_s) > 0
    assert found.num_checkpoints == 4
    assert 0 < found.checkpoint_s < 10
    assert found.began_at < found.ended_at
    assert found.noise_scale_rows is not None


@pytest.mark.slow
def test_fit_in_a_trial_walks_no_epoch_that_it_does_not_try(tmp_path: Path) -> None:
    counted = """
from skyloom.runtime.shards import Shards
walk, epochs = Shards.batches, []
Shards.batches = lambda self, epoch, first: epochs.append(epoch) or walk(self, epoch, first)
"""
    output, _ = run(tmp_path, f"{counted}{FIT}\nprint(epochs)", TrialOrder(share=0.3))
    assert output.endswith("steps 60\n[0, 1]\n")


@pytest.mark.slow
def test_fit_outside_of_a_trial_does_all_of_its_steps_and_leaves_no_times(tmp_path: Path) -> None:
    output, result = run(tmp_path, FIT, None)
    assert "steps 200" in output
    assert result == {"model": "m"}


def test_steps_in_a_trial_are_a_share_of_all(tmp_path: Path) -> None:
    output, result = run(tmp_path, STEPS, TrialOrder(share=0.1))
    assert output == "done 40 39\n"
    assert (times(result).total_steps, times(result).last_step) == (400, 40)


def test_steps_outside_of_a_trial_are_all(tmp_path: Path) -> None:
    assert run(tmp_path, STEPS, None) == ("done 400 399\n", {})


def test_script_that_only_reports_is_ended_in_order_when_enough_is_known(tmp_path: Path) -> None:
    output, result = run(tmp_path, REPORT, TrialOrder(share=0.05, total_steps=10_000))
    found = times(result)
    assert output == ""
    assert (found.total_steps, found.first_step, found.last_step) == (10_000, 10, 510)
    assert run(tmp_path, REPORT, None)[0] == "to the end\n"


@pytest.mark.parametrize(
    ("order", "total", "expected"),
    [
        (TrialOrder(share=0.1), 1_000, 100),
        (TrialOrder(share=0.1), 50, 20),
        (TrialOrder(share=0.1), 7, 7),
        (TrialOrder(share=0.1), 10**6, 500),
        (TrialOrder(share=1.0, max_steps=30), 1_000, 30),
    ],
)
def test_trial_takes_a_share_within_its_bounds(order: TrialOrder, total: int, expected: int) -> None:
    assert Trial(order).begin("fit", total) == expected


def test_trial_times_the_first_speaker_only(tmp_path: Path) -> None:
    trial = Trial(TrialOrder(share=0.5))
    assert trial.begin("fit", 100) == 50
    assert trial.begin("fit", 10) == 10
    trial.reported(5)
    trial.mark("steps", 5)
    trial.leave(tmp_path)
    assert not (tmp_path / "result.json").exists(), "nothing was timed"


def test_trial_times_the_first_loop_only() -> None:
    trial = Trial(TrialOrder(share=0.5))
    for step in range(trial.begin("steps", 50)):
        trial.mark("steps", step + 1)
    first = trial.times()
    for step in range(trial.begin("steps", 50)):
        trial.mark("steps", step + 1)
    trial.saw_checkpoint(1.0, 1)
    assert trial.times() == first


def test_trial_of_a_loop_that_was_told_of_before_times_the_loop() -> None:
    trial = Trial(TrialOrder(share=0.5))
    trial.reported(0)
    assert trial.begin("steps", 100) == 50
    for step in range(50):
        trial.mark("steps", step + 1)
        trial.reported(step + 1)
    assert (trial.times().total_steps, trial.times().last_step, len(trial.times().step_s)) == (100, 50, 40)


def test_noise_scale_is_found_from_gradients_of_two_batch_sizes() -> None:
    """Gradients with a known mean and covariance: the scale is trace over squared length."""
    chance = np.random.default_rng(1)
    mean, deviation = chance.normal(size=50), 3.0
    truth = 50 * deviation**2 / float(mean @ mean)
    seen = []
    for _ in range(400):
        small = mean + chance.normal(size=50) * deviation / np.sqrt(32)
        other = mean + chance.normal(size=50) * deviation / np.sqrt(32)
        big = (small + other) / 2
        seen.append((32.0, float(small @ small), 64.0, float(big @ big)))
    assert noise_scale(seen) == pytest.approx(truth, rel=0.15)
    assert noise_scale([]) is None
