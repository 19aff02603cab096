"""Reading jobs with their tasks, in few queries however many there are."""

from collections import defaultdict
from collections.abc import Iterable

from skyloom.ports.lookup import owned
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import Job, JobMissing, Task
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.pools.ports import Use


def find_job(view: Snapshot, job_id: str, project: str) -> Job:
    """A job of a project. Raises `JobMissing`, for somebody else's job just the same."""
    job = owned(view, JOBS, job_id, project)
    if job is None:
        raise JobMissing(f"There is no job {job_id}.", next_action="List yours: skyloom job list.")
    return job


def jobs_of(view: Snapshot, tasks: Iterable[Task]) -> dict[str, Job]:
    """The jobs of some tasks, by id."""
    ids = tuple(dict.fromkeys(task.job_id for task in tasks))
    return {job.id: job for part in parts(ids) for job in view.select(JOBS, {"id": part})}


def by_job(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Tasks, by the id of their job."""
    found: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        found[task.job_id].append(task)
    return found


def parts(ids: tuple[str, ...], size: int = 500) -> Iterable[tuple[str, ...]]:
    """Cut many ids into as many as one query takes."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def occupancy(view: Snapshot) -> dict[tuple[str, str], Use]:
    """What started tasks hold, by (pool, machine)."""
    holding = view.select(TASKS, {"state": rules.HOLDING})
    jobs = jobs_of(view, holding)
    found: dict[tuple[str, str], Use] = {}
    for task in holding:
        place = (task.pool or LOCAL, task.machine)
        before = found.get(place, Use())
        found[place] = Use(before.resources + jobs[task.job_id].spec.resources, before.num_tasks + 1)
    return found
