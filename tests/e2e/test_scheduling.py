"""Making room for real: trainings that are preempted and resized on real processes end as if nothing had happened."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec, JobState, JobStatus, Reason
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TRAIN = """
import json, sys, time
import torch
from skyloom.runtime import context
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.fit import FitPlan, fit
from skyloom.runtime.gang import gang

epochs, pause_s = int(sys.argv[1]), float(sys.argv[2])
here = context()
torch.manual_seed(3)
rows = torch.rand(96, 12)
truth = (rows.sum(1) > 6).long()
model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
with gang("cpu") as members, (here.shared_folder / f"walk-{here.attempt}-{members.rank}.txt").open("a", buffering=1) as walk:
    def loss_of_rows(part):
        print(*part, file=walk)
        time.sleep(pause_s)
        return torch.nn.functional.cross_entropy(model(rows[part]), truth[part], reduction="sum")

    plan = FitPlan(epochs=epochs, batch_size=12, learning_rate=0.01, seed=5, checkpoint_every_steps=0, report_every_steps=1)
    fit(model, loss_of_rows, len(rows), plan, members, Checkpoints(here.shared_folder / "checkpoints"))
    if members.is_first:
        weights = [value.flatten().tolist() for value in model.state_dict().values()]
        (here.task_folder / "result.json").write_text(json.dumps(sum(weights, [])))
"""
ROWS, STEPS = 96, 8  # of one epoch


def train(cloud: Client, folder: Path, name: str, epochs: int, pause_s: float, **options: Any) -> str:
    script = folder / "train.py"
    script.write_text(TRAIN)
    options = {"cpus": 2, "memory": "1GiB", **options}
    return cloud.jobs.run(script=script, args=(str(epochs), str(pause_s)), name=name, **options).job.id


def sleep(cloud: Client, duration_s: float, cpus: float, **options: Any) -> str:
    entry = Command(argv=("sleep", str(duration_s)))
    spec = JobSpec(entry=entry, resources=Resources(cpus=cpus, memory_bytes=2**24), **options)
    return cloud.jobs.submit(spec).job.id


def until(cloud: Client, job_id: str, condition: Callable[[JobStatus], bool], timeout_s: float = 90) -> JobStatus:
    deadline = time.monotonic() + timeout_s
    while not condition(status := cloud.jobs.get(job_id)):
        assert time.monotonic() < deadline, f"{status.state} {status.message} {len(status.tasks)} tasks"
        time.sleep(0.05)
    return status


def steps_done(plane: ControlPlane, job_id: str, attempt: int) -> int:
    walk = plane.home / "shared" / job_id / f"walk-{attempt}-0.txt"
    return len(walk.read_text().splitlines()) if walk.exists() else 0


def weights(cloud: Client, job_id: str) -> list[float]:
    found = cloud.jobs.result(job_id)
    assert found.ready
    return msgspec.json.decode(found.result_json, type=list[float])


def check_each_row_was_used_once_an_epoch(plane: ControlPlane, job_id: str, epochs: int) -> None:
    walks = (plane.home / "shared" / job_id).glob("walk-*.txt")
    used = Counter(row for walk in walks for row in walk.read_text().split())
    assert len(used) == ROWS
    assert set(used.values()) == {epochs}, "a row was lost or repeated"


def test_training_that_makes_room_resumes_and_ends_with_the_same_weights(
    warm_control_plane: ControlPlane, tmp_path: Path
) -> None:
    with warm_control_plane.client(patience_s=30) as cloud:
        cloud.scheduling.set(min_run_s=0.0)
        alone = train(cloud, tmp_path, "alone", 3, 0.0)
        cloud.jobs.finish(alone, timeout_s=90)
        victim = train(cloud, tmp_path, "victim", 3, 0.2)
        deadline = time.monotonic() + 60
        while steps_done(warm_control_plane, victim, 1) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        urgent = sleep(cloud, 1, cpus=8, priority=5, name="urgent")
        cloud.jobs.finish(urgent, timeout_s=60)
        ended = cloud.jobs.finish(victim, timeout_s=90)
        assert (ended.job.attempt, ended.job.comebacks) == (2, 1)
        said = [item.what for item in cloud.overview.why(victim).evidence]
        assert any("preempted" in line and f"made room for job {urgent}" in line for line in said), said
        assert 0 < steps_done(warm_control_plane, victim, 2) < 3 * STEPS
        check_each_row_was_used_once_an_epoch(warm_control_plane, victim, 3)
        assert weights(cloud, victim) == weights(cloud, alone)


def test_elastic_training_shrinks_for_another_job_grows_again_and_loses_no_row(
    warm_control_plane: ControlPlane, tmp_path: Path
) -> None:
    with warm_control_plane.client(patience_s=30) as cloud:
        cloud.scheduling.set(min_run_s=0.0, restart_s=0.0)
        alone = train(cloud, tmp_path, "alone", 10, 0.0)
        cloud.jobs.finish(alone, timeout_s=90)
        elastic = train(cloud, tmp_path, "elastic", 10, 0.15, cpus=4, num_workers=(1, 2), expected_duration_s=3_000)
        until(cloud, elastic, lambda status: len(status.tasks) == 2 and status.state is JobState.RUNNING)
        deadline = time.monotonic() + 60
        while steps_done(warm_control_plane, elastic, 1) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other = sleep(cloud, 120, cpus=4, name="other")
        until(cloud, other, lambda status: status.state is JobState.RUNNING)
        shrunk = until(cloud, elastic, lambda status: status.state is JobState.RUNNING)
        assert (len(shrunk.tasks), shrunk.job.comebacks) == (1, 1)
        cloud.jobs.cancel(other)
        until(cloud, elastic, lambda status: len(status.tasks) == 2 and status.state is JobState.RUNNING)
        ended = cloud.jobs.finish(elastic, timeout_s=200)
        assert ended.job.comebacks == 2
        check_each_row_was_used_once_an_epoch(warm_control_plane, elastic, 10)
        for ours, theirs in zip(weights(cloud, elastic), weights(cloud, alone), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_program_that_does_not_hear_the_polite_stop_still_makes_room(control_plane: ControlPlane) -> None:
    with control_plane.client(patience_s=30) as cloud:
        cloud.scheduling.set(min_run_s=0.0)
        deaf = cloud.jobs.run(
            ["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"], cpus=8, memory="64MiB", grace_s=0.5
        ).job.id
        until(cloud, deaf, lambda status: status.state is JobState.RUNNING)
        urgent = sleep(cloud, 0.2, cpus=8, priority=1)
        cloud.jobs.finish(urgent, timeout_s=60)
        back = until(cloud, deaf, lambda status: status.state is JobState.RUNNING)
        assert (back.job.attempt, back.reason) == (2, Reason.NONE)
        assert cloud.jobs.cancel(deaf).job.id == deaf
