"""What comes after what: pure decisions, and the round that releases or ends the jobs that wait.

Level-triggered: each round looks at what the waiting jobs come after, as it is now, so no restart and no lost message leaves one
waiting for ever.
A cycle cannot be made of jobs that exist already; who submits several at once refuses it himself (`rooms/templates`).
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence

from skyloom.core.errors import NotFound
from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.model import (
    ENDED,
    Condition,
    Dependency,
    Job,
    JobMissing,
    JobState,
    Reason,
    TaskState,
)
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.jobs.reading import find_job, jobs_of
from skyloom.rooms.jobs.writing import JobWriter, write_each

StateOf = Callable[[Snapshot, str, str], JobState]
"""The state of a thing with an id, in a project. Raises its own `NotFound`."""

_MOST_AT_ONCE = 2_000
_PART = 500
_BUSY_S, _IDLE_S = 0.1, 2.0


class Verdict(enum.Enum):
    """Whether something may begin."""

    READY = enum.auto()
    WAIT = enum.auto()
    NEVER = enum.auto()


def verdict(after: Iterable[Dependency], states: Mapping[str, JobState | None]) -> tuple[Verdict, str]:
    """Whether all conditions hold, can still come to hold, or never will; and the first that does not, in words.

    A thing that is gone (None) can never succeed, and counts as ended.
    """
    waiting = ""
    for one in after:
        state = states.get(one.id)
        if state is None or state in ENDED:
            if one.condition is Condition.SUCCEEDED and state is not JobState.SUCCEEDED:
                return Verdict.NEVER, f"{one.id}, which it comes after, {state.value if state else 'is gone'}"
        else:
            waiting = waiting or rules.waits_for((one,))
    return (Verdict.WAIT, waiting) if waiting else (Verdict.READY, "")


class Dependencies:
    """Knows the state of everything that a job may come after, and lets jobs go when their time has come.

    Attributes:
        kinds: prefix of an id → who tells its state. Jobs are there; the composition root adds what other rooms have.
    """

    def __init__(self, store: Store, clock: Clock, writer: JobWriter) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self.kinds: MutableMapping[str, StateOf] = {"job": job_state}

    def check(self, view: Snapshot, after: Iterable[Dependency], project: str) -> None:
        """Raise `NotFound` unless each thing exists in the project; somebody else's looks absent."""
        for one in after:
            try:
                self.state(view, one.id, project)
            except NotFound as error:
                action = "What a job comes after is named by its whole id: skyloom job list, skyloom array list."
                raise type(error)(error.message, next_action=action) from None

    def state(self, view: Snapshot, subject: str, project: str) -> JobState:
        """The state of a job or an array of a project. Raises its own `NotFound`."""
        tell = self.kinds.get(subject.partition("_")[0])
        if tell is None:
            raise JobMissing(f"There is no job {subject}.", next_action="List yours: skyloom job list.")
        return tell(view, subject, project)

    def verdict(self, view: Snapshot, after: Sequence[Dependency], project: str) -> tuple[Verdict, str]:
        """`verdict`, on what is true now."""
        return verdict(after, {one.id: self._known(view, one.id, project) for one in after})

    def _known(self, view: Snapshot, subject: str, project: str) -> JobState | None:
        try:
            return self.state(view, subject, project)
        except NotFound:
            return None

    def tick(self) -> float:
        """One round over the jobs that wait. Returns the seconds after which the next one is due."""
        decided = self._store.read(self._decided)
        for start in range(0, len(decided), _PART):
            write_each(self._store, self._apply, [(one[0], one) for one in decided[start : start + _PART]])
        waits = self._store.read(lambda view: view.count(TASKS, {"state": TaskState.WAITING}))
        return _BUSY_S if waits else _IDLE_S

    def _decided(self, view: Snapshot) -> list[tuple[str, Verdict, str]]:
        states: dict[tuple[str, str], JobState | None] = {}
        decided: list[tuple[str, Verdict, str]] = []
        for job in _waiting(view):
            for one in job.spec.after:
                if (one.id, job.project) not in states:
                    states[one.id, job.project] = self._known(view, one.id, job.project)
            found, why = verdict(job.spec.after, {one.id: states[one.id, job.project] for one in job.spec.after})
            if found is not Verdict.WAIT:
                decided.append((job.id, found, why))
        return decided

    def _apply(self, tx: Transaction, decided: tuple[str, Verdict, str]) -> None:
        job_id, found, why = decided
        job = tx.get(JOBS, job_id)
        # One that was cancelled meanwhile has no waiting tasks any more.
        waiting = tx.select(TASKS, {"job_id": job_id, "state": TaskState.WAITING})
        after: dict[str, object] = {"state": TaskState.QUEUED}
        if found is Verdict.NEVER:
            after = {"state": TaskState.CANCELLED, "reason": Reason.DEPENDENCY_FAILED, "message": why}
            after["ended_at"] = self._clock.now()
        if job is not None:
            self._writer.moves(tx, job, [changed(task, after) for task in waiting])


def _waiting(view: Snapshot) -> Iterator[Job]:
    """The jobs that wait, in the order of their ids; so many at a time that they do not fill the memory."""
    after: str | None = None
    while tasks := view.select(TASKS, {"state": TaskState.WAITING}, after=after, limit=_MOST_AT_ONCE):
        after = tasks[-1].id
        yield from jobs_of(view, tasks).values()


def job_state(view: Snapshot, job_id: str, project: str) -> JobState:
    """The state of a job of a project. Raises `JobMissing`."""
    job = find_job(view, job_id, project)
    return rules.state_of(rules.newest(job, view.select(TASKS, {"job_id": job_id})))
