"""Jobs as the room of cost sees them: what one asks for when it is let in, and which of them hold resources now."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from skyloom.ports.store import Snapshot, Store, changed
from skyloom.rooms.cost.budget import Spender, Wish
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import Job, JobSpec, Task
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job, jobs_of, parts
from skyloom.rooms.jobs.writing import metered
from skyloom.rooms.pools.model import LOCAL


def wish_of(spec: JobSpec, job_id: str, project: str, user: str) -> Wish:
    """What a job asks for when it is let in: of several pools that it may run on nobody knows yet which, so the first is priced."""
    return Wish(
        job_id=job_id,
        project=project,
        user=user,
        pool=spec.pools[0] if spec.pools else LOCAL,
        resources=spec.resources,
        num_workers=max(spec.num_workers, spec.max_workers),
        grace_s=spec.grace_s,
        expected_s=spec.expected_duration_s or spec.max_duration_s,
        limits=spec.allowance,
    )


def spenders(view: Snapshot, projects: Iterable[str] | None, now: float) -> list[Spender]:
    """The jobs of some projects, or of all, that hold resources."""
    holding = view.select(TASKS, {"state": rules.HOLDING})
    jobs = jobs_of(view, holding)
    wanted = None if projects is None else set(projects)
    gangs = by_job(holding).items()
    return [_spender(jobs[key], gang, now) for key, gang in gangs if wanted is None or jobs[key].project in wanted]


def titles(view: Snapshot, jobs: Iterable[str]) -> dict[str, str]:
    """Job id → what people call it."""
    found = (job for part in parts(tuple(jobs)) for job in view.select(JOBS, {"id": part}))
    return {job.id: job.spec.name for job in found if job.spec.name}


def _spender(job: Job, holding: Sequence[Task], now: float) -> Spender:
    started = [changed(task, {"ended_at": now}) for task in holding if task.started_at is not None]
    return Spender(
        job_id=job.id,
        project=job.project,
        user=job.submitted_by,
        pool=holding[0].pool or LOCAL,  # a gang never spans pools
        resources=job.spec.resources,
        num_held=len(holding),
        running=tuple(metered(job, task) for task in started),
        grace_s=job.spec.grace_s,
        limits=job.spec.allowance,
        told_at=job.halt.at if job.halt and job.halt.is_final else None,
    )


def lasting(store: Store, budgets: Budgets) -> Callable[[Job, Task], float | None]:
    """What `Plans.lasts_s` is: how long a gang can run on its job's own budget, at the price of its pool."""

    def lasts_s(job: Job, task: Task) -> float | None:
        if not rules.has_allowance(job.spec):
            return None
        return store.read(lambda view: budgets.lasts_s(view, _wish_of_gang(view, job, task)))

    return lasts_s


def _wish_of_gang(view: Snapshot, job: Job, task: Task) -> Wish:
    wish = wish_of(job.spec, job.id, job.project, job.submitted_by)
    gang = rules.newest(job, view.select(TASKS, {"job_id": job.id}))
    return msgspec.structs.replace(wish, pool=task.pool or LOCAL, num_workers=len(gang))
