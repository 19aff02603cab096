"""What the loop knows of live jobs: a copy of the store, brought up to date by the events of what changed.

Every change of a job publishes an event in its own transaction, so the events since the last look name all jobs that have to be read
again. So a round costs what has changed, not what waits. The store alone is truth: every write is guarded by versions, and the copy
is made anew now and then, should it ever differ.
"""

from collections.abc import Iterable
from typing import NamedTuple

from skyloom.ports.door import EVENTS
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.history import History
from skyloom.rooms.jobs.model import Job, Task, TaskState
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import by_job, parts

_CHUNK = 1_000
_PREFIX = "job_"


class LiveGang(NamedTuple):
    """A live job with the tasks of its newest attempt, by rank.

    Attributes:
        served_s: worker-seconds of its earlier attempts.
    """

    job: Job
    tasks: tuple[Task, ...]
    served_s: float = 0.0

    @property
    def holds(self) -> bool:
        """It has been started and has not wholly ended."""
        return any(task.state in rules.HOLDING for task in self.tasks)

    @property
    def waits(self) -> bool:
        """Its newest attempt has not been started."""
        return all(task.state is TaskState.QUEUED for task in self.tasks)


class Mirror:
    """Live jobs by id. Not thread-safe."""

    def __init__(self) -> None:
        self.gangs: dict[str, LiveGang] = {}
        self._held: set[str] = set()
        self._seen = -1
        self.history = History()

    def held(self) -> list[LiveGang]:
        """The gangs that have been started and have not wholly ended, the oldest first."""
        return [self.gangs[job_id] for job_id in sorted(self._held & self.gangs.keys())]

    def refresh(self, view: Snapshot, *, anew: bool = False) -> set[str]:
        """Catch up with the store; returns the ids of jobs that changed, those that have ended among them."""
        if self._seen < 0 or anew:
            if self._seen < 0:
                self.history.load(view)
            newest = view.entries(EVENTS, limit=1, newest_first=True)
            self._seen = newest[0][0] if newest else 0
            live = {task.job_id for task in view.select(TASKS, {"state": rules.LIVE})}
            changed = live | self.gangs.keys()
        else:
            changed = self._changed(view)
        self._read(view, changed)
        return changed

    def _changed(self, view: Snapshot) -> set[str]:
        changed: set[str] = set()
        while chunk := view.entries(EVENTS, after=self._seen, limit=_CHUNK):
            changed.update(event.subject for _, event in chunk if event.subject.startswith(_PREFIX))
            self._seen = chunk[-1][0]
        return changed

    def _read(self, view: Snapshot, ids: Iterable[str]) -> None:
        for part in parts(tuple(sorted(ids))):
            jobs = {job.id: job for job in view.select(JOBS, {"id": part})}
            tasks = by_job(view.select(TASKS, {"job_id": part}))
            for job_id in part:
                gang = _gang(jobs[job_id], tasks[job_id]) if job_id in jobs else None
                if gang is None and job_id in self._held and job_id in jobs:
                    self.history.note(jobs[job_id], tasks[job_id])
                self._keep(job_id, gang)

    def _keep(self, job_id: str, gang: LiveGang | None) -> None:
        if gang is None:
            self.gangs.pop(job_id, None)
        else:
            self.gangs[job_id] = gang
        if gang is not None and gang.holds:
            self._held.add(job_id)
        else:
            self._held.discard(job_id)


def _gang(job: Job, tasks: list[Task]) -> LiveGang | None:
    """A job's newest attempt, or None when it has ended."""
    newest = rules.newest(job, tasks)
    if not any(task.state in rules.LIVE for task in newest):
        return None
    return LiveGang(job, newest, sum(rules.ran_s(task) for task in tasks if task.attempt < job.attempt))
