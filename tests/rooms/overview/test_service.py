"""The overview: counts by state inside the caller's reach, and explanations with evidence."""

from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.core.events import Moved, Noted, TaskEnded
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Right
from skyloom.core.resources import Resources
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Command
from skyloom.ports.store import Transaction
from skyloom.rooms.jobs import ports as jobs_ports
from skyloom.rooms.jobs.model import Job, JobMissing, JobSpec, Reason, Task, TaskState
from skyloom.rooms.overview import explainers
from skyloom.rooms.overview.model import GetStatus, SubjectMissing, Why
from skyloom.rooms.overview.service import Overview
from skyloom.rooms.tracking.model import Run, RunMissing
from skyloom.rooms.tracking.ports import RUNS
from skyloom.stores.memory import MemoryStore
from tests.rooms.job_rooms import job_rooms

CAPACITY = Resources(cpus=8, memory_bytes=2**34)


def caller(project: str, scope: str) -> Caller:
    return Caller(principal="ada", project=project, scope=scope, rights=frozenset(Right))


class House:
    """An overview over a memory store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = MemoryClock()
        self.outbox = Outbox(self.clock)
        engine: Any = SimpleNamespace(capacity=lambda: CAPACITY, machines=lambda: (), abilities=frozenset())
        nothing: Any = None
        jobs, _ = job_rooms(self.store, self.clock, CountingIds(), self.outbox, engine, nothing, nothing)
        self.overview = Overview(
            self.store,
            self.clock,
            lambda: CAPACITY,
            about=lambda: ("1.2.3", "http://here", 4711, 77),
            explainers={"job": explainers.of_jobs(jobs), "run": explainers.of_runs(jobs)},
            counts={"jobs": explainers.count_jobs},
        )

    def add(self, job_id: str, project: str, *states: TaskState, **task: Any) -> None:
        spec = JobSpec(
            entry=Command(argv=("true",)), num_workers=len(states), resources=Resources(cpus=2, memory_bytes=5)
        )

        def work(tx: Transaction) -> None:
            tx.insert(jobs_ports.JOBS, Job(id=job_id, project=project, spec=spec, submitted_at=1, submitted_by="ada"))
            for rank, state in enumerate(states):
                made = Task(
                    id=f"{job_id}.1.{rank}", project=project, job_id=job_id, attempt=1, rank=rank, state=state, **task
                )
                tx.insert(jobs_ports.TASKS, made)

        self.store.write(work)


@pytest.fixture
def house() -> House:
    return House()


def test_status_counts_live_jobs_by_state_within_the_token(house: House) -> None:
    house.add("job_1", "mine", TaskState.RUNNING, TaskState.STARTING)
    house.add("job_2", "mine", TaskState.QUEUED)
    house.add("job_3", "mine", TaskState.SUCCEEDED)
    house.add("job_4", "theirs", TaskState.RUNNING)
    everything = house.overview.status(GetStatus(), caller("", "*"))
    mine = house.overview.status(GetStatus(), caller("", "mine"))
    assert everything.counts == {"jobs": {"running": 2, "queued": 1}}
    assert mine.counts == {"jobs": {"running": 1, "queued": 1}}


def test_status_says_what_is_used_and_how_long_it_is_up(house: House) -> None:
    house.add("job_1", "mine", TaskState.RUNNING, TaskState.SUCCEEDED)
    house.clock.advance(90)
    status = house.overview.status(GetStatus(), caller("", "*"))
    assert (status.version, status.url, status.disk_free_bytes, status.uptime_s) == ("1.2.3", "http://here", 77, 90)
    assert (status.capacity, status.used) == (CAPACITY, Resources(cpus=2, memory_bytes=5))


def test_why_of_a_job_has_reason_evidence_and_next_action(house: House) -> None:
    house.add("job_1", "mine", TaskState.FAILED, reason=Reason.OUT_OF_MEMORY, message="used 3 GiB of 2 GiB")

    def happen(tx: Transaction) -> None:
        house.outbox.publish(tx, "mine", "job_1", Moved(before="", after="queued"))
        house.outbox.publish(tx, "mine", "job_2", Noted(message="somebody else's"))
        moved = Moved(before="running", after="failed", reason="out_of_memory", message="used 3 GiB of 2 GiB")
        house.outbox.publish(tx, "mine", "job_1", moved)
        ended = TaskEnded(job_id="job_1", task_id="job_1.1.0", resources=CAPACITY, started_at=1, ended_at=3.5)
        house.outbox.publish(tx, "mine", "job_1", ended)

    house.store.write(happen)
    for subject in ("job_1", "job_1.1.0"):
        why = house.overview.why(Why(subject=subject), caller("mine", "mine"))
        assert (why.subject, why.noun, why.state, why.reason) == ("job_1", "job", "failed", "out_of_memory")
        assert "3 GiB" in why.message and "--memory" in why.next_action
        assert [item.what for item in why.evidence] == [
            "new → queued",
            "running → failed (out of memory): used 3 GiB of 2 GiB",
            "job_1.1.0 ran for 2.5 s",
        ]


def test_why_of_a_run_is_that_of_its_job(house: House) -> None:
    house.add("job_1", "mine", TaskState.FAILED, reason=Reason.OUT_OF_MEMORY, message="used 3 GiB of 2 GiB")
    run = Run(id="run_1", project="mine", name="a run", job_id="job_1", created_at=1)
    house.store.write(lambda tx: tx.insert(RUNS, run))
    why = house.overview.why(Why(subject="run_1"), caller("mine", "mine"))
    assert (why.subject, why.noun, why.state, why.reason) == ("run_1", "run", "failed", "out_of_memory")
    assert "--memory" in why.next_action
    for subject, project in (("run_1", "theirs"), ("run_9", "mine")):
        with pytest.raises(RunMissing, match=f"There is no run {subject}"):
            house.overview.why(Why(subject=subject), caller(project, project))


def test_why_of_a_foreign_or_absent_job_is_missing(house: House) -> None:
    house.add("job_1", "theirs", TaskState.RUNNING)
    for subject in ("job_1", "job_9"):
        with pytest.raises(JobMissing, match=f"There is no job {subject}"):
            house.overview.why(Why(subject=subject), caller("mine", "mine"))


@pytest.mark.parametrize("subject", ["nothing", "jobs_1", "x_1", "1"])
def test_why_of_an_id_of_no_known_noun_says_which_there_are(house: House, subject: str) -> None:
    with pytest.raises(SubjectMissing, match="job"):
        house.overview.why(Why(subject=subject), caller("mine", "mine"))
