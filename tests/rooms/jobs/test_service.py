"""The loop of jobs over memory adapters: what one bad job may not do to the others."""

import pytest

from skyloom.core.operation import Caller
from skyloom.ports.engine import Command, TaskPlan
from skyloom.ports.store import Transaction
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import Job, JobSpec, JobState, SubmitJob, Task
from tests.rooms.workshop import ANN, Workshop


def submit(shop: Workshop, name: str, by: Caller = ANN) -> str:
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), name=name))
    return shop.store.write(lambda tx: shop.jobs.submit(tx, ask, by)).job.id


def states(shop: Workshop, *job_ids: str) -> list[JobState]:
    return [shop.store.read(lambda view, key=key: shop.jobs.status(view, key, "p")).state for key in job_ids]  # type: ignore[misc]


def test_job_whose_launch_always_raises_does_not_block_the_others(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shop.jobs._plans.task

    def refusing(job: Job, task: Task) -> TaskPlan:
        if job.spec.name == "bad":
            raise RuntimeError("a defect")
        return plan(job, task)

    monkeypatch.setattr(shop.jobs._plans, "task", refusing)
    bad, good = submit(shop, "bad"), submit(shop, "good")
    for _ in range(3):
        shop.jobs.tick()
    assert states(shop, bad, good) == [JobState.STARTING, JobState.RUNNING]
    later = submit(shop, "good too")
    for _ in range(2):
        shop.jobs.tick()
    assert states(shop, later) == [JobState.RUNNING]


def test_job_whose_state_cannot_be_written_does_not_block_the_others(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = submit(shop, "bad"), submit(shop, "good")
    shop.jobs.tick()
    write = shop.jobs._write

    def refusing(tx: Transaction, job: Job, made: rules.Settled, now: float) -> None:
        if job.id == bad:
            raise ValueError("a damaged record")
        write(tx, job, made, now)

    monkeypatch.setattr(shop.jobs, "_write", refusing)
    for job_id in (bad, good):
        shop.engine.finish(f"{job_id}.1.0")
    shop.jobs.tick()
    assert states(shop, good) == [JobState.SUCCEEDED]
    monkeypatch.undo()
    shop.jobs.tick()
    assert states(shop, bad) == [JobState.SUCCEEDED]


@pytest.fixture
def shop() -> Workshop:
    return Workshop()
