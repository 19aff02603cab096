"""Preemptive policies in fifty plain lines, as their papers tell them: look at every job at every event, in order, and run what fits."""

from dataclasses import dataclass
from math import inf

from skyloom.rooms.scheduling.model import Policy


@dataclass
class Job:
    """One job on a cloud where a GPU is a GPU."""

    name: str
    submitted_at: float
    duration_s: float
    num_gpus: int
    ran_s: float = 0.0
    queue: int = 0
    runs: bool = False

    @property
    def left_s(self) -> float:
        return self.duration_s - self.ran_s


def play(jobs: list[Job], num_gpus: int, limits: tuple[float, ...], policy: Policy) -> dict[str, float]:
    """When each job ends. ``limits``: of the LAS queues, in GPU-seconds."""
    coming = sorted(jobs, key=lambda job: (job.submitted_at, job.name))
    lines: list[list[Job]] = [[] for _ in range(len(limits) + 1)]
    ended: dict[str, float] = {}
    now = 0.0
    while coming or any(lines):
        here = sorted((job for line in lines for job in line), key=lambda job: (job.submitted_at, job.name))
        running = [job for job in here if job.runs]
        moments = [now + min(job.left_s, _until_demotion(job, limits, policy)) for job in running]
        then = min([*moments, *(job.submitted_at for job in coming[:1])])
        for job in running:
            job.ran_s += then - now
        now = then
        for job in running:
            if job.left_s < 1e-7:
                lines[job.queue].remove(job)
                ended[job.name] = now
        while coming and coming[0].submitted_at <= now:
            lines[0].append(coming.pop(0))
        for job in running:
            if job.name not in ended and _until_demotion(job, limits, policy) < 1e-7:
                lines[job.queue].remove(job)
                job.queue += 1
                lines[job.queue].append(job)
        _share_out(lines, num_gpus, policy)
        # In each queue those who run stand before those who wait.
        for line in lines:
            line.sort(key=lambda job: not job.runs)
    return ended


def _until_demotion(job: Job, limits: tuple[float, ...], policy: Policy) -> float:
    if policy is not Policy.LAS or job.queue >= len(limits):
        return inf
    return limits[job.queue] / job.num_gpus - job.ran_s


def _share_out(lines: list[list[Job]], num_gpus: int, policy: Policy) -> None:
    order = [job for line in lines for job in line]
    if policy is not Policy.LAS:
        weight = {job.name: job.num_gpus if policy is Policy.SRSF else 1 for job in order}
        order.sort(key=lambda job: (round(job.left_s * weight[job.name], 6), job.submitted_at, job.name))
    for job in order:
        job.runs = job.num_gpus <= num_gpus
        num_gpus -= job.num_gpus * job.runs
