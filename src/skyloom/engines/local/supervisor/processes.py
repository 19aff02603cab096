"""The process table: who a pid really is, who descends from whom, and signals that cannot hit a stranger.

A pid alone names nobody: it is reused. A process is named by pid, start time (ticks since boot) and boot id.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def boot_id() -> str:
    """Return the kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent thread ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (double forks included)."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER is refused")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is no such process. The name may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone. A zombie still has a start."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_running(pid: int, ticks: int) -> bool:
    """True when this very process lives and is no zombie."""
    fields = _stat(pid)
    return bool(fields) and int(fields[19]) == ticks and fields[0] not in "ZX"


def send(pid: int, ticks: int, number: int) -> bool:
    """Signal exactly the process that started at ``ticks``; False when it is gone. Free of the pid-reuse race: the descriptor
    is opened first, and what it points at is checked before it is used."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if start_ticks(pid) != ticks:
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def children_of(pid: int) -> list[int]:
    """Direct children, from every thread of ``pid``."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass  # it ended while we looked
    return found


HAS_CHILDREN_FILE = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def _children_table() -> dict[int, list[int]]:
    """The whole process table, parent to children, for kernels without the ``children`` file."""
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields:
                table.setdefault(int(fields[1]), []).append(int(name))
    return table


def descendants(root: int) -> list[int]:
    """All processes below ``root``, parents before their children. A snapshot: callers repeat until nothing is left."""
    table = None if HAS_CHILDREN_FILE else _children_table()
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        for child in children_of(pid) if table is None else table.get(pid, []):
            found.append(child)
            waiting.append(child)
    return found


def signal_descendants(root: int, number: int) -> None:
    """Signal every process below ``root``, as far as the table shows them now."""
    for pid in descendants(root):
        ticks = start_ticks(pid)
        if ticks is not None:
            send(pid, ticks, number)


MARKER_VARIABLE = "SKYLOOM_TASK_MARKER"
NO_MARKER = "0" * 32


def carries(pid: int, marker: str) -> bool:
    """True when a living process shows a task's random marker in its initial environment; exec and fork both pass it on."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARKER_VARIABLE}={marker}\0".encode() in file.read() + b"\0"
    except OSError:
        return False  # gone, or another user's


def marked(marker: str) -> list[int]:
    """All living processes that carry a marker."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and carries(int(name), marker)]


def write_marker(marker: str) -> None:
    """Write a marker over the placeholder that this process was started with, in the very memory that /proc shows as its
    environment: a forked process would otherwise show the environment of the process that it was forked from."""
    fields = _stat(os.getpid())
    start, end = int(fields[47]), int(fields[48])
    memory = ctypes.string_at(start, end - start)
    position = memory.find(f"{MARKER_VARIABLE}={NO_MARKER}".encode())
    if position >= 0:
        ctypes.memmove(start + position + len(MARKER_VARIABLE) + 1, marker.encode(), len(marker))
