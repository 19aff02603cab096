"""Supervisors that this engine started: from the spawn until they hold their lock, and their collection when they end."""

import contextlib
import enum
import errno
import os
import threading
from typing import NamedTuple

from skyloom.engines.local.folder import TaskFolder
from skyloom.engines.local.prepare import SUPERVISOR
from skyloom.engines.local.supervisor import processes
from skyloom.engines.local.warm import WarmPools


class Fate(enum.Enum):
    """What became of a supervisor that this engine started, or did not."""

    NOT_OURS = enum.auto()
    ALIVE = enum.auto()
    GONE = enum.auto()


class _Start(NamedTuple):
    pid: int
    ticks: int


class Starts:
    """Starts supervisors, warm where possible. Looking is thread-safe; `start` is guarded by the engine's launch lock.

    Args:
        disowns: supervisors become nobody's children, for a process whose host kills its children when it ends.
    """

    def __init__(self, python: str, warm: WarmPools | None, disowns: bool = False) -> None:
        self._python = python
        self._warm = warm
        self._disowns = disowns
        self._lock = threading.Lock()
        self._by_task: dict[str, _Start] = {}
        self._uncollected: set[int] = set()

    def start(self, folder: TaskFolder) -> None:
        """Start a task's supervisor. Raises ``OSError`` when the system refuses another process."""
        pid = self._start_warm(folder)
        is_our_child = pid is None and not self._disowns
        if pid is None:
            pid = self._spawn_disowned(folder) if self._disowns else self._spawn(folder, "shim")
        with self._lock:
            if is_our_child:
                self._uncollected.add(pid)
            self._by_task[folder.task_id] = _Start(pid, processes.start_ticks(pid) or 0)

    def _start_warm(self, folder: TaskFolder) -> int | None:
        plan = folder.plan()
        if self._warm is None or plan is None or plan.python is None or plan.python.get("cold"):
            return None
        return self._warm.fork_shim(folder.path, str(plan.python.get("module", "")))

    def _spawn_disowned(self, folder: TaskFolder) -> int:
        read, write = os.pipe()
        try:
            between = self._spawn(folder, "disown", write)
        finally:
            os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.readline()
        # The program that we live in ignores SIGCHLD: the kernel collected it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(between, 0)
        if not said:
            raise OSError(errno.EAGAIN, "its first process ended early; see shim.err")
        return int(said)

    def _spawn(self, folder: TaskFolder, verb: str, said: int | None = None) -> int:
        """Its own session: a Ctrl-C in the control plane's terminal is not for tasks. Isolated and without site: 20 ms."""
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *([] if said is None else [(os.POSIX_SPAWN_DUP2, said, 1)]),
            (os.POSIX_SPAWN_OPEN, 2, str(folder.path / "shim.err"), log_flags, 0o600),
            *([(os.POSIX_SPAWN_DUP2, 2, 1)] if said is None else []),
        ]
        argv = [self._python, "-I", "-S", str(SUPERVISOR), verb, str(folder.path)]
        return os.posix_spawn(
            self._python,
            argv,
            {"LANG": "C.UTF-8"},
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=range(1, 32),
        )

    def fate(self, task_id: str) -> Fate:
        """What became of the supervisor that we started for this task, whether or not it holds the lock already."""
        with self._lock:
            start = self._by_task.get(task_id)
        if start is None:
            return Fate.NOT_OURS
        return Fate.ALIVE if processes.is_running(start.pid, start.ticks) else Fate.GONE

    def forget(self, task_id: str) -> None:
        """The task's files are gone."""
        with self._lock:
            self._by_task.pop(task_id, None)

    def reap(self) -> None:
        """Collect supervisors that ended, so that they do not stay as zombies while we live."""
        with self._lock:
            for pid in tuple(self._uncollected):
                try:
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                except ChildProcessError:
                    pass  # the program that we live in ignores SIGCHLD: the kernel collected it
                self._uncollected.discard(pid)
