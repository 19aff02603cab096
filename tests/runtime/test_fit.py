"""Data-parallel training with real gloo processes."""

import json
from pathlib import Path

import pytest

from tests.runtime.gangs import run_gang

GRADIENT = '''
"""The averaged gradient of a gang, against the gradient of one process on all rows."""
import json, os, sys
from pathlib import Path
import torch
from skyloom.runtime import context
from skyloom.runtime.fit import average_gradients
from skyloom.runtime.gang import gang
from skyloom.runtime.shards import Shards

NUM_ROWS = int(os.environ["NUM_ROWS"])
torch.manual_seed(1)
images, labels = torch.rand(NUM_ROWS, 1, 28, 28), torch.randint(0, 10, (NUM_ROWS,))

def network():
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 26 * 26, 10))

def loss_sum(model, rows):
    return torch.nn.functional.cross_entropy(model(images[rows]), labels[rows], reduction="sum")

with gang("cpu") as members:
    batch = next(iter(Shards(NUM_ROWS, NUM_ROWS, 0, members.rank, members.world_size).batches(0)))
    model = network()
    loss = average_gradients(loss_sum(model, batch.rows) if len(batch.rows) else None, list(model.parameters()), NUM_ROWS, members)
    alone = network()
    whole = loss_sum(alone, torch.arange(NUM_ROWS)) / NUM_ROWS
    whole.backward()
    worst = max(float((a.grad - b.grad).abs().max()) for a, b in zip(model.parameters(), alone.parameters()))
    found = {"rows": len(batch.rows), "worst": worst, "loss": abs(loss - float(whole)), "size": float(alone[3].weight.grad.abs().max())}
    (context().shared_folder / f"rank-{members.rank}.json").write_text(json.dumps(found))
'''

TRAIN = """
import os, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from skyloom.runtime import context
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.fit import FitPlan, fit
from skyloom.runtime.gang import gang

torch.manual_seed(3)
rows = torch.rand(101, 12)
truth = (rows.sum(1) > 6).long()
model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 2))
calls = 0
DIE_AT, DIE_RANK, NAN_AT = (int(os.environ.get(name, "-1")) for name in ("DIE_AT", "DIE_RANK", "NAN_AT"))
here = context()

def loss_of_rows(part):
    global calls
    calls += 1
    if calls == DIE_AT and here.rank == DIE_RANK:
        os.kill(os.getpid(), getattr(signal, os.environ.get("DIE_BY", "SIGKILL")))
    loss = torch.nn.functional.cross_entropy(model(rows[part]), truth[part], reduction="sum")
    return loss * float("nan") if calls == NAN_AT else loss

with gang("cpu") as members:
    checkpoints = Checkpoints(here.shared_folder / "checkpoints")
    plan = FitPlan(epochs=4, batch_size=16, learning_rate=0.01, seed=5, checkpoint_every_steps=3, report_every_steps=1)
    fitted = fit(model, loss_of_rows, len(rows), plan, members, checkpoints)
    if members.is_first:
        save_file(model.state_dict(), here.shared_folder / "weights.safetensors")
        print("resumed from", fitted.resumed_from_step, "steps", fitted.steps)
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    return program


def weights(program: Path, workers: int, folder: Path, *, fresh: bool = False) -> tuple[bytes, str]:
    folder.mkdir(exist_ok=True)
    done = run_gang(program, workers, folder, fresh=fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "weights.safetensors").read_bytes(), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "workers"), [(1000, 5), (1003, 5), (7, 3), (2, 2)])
def test_averaged_gradient_equals_that_of_one_process(tmp_path: Path, num_rows: int, workers: int) -> None:
    program = tmp_path / "gradient.py"
    program.write_text(GRADIENT)
    done = run_gang(program, workers, tmp_path, NUM_ROWS=str(num_rows))
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(workers)]
    assert sum(rank["rows"] for rank in found) == num_rows
    if num_rows == 1000:
        assert [rank["rows"] for rank in found] == [200] * 5
    assert all(rank["worst"] <= 1e-6 and rank["loss"] <= 1e-5 for rank in found), found
    assert all(rank["size"] > 1e-4 for rank in found), "a gradient of zeros would agree with anything"


@pytest.mark.slow
def test_training_killed_in_a_rank_and_started_again_ends_with_the_same_bits(train: Path, tmp_path: Path) -> None:
    clean, _ = weights(train, 2, tmp_path / "clean")
    again, _ = weights(train, 2, tmp_path / "again", fresh=True)
    assert clean == again, "training is not repeatable"
    for rank, at in ((1, 11), (0, 17)):
        folder = tmp_path / f"killed-{rank}"
        folder.mkdir()
        killed = run_gang(train, 2, folder, DIE_AT=str(at), DIE_RANK=str(rank), END_GANG="1")
        assert killed.returncode != 0
        assert not (folder / "weights.safetensors").exists()
        resumed, output = weights(train, 2, folder)
        assert resumed == clean
        assert f"Resuming from the checkpoint of step {(at - 1) // 3 * 3} of 28." in output


@pytest.mark.slow
def test_training_asked_to_stop_leaves_a_checkpoint_and_goes_on_from_there(train: Path, tmp_path: Path) -> None:
    clean, _ = weights(train, 2, tmp_path / "clean")
    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped = run_gang(train, 2, folder, DIE_AT="8", DIE_RANK="1", DIE_BY="SIGTERM")
    assert stopped.returncode == 143, stopped.stderr
    resumed, output = weights(train, 2, folder)
    assert "Resuming from the checkpoint of step 8 of 28." in output
    assert resumed == clean


@pytest.mark.slow
def test_training_resumed_with_other_workers_takes_the_same_batches(train: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resized"
    folder.mkdir()
    run_gang(train, 2, folder, DIE_AT="11", DIE_RANK="1", END_GANG="1")
    _, output = weights(train, 3, folder)
    assert "resumed from 9 steps 28" in output


@pytest.mark.slow
def test_loss_that_is_no_number_stops_and_says_where(train: Path, tmp_path: Path) -> None:
    done = run_gang(train, 2, tmp_path, NAN_AT="9")
    assert done.returncode != 0
    assert "The loss became nan in epoch 2, step 9 (learning rate 0.01)" in done.stderr
