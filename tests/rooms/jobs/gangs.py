"""Jobs, tasks and what is seen of them, for tests of pure rules."""

from skyloom.ports.engine import Command, EndReason, Observation, TaskPhase
from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import Halt, Job, JobSpec, Reason, Task, TaskState

NOW = 1000.0


def a_job(num_workers: int = 1, **spec: object) -> Job:
    options = {"entry": Command(argv=("true",)), "num_workers": num_workers, **spec}
    return Job(id="job_a", project="p", spec=JobSpec(**options), submitted_at=1.0, submitted_by="me")  # type: ignore[arg-type]


def a_task(rank: int = 0, state: TaskState = TaskState.RUNNING, **attributes: object) -> Task:
    task = Task(id=f"job_a.1.{rank}", project="p", job_id="job_a", attempt=1, rank=rank, state=state)
    return changed(task, attributes)


def ended(rank: int = 0, reason: EndReason = EndReason.COMPLETED, **more: object) -> Observation:
    fields = {
        "task_id": f"job_a.1.{rank}",
        "phase": TaskPhase.ENDED,
        "reason": reason,
        "started_at": 5.0,
        "ended_at": 9.0,
    }
    return Observation(**{**fields, **more})  # type: ignore[arg-type]


def a_halt(reason: Reason, at: float = 1.0) -> Halt:
    return Halt(reason=reason, by="job_b", at=at, message="made room for job_b")
