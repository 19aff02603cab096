from skyloom.ports.engine import Command
from skyloom.ports.store import Transaction
from skyloom.rooms.jobs.history import History
from skyloom.rooms.jobs.model import Job, JobSpec, Task, TaskState
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.stores.memory import MemoryStore


def a_job(number: int) -> Job:
    spec = JobSpec(entry=Command(argv=("true",)))
    return Job(id=f"job_{number:04}", project="p", spec=spec, submitted_at=1.0, submitted_by="me")


def test_history_of_many_jobs_is_that_of_the_newest() -> None:
    def fill(tx: Transaction) -> None:
        for number in range(600):  # more than one query takes
            job, lasted_s = tx.insert(JOBS, a_job(number)), 100.0 if number >= 550 else 1.0
            facts = {"state": TaskState.SUCCEEDED, "started_at": 5.0, "ended_at": 5.0 + lasted_s}
            tx.insert(TASKS, Task(id=f"{job.id}.1.0", project="p", job_id=job.id, attempt=1, rank=0, **facts))  # type: ignore[arg-type]

    store, history = MemoryStore(), History()
    store.write(fill)
    store.read(history.load)
    assert history.expected_s(a_job(1)) == 100.0
