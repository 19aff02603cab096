"""A second opinion: the textbook definitions, step by step in whole seconds, by brute force and without any code of the scheduler.

Each second, all jobs that are there are lined up by the definition of the policy, and the GPUs are given out down that line. Slow and
obvious.
"""

from collections.abc import Sequence

from skyloom.rooms.scheduling.model import Policy
from skyloom.simulation.model import TraceJob


class Textbook:
    """One trace on a number of GPUs. All times in the jobs are whole seconds; durations are at least 1.

    Args:
        limits: borders of the queues of LAS, in GPU-seconds.
        skip: a job that does not fit lets those behind it pass; otherwise nobody behind it runs.
    """

    def __init__(
        self, jobs: Sequence[TraceJob], num_gpus: int, policy: Policy, limits: Sequence[float] = (), skip: bool = True
    ) -> None:
        self.jobs = sorted(jobs, key=lambda job: job.submit_s)
        self.num_gpus = num_gpus
        self.policy = policy
        self.limits = limits
        self.skip = skip
        self.left = {job.job_id: job.duration_s for job in jobs}
        self.queues: list[list[TraceJob]] = [[] for _ in range(len(limits) + 1)]
        self.running: list[TraceJob] = []

    def finish_times(self) -> dict[str, float]:
        """When each job ends."""
        ends: dict[str, float] = {}
        now = 0.0
        while len(ends) < len(self.jobs):
            there = [job for job in self.jobs if job.submit_s <= now and job.job_id not in ends]
            self.running = self.served(self.in_line(there, now))
            now += 1
            for job in self.running:
                self.left[job.job_id] -= 1
                if not self.left[job.job_id]:
                    ends[job.job_id] = now
            self.running = [job for job in self.running if job.job_id not in ends]
        return ends

    def served(self, line: list[TraceJob]) -> list[TraceJob]:
        free, served = self.num_gpus, []
        for job in line:
            if job.num_gpus <= free:
                free -= job.num_gpus
                served.append(job)
            elif not self.skip:
                break
        for queue in self.queues:  # of LAS: who waits stands behind who runs
            queue.sort(key=lambda job: job not in served)
        return served

    def in_line(self, there: list[TraceJob], now: float) -> list[TraceJob]:
        def rest(job: TraceJob) -> float:
            return self.left[job.job_id]

        match self.policy:
            case Policy.FIFO:
                return sorted(there, key=lambda job: job not in self.running)
            case Policy.SRTF:
                return sorted(there, key=rest)
            case Policy.SRSF:
                return sorted(there, key=lambda job: rest(job) * job.num_gpus)
            case _:
                return self.by_attained_service(there, now)

    def by_attained_service(self, there: list[TraceJob], now: float) -> list[TraceJob]:
        """Discretised 2D-LAS (Tiresias): queues by GPU-seconds, FIFO inside; who is new or had its share goes to a queue's tail."""
        self.queues = [[job for job in queue if job in there] for queue in self.queues]
        for job in there:
            level = sum((job.duration_s - self.left[job.job_id]) * job.num_gpus >= limit for limit in self.limits)
            if job not in self.queues[level]:
                for queue in self.queues:
                    if job in queue:
                        queue.remove(job)
                self.queues[level].append(job)
        return [job for queue in self.queues for job in queue]
