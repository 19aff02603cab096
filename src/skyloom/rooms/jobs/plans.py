"""From a job to the plan that an engine is given: where its files lie, what it is told about itself, which secret it carries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skyloom.ports.blobs import Blobs
from skyloom.ports.engine import TaskPlan
from skyloom.rooms.jobs.model import Job, Task
from skyloom.rooms.pools.model import Pool
from skyloom.rooms.secrets.service import NOTHING_OPENED, Secrets


def _nothing(_job: Job) -> Mapping[str, str]:
    return {}


def _for_ever(_job: Job, _task: Task) -> float | None:
    return None


@dataclass
class Plans:
    """Makes task plans.

    Attributes:
        blobs: where the bytes of the files are.
        shared_root: folder below which every job gets a folder for all its attempts and ranks, on pools that name none.
        task_secret: makes the token of a task.
        url: of the control plane, for the job's own calls, on pools that name none.
        tables: folder of the tables of all datasets; a task is told it as ``SKYLOOM_TABLES``, and no job's record holds it.
        lasts_s: how long a task may run until its job's own budget is used up; its machine stops it then, should no control plane.
        secrets: opens those that a job asks for.
        told_files: what else a job's tasks find in private files, and its record does not hold: name → text.
    """

    blobs: Blobs
    shared_root: str
    task_secret: Callable[[str], str]
    url: Callable[[], str]
    tables: str = ""
    secrets: Secrets | None = None
    lasts_s: Callable[[Job, Task], float | None] = _for_ever
    told_files: Callable[[Job], Mapping[str, str]] = _nothing

    def task(self, job: Job, task: Task, pool: Pool) -> TaskPlan:
        """The plan of one task, for the pool that it is to run on."""
        spec = job.spec
        ends = [limit for limit in (spec.max_duration_s, self.lasts_s(job, task)) if limit is not None]
        told = {
            "SKYLOOM_URL": pool.advertised_url or self.url(),
            "SKYLOOM_PROJECT": job.project,
            "SKYLOOM_JOB_ID": job.id,
            "SKYLOOM_ATTEMPT": str(task.attempt),
            "SKYLOOM_TABLES": self.tables,
            "SKYLOOM_RUN": spec.labels.get("run", ""),
        }
        opened = self.secrets.open(spec.secrets, job.project) if self.secrets else NOTHING_OPENED
        return TaskPlan(
            task_id=task.id,
            entry=spec.entry,
            files={path: self.blobs.path(digest) or "" for path, digest in spec.files.items()},
            environment={**spec.environment, **told},
            secret_files={"TOKEN": self.task_secret(task.id), **opened.files, **self.told_files(job)},
            secret_variables=opened.variables,
            shared_folder=f"{pool.shared_folder or self.shared_root}/{job.id}",
            resources=spec.resources,
            max_duration_s=min(ends, default=None),
            grace_s=spec.grace_s,
            max_log_bytes=spec.max_log_bytes,
            warm=spec.warm,
            machine=task.machine,
            python=spec.python,
            mounts=job.mounts,
        )
