"""Jobs as the room of cost sees them: what one asks for when it is let in, and which of them hold resources now."""

from collections.abc import Iterable

from skyloom.ports.store import Snapshot, changed
from skyloom.rooms.cost.budget import Spender, Wish
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import Job, JobSpec, Task
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.reading import by_job, jobs_of
from skyloom.rooms.jobs.writing import metered


def has_allowance(spec: JobSpec) -> bool:
    """A job has a budget of its own."""
    return any(limit is not None for limit in (spec.budget_usd, spec.budget_gpu_hours, spec.budget_cpu_hours))


def wish_of(spec: JobSpec, job_id: str, project: str, user: str) -> Wish:
    """What a job asks for when it is let in."""
    return Wish(
        job_id=job_id,
        project=project,
        user=user,
        resources=spec.resources,
        num_workers=spec.num_workers,
        grace_s=spec.grace_s,
        expected_s=spec.max_duration_s,
        limits=spec.allowance,
    )


def spenders(view: Snapshot, projects: Iterable[str] | None, now: float) -> list[Spender]:
    """The jobs of some projects, or of all, that hold resources."""
    holding = view.select(TASKS, {"state": rules.HOLDING})
    jobs = jobs_of(view, holding)
    wanted = None if projects is None else set(projects)
    gangs = by_job(holding).items()
    return [_spender(jobs[key], gang, now) for key, gang in gangs if wanted is None or jobs[key].project in wanted]


def _spender(job: Job, gang: Iterable[Task], now: float) -> Spender:
    holding = list(gang)
    started = [changed(task, {"ended_at": now}) for task in holding if task.started_at is not None]
    return Spender(
        job_id=job.id,
        project=job.project,
        user=job.submitted_by,
        resources=job.spec.resources,
        num_held=len(holding),
        running=tuple(metered(job, task) for task in started),
        grace_s=job.spec.grace_s,
        limits=job.spec.allowance,
        told_at=job.halt.at if job.halt and job.halt.is_final else None,
    )
