"""What the SDK says while a job waits."""

import itertools

import msgspec
import pytest

from skyloom.ports.engine import Command
from skyloom.rooms.arrays.model import Array, ArrayStatus
from skyloom.rooms.jobs.model import Job, JobSpec, JobState, JobStatus
from skyloom.sdk.jobs import JobNews

JOB = Job(id="job_a", project="p", spec=JobSpec(entry=Command(argv=("x",))), submitted_at=1.0, submitted_by="me")
QUEUED = JobStatus(job=JOB, state=JobState.QUEUED, message="needs 4 GPUs, 2 free", outlook="likely to start in 3 min")


def test_job_that_waits_is_told_of_after_a_moment_when_it_changes_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("skyloom.sdk.jobs.time.monotonic", lambda: float(next(seconds)))
    said: list[str] = []
    news = JobNews(said.append)
    for minutes in range(30):
        status = msgspec.structs.replace(QUEUED, outlook=f"likely to start in {max(3, minutes)} min")
        assert news.of(status) is status
    assert said == ["job job_a waits: needs 4 GPUs, 2 free; likely to start in 3 min"]
    other = msgspec.structs.replace(QUEUED, message="needs 4 GPUs, 3 free")
    for _ in range(30):
        news.of(other)
    assert len(said) == 2
    news.of(msgspec.structs.replace(QUEUED, state=JobState.RUNNING, message=""))
    assert len(said) == 2


def test_job_that_starts_at_once_is_not_told_of() -> None:
    said: list[str] = []
    JobNews(said.append).of(QUEUED)
    JobNews(None).of(QUEUED)
    assert said == []


def test_array_that_waits_is_told_of_with_what_to_do_and_one_that_runs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr("skyloom.sdk.jobs.time.monotonic", lambda: float(next(seconds)))
    array = Array(id="array_a", project="p", spec=JOB.spec, size=3, submitted_at=1.0, submitted_by="me")
    queued = ArrayStatus(
        array=array,
        state=JobState.QUEUED,
        message="needs 1 CPU, 0.5 free",
        next_action="Stop endpoint iris.",
        num_waiting=3,
    )
    said: list[str] = []
    news = JobNews(said.append)
    for _ in range(30):
        news.of_array(msgspec.structs.replace(queued, num_running=1))
    assert said == []
    for _ in range(30):
        news.of_array(queued)
    assert said == ["array array_a waits: needs 1 CPU, 0.5 free. Stop endpoint iris."]
