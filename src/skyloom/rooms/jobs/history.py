"""How long jobs ran: by project and name, from those that succeeded. Derived from the store; lost without harm."""

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from skyloom.ports.engine import Command, PythonModule
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import Job, JobState, Task
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job, parts
from skyloom.rooms.scheduling.durations import Durations, from_history

_KEPT = 50
_MOST_NAMES = 10_000
_LOOKED_BACK = 2_000


class History:
    """The last durations of each kind of job, in seconds with the fewest workers. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], deque[float]] = {}

    def load(self, view: Snapshot) -> None:
        """Learn from the newest jobs that are stored."""
        newest = view.select(JOBS, newest_first=True, limit=_LOOKED_BACK)
        jobs = {job.id: job for job in reversed(newest)}
        for part in parts(tuple(jobs)):
            tasks = by_job(view.select(TASKS, {"job_id": part}))
            for job_id in part:
                self.note(jobs[job_id], tasks[job_id])

    def note(self, job: Job, tasks: Sequence[Task]) -> None:
        """A job has ended, in whatever way; one that did not succeed says nothing about the next."""
        if rules.state_of(rules.newest(job, tasks)) is not JobState.SUCCEEDED:
            return
        key = (job.project, kind_of(job))
        if key not in self._known and len(self._known) >= _MOST_NAMES:
            del self._known[next(iter(self._known))]
        self._known.setdefault(key, deque(maxlen=_KEPT)).append(duration_s(job, tasks))

    def expected_s(self, job: Job) -> float | None:
        """How long such jobs run, mostly; None where none has ended yet."""
        known = self._known.get((job.project, kind_of(job)))
        return median(known) if known else None

    def durations(self, job: Job) -> Durations | None:
        """What earlier jobs say about this one; None where there is none."""
        known = self._known.get((job.project, kind_of(job)))
        return from_history(list(known), f"jobs named {kind_of(job)}") if known else None


def kind_of(job: Job) -> str:
    """What jobs that are alike have in common: the name, or what is run."""
    entry = job.spec.entry
    if job.spec.name:
        return job.spec.name
    if isinstance(entry, Command):
        return entry.argv[0]
    return entry.module if isinstance(entry, PythonModule) else entry.path


def duration_s(job: Job, tasks: Iterable[Task]) -> float:
    """How long a job ran in all its attempts, as if it had had its fewest workers, each worth the same."""
    attempts: dict[int, list[Task]] = {}
    for task in tasks:
        attempts.setdefault(task.attempt, []).append(task)
    return sum(max(rules.ran_s(task) for task in gang) * len(gang) / job.spec.num_workers for gang in attempts.values())
