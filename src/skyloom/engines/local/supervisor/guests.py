"""Guests: commands that somebody runs inside of a task. They are the supervisor's own children like the task's main process, so
that the task's limits hold them and they end with it.

The engine asks by a socket in the task's folder ``guests/`` and wakes the supervisor, which connects to it, gets a command and three
descriptors, and answers with the pid and later the end. While the engine holds the connection the guest lives.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from . import processes
from .child import fork_guest

_MOST_GUESTS = 64
_MAX_REQUEST_BYTES = 2**20


class Guests:
    """The guests of one task. Called by the supervisor's only thread; nothing here blocks.

    Args:
        admits: called with the pid of a guest before its first line; puts it where the task's limits hold. False: it cannot.
    """

    def __init__(self, folder: str, plan: dict[str, Any], admits: Callable[[int], bool]) -> None:
        self._folder = f"{folder}/guests"
        self._plan = plan
        self._admits = admits
        self._visitors: dict[int, Any] = {}  # descriptor → socket
        self._pids: dict[int, int] = {}  # descriptor → pid of its guest
        self._left: list[tuple[int, int]] = []  # processes whose visitor is gone, told to go: pid and start

    def look(self, is_ending: bool) -> list[int]:
        """Connect to who asks; returns the new descriptors to watch. A task that is ending takes nobody."""
        for pid, ticks in self._left:
            processes.send(pid, ticks, signal.SIGKILL)
        self._left = []
        met = []
        try:
            for name in os.listdir(self._folder):
                # One with a dot does not listen yet.
                descriptor = None if name.startswith(".") else self._meet(name, is_ending)
                if descriptor is not None:
                    met.append(descriptor)
        except OSError:
            pass  # nobody ever asked; or there is no descriptor left, which is the machine's trouble and not the task's
        return met

    def _meet(self, name: str, is_ending: bool) -> int | None:
        import socket  # costs 5 ms, which only tasks with guests pay

        visitor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The path of a socket may have only 108 bytes; by the descriptor of its folder it is always short.
            visitor.connect(f"/proc/self/fd/{folder}/{name}")
            visitor.setblocking(False)
        except OSError:
            visitor.close()  # who asked is gone
            return None
        finally:
            os.close(folder)
            try:
                os.unlink(f"{self._folder}/{name}")
            except OSError:
                pass
        if is_ending or len(self._visitors) >= _MOST_GUESTS:
            _tell(visitor, error="the task is ending" if is_ending else f"it has {_MOST_GUESTS} guests already")
            visitor.close()
            return None
        self._visitors[visitor.fileno()] = visitor
        return int(visitor.fileno())

    def is_visitor(self, descriptor: int) -> bool:
        """True for a descriptor that `look` returned and that is open."""
        return descriptor in self._visitors

    def serve(self, descriptor: int) -> bool:
        """Take what came from a visitor: a request, or its end. False when the descriptor is not to be watched any more."""
        import socket

        visitor = self._visitors[descriptor]
        try:
            content, streams, _, _ = socket.recv_fds(visitor, _MAX_REQUEST_BYTES, 3)
        except BlockingIOError:
            return True
        except OSError:
            content, streams = b"", []
        if not content:
            self._leave(descriptor)
            return False
        try:
            if descriptor not in self._pids and len(streams) == 3:
                self._start(descriptor, json.loads(content), streams)
        # The machine's trouble or nonsense, but not the task's.
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:
            _tell(self._visitors[descriptor], error=f"{type(error).__name__}: {error}")
        finally:
            for stream in streams:
                os.close(stream)
        return True

    def _start(self, descriptor: int, request: dict[str, Any], streams: list[int]) -> None:
        told = {**self._plan["environment"], **request["environment"]}
        plan = {"argv": request["argv"], "environment": told, "cwd": self._plan["cwd"]}
        pid, go, start_error = fork_guest(plan, streams, bool(request["terminal"]))
        if not self._admits(pid):
            os.close(go)
            os.close(start_error)
            raise OSError("the task's limits cannot be put on it")
        os.write(go, b"g")
        os.close(go)
        with open(start_error, "rb") as pipe:
            message = pipe.read().decode(errors="replace")
        self._pids[descriptor] = pid
        _tell(self._visitors[descriptor], **({"error": message} if message else {"pid": pid}))

    def ended(self, pid: int, status: int) -> None:
        """Tell who asked for it that a guest ended; other pids are none of ours."""
        for descriptor, guest in self._pids.items():
            if guest == pid:
                code = os.waitstatus_to_exitcode(status)
                _tell(self._visitors[descriptor], **({"signal": -code} if code < 0 else {"exit_code": code}))
                self._pids[descriptor] = 0

    def _leave(self, descriptor: int) -> None:
        """Who asked is gone: nobody sees this guest any more, so it ends with all it started."""
        self._visitors.pop(descriptor).close()
        pid = self._pids.pop(descriptor, 0)
        if not pid:
            return
        for member in (*processes.descendants(pid), pid):
            ticks = processes.start_ticks(member)
            if ticks is not None:
                processes.send(member, ticks, signal.SIGHUP)
                self._left.append((member, ticks))


def _tell(visitor: Any, **what: object) -> None:
    try:
        visitor.send(json.dumps(what).encode())
    except OSError:
        pass  # gone; the next look at its descriptor says so
