"""Where am I: job, run, rank and folders, as plain values."""

from dataclasses import dataclass
from pathlib import Path

from skyloom.settings import TaskEnvironment


@dataclass(frozen=True)
class Context:
    """This process's place.

    Attributes:
        job_id, task_id, run, project: ids; empty outside of a job, ``run`` also in a job that is no training run.
        attempt: 1 for the first try of the job.
        rank, world_size: place in the gang; 0 of 1 outside of a job.
        shared_folder: folder of the whole job, the same for all ranks and all attempts; checkpoints go here.
        task_folder: folder of this rank's attempt; ``result.json`` in it is the task's answer.
        mounts: folder of what the job mounts, read-only, each by its name.
        url, token: the control plane and this task's own token; empty outside of a job.
    """

    job_id: str
    task_id: str
    run: str
    project: str
    attempt: int
    rank: int
    world_size: int
    shared_folder: Path
    task_folder: Path
    mounts: Path
    url: str
    token: str

    @property
    def is_in_job(self) -> bool:
        """True when a control plane started this process."""
        return bool(self.job_id)

    @property
    def is_first(self) -> bool:
        """True on rank 0, which speaks for the gang: it reports, writes checkpoints and registers models."""
        return self.rank == 0

    def __repr__(self) -> str:
        return f"Context(job={self.job_id or 'none'}, run={self.run or 'none'}, rank={self.rank} of {self.world_size})"


def context() -> Context:
    """Read this process's place from the variables that the engine set. Outside of a job, the folders are below ``skyloom-out``."""
    told = TaskEnvironment.read()
    outside = Path("skyloom-out").absolute()
    return Context(
        job_id=told.job_id,
        task_id=told.task_id,
        run=told.run,
        project=told.project,
        attempt=told.attempt,
        rank=told.rank,
        world_size=told.world_size,
        shared_folder=Path(told.shared_folder) if told.shared_folder else outside,
        task_folder=Path(told.task_folder) if told.task_folder else outside / f"rank-{told.rank}",
        mounts=Path(told.mounts) if told.mounts else outside / "mounts",
        url=told.url,
        token=told.token,
    )
