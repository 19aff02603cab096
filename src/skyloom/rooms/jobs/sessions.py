"""Sessions: the way into a running task, for a command or for a port. Opening one is an operation; its bytes then go another way.

Sessions live in memory: when the control plane ends, its connections end too, and nothing has to be remembered of them. A session
is good for the token that opened it, and for no other.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from skyloom.core.errors import Conflict, LimitExceeded, NotFound
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller
from skyloom.ports.channel import GuestCommand, TaskChannel
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers
from skyloom.ports.engine import Ability, AbilityMissing, Engine
from skyloom.ports.store import Snapshot, Transaction
from skyloom.rooms.jobs import model
from skyloom.rooms.jobs.model import JobStatus, Session, Task, TaskState

UNUSED_S = 60.0  # a command that nobody came for is not run any more
IDLE_S = 3_600.0  # a connection without a byte is closed, a port without a connection forgotten
MOST_SESSIONS = 64  # of one project, so that nobody uses up everybody's
MOST_CONNECTIONS = 64  # to one port; a browser opens a dozen
MOST_OPEN_OF_PROJECT = 128
MOST_OPEN = 256


class TaskEngines(Protocol):
    """The fleet, as sessions see it."""

    def engine(self, pool: str) -> Engine:
        """The engine of a pool. Raises `PoolDown`."""
        ...


class TaskNotRunning(Conflict):
    """The task is not running now, so nobody can go inside."""


class SessionMissing(NotFound):
    """There is no such session: it was never opened, used up, or forgotten."""


class TooManySessions(LimitExceeded):
    """The bound on sessions or on their connections is reached."""


@dataclass
class _Open:
    """A session, who opened it, and what it is good for."""

    session: Session
    pool: str
    owner: tuple[str, str, str]
    command: GuestCommand | None
    port: int
    expires_at: float
    connections: int = 0
    is_used: bool = False


def _owner(by: Caller) -> tuple[str, str, str]:
    return (by.project, by.principal, by.token_id)


class Sessions:
    """The open sessions of all projects. Thread-safe.

    Args:
        engines: finds the engine of a pool, as `Fleet` does.
        status: looks a job up; raises `JobMissing`.
    """

    def __init__(
        self, clock: Clock, ids: Ids, engines: TaskEngines, status: Callable[[Snapshot, str, str], JobStatus]
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._engines = engines
        self._status = status
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def handlers(self) -> Handlers:
        return {
            model.OpenExec: Change(self.open_exec),
            model.OpenPort: Change(self.open_port),
        }

    def open_exec(self, tx: Transaction, ask: model.OpenExec, by: Caller) -> Session:
        command = GuestCommand(argv=ask.argv, terminal=ask.terminal, kind_of_terminal=ask.kind_of_terminal)
        return self._opened(tx, ask.job_id, ask.rank, by, UNUSED_S, command=command)

    def open_port(self, tx: Transaction, ask: model.OpenPort, by: Caller) -> Session:
        return self._opened(tx, ask.job_id, ask.rank, by, IDLE_S, port=ask.port)

    def _opened(
        self,
        view: Snapshot,
        job_id: str,
        rank: int,
        by: Caller,
        good_for_s: float,
        *,
        command: GuestCommand | None = None,
        port: int = 0,
    ) -> Session:
        task = self._running(view, job_id, rank, by.project)
        self._check_able(task, Ability.EXEC if command else Ability.CONNECT)
        now = self._clock.now()
        session = Session(
            id=f"{task.id}.{self._ids.new('session')}", job_id=job_id, task_id=task.id, expires_at=now + good_for_s
        )
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if one.connections or one.expires_at > now}
            if len(self._of(by.project)) >= MOST_SESSIONS:
                raise TooManySessions(
                    f"{MOST_SESSIONS} sessions of the project are open.",
                    next_action="Close one, or try again in a minute.",
                )
            self._open[session.id] = _Open(session, task.pool, _owner(by), command, port, session.expires_at)
        return session

    def _running(self, view: Snapshot, job_id: str, rank: int, project: str) -> Task:
        status = self._status(view, job_id, project)
        task = next((task for task in status.tasks if task.rank == rank), None)
        if task is None:
            raise model.JobMissing(
                f"{job_id} has no worker {rank}.", next_action=f"Its workers are 0 to {len(status.tasks) - 1}."
            )
        if task.state is not TaskState.RUNNING:
            raise TaskNotRunning(
                f"Worker {rank} of {job_id} is {task.state.value}, not running.",
                next_action=f"See: skyloom job show {job_id}.",
            )
        return task

    def _check_able(self, task: Task, wanted: Ability) -> None:
        if wanted not in self._engines.engine(task.pool).abilities:
            raise AbilityMissing(
                f"The pool where {task.id} runs does not have the ability {wanted.value!r}.",
                next_action="Run the job on this machine (--pool local), or print what you want to see into its log.",
            )

    def attach(self, session_id: str, by: Caller) -> TaskChannel:
        """Go inside: run the session's command, which can be done once, or connect to its port. Blocks for seconds at most.

        Raises `SessionMissing`, for somebody else's session just the same, `TooManySessions`, and what the engine raises. Every
        success is followed by one `leave`.
        """
        with self._lock:
            one = self._open.get(session_id)
            now = self._clock.now()
            expired = one is not None and not one.connections and one.expires_at <= now
            if one is None or one.owner != _owner(by) or expired or (one.command is not None and one.is_used):
                raise SessionMissing(
                    f"There is no session {session_id[:100]}.", next_action="Open one: skyloom job exec, port-forward."
                )
            if (
                one.connections >= MOST_CONNECTIONS
                or sum(each.connections for each in self._of(by.project)) >= MOST_OPEN_OF_PROJECT
                or sum(each.connections for each in self._open.values()) >= MOST_OPEN
            ):
                raise TooManySessions("Too many connections are open.", next_action="Close some of them first.")
            one.connections += 1
            one.is_used = True
        try:
            engine = self._engines.engine(one.pool)
            if one.command is not None:
                return engine.enter(one.session.task_id, one.command)
            return engine.connect(one.session.task_id, one.port)
        except BaseException:
            self.leave(session_id)
            raise

    def _of(self, project: str) -> list[_Open]:
        return [one for one in self._open.values() if one.owner[0] == project]

    def leave(self, session_id: str) -> None:
        """A connection is closed."""
        with self._lock:
            one = self._open.get(session_id)
            if one is None:
                return
            one.connections -= 1
            one.expires_at = self._clock.now() + IDLE_S
            if one.command is not None:
                del self._open[session_id]
