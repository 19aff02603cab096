"""After a supervisor was killed: end what it left, and say so for ever."""

import os
import re
import signal
import time
from pathlib import Path

from skyloom.engines.local.folder import ExitRecord, ShimRecord, TaskFolder
from skyloom.engines.local.supervisor import files, processes
from skyloom.ports.engine import EndReason

_MARKER = re.compile(r"[0-9a-f]{32}")
_PATIENCE_S = 5.0
_DYING_S = 2.0


def end_lost(folder: TaskFolder) -> ExitRecord | None:
    """Record that a task lost its supervisor, once nothing of it lives. None while that is not so.

    Takes the folder's lock: a supervisor that does live keeps it, and then nothing happens. A task that never started is left
    alone without touching the lock, which its supervisor may be about to take.
    """
    if folder.shim() is None:
        return None
    lock = files.take_lock(str(folder.lock))
    if lock is None:
        return None
    with os.fdopen(lock, "rb"):
        record, shim = folder.exit(), folder.shim()
        if record is not None or shim is None:
            return record
        same_boot = shim.boot_id == processes.boot_id()
        if same_boot and not _end_leftovers(shim):
            return None
        record = ExitRecord(
            reason=EndReason.SHIM_LOST if same_boot else EndReason.NODE_LOST,
            started_at=shim.started_at,
            ended_at=max(time.time(), shim.started_at),
            message="the task's supervisor was killed; what it left running was ended"
            if same_boot
            else "the machine was restarted while the task ran",
        )
        folder.clear_private()
        folder.write_exit(record)
        return record


def _end_leftovers(shim: ShimRecord) -> bool:
    """Kill what carries the task's marker or is in its cgroup, until nothing does. No recorded pid is trusted."""
    if not _MARKER.fullmatch(shim.marker) or shim.marker == processes.NO_MARKER:
        return True
    cgroup = Path(shim.cgroup) if Path(shim.cgroup).name == f"skyloom-{shim.marker[:16]}" else None
    began = time.monotonic()
    dying = {shim.child_pid: shim.child_ticks}  # the kernel kills that one; it is only waited for
    while time.monotonic() < began + _PATIENCE_S:
        left = {*processes.marked(shim.marker), *_members(cgroup)}
        for pid in left:
            ticks = processes.start_ticks(pid)
            if ticks is not None and (processes.carries(pid, shim.marker) or pid in _members(cgroup)):
                dying[pid] = ticks
                processes.send(pid, ticks, signal.SIGKILL)
        # A dying process shows no environment any more, but may still hold its port or file for a moment.
        held = any(processes.is_running(pid, ticks) for pid, ticks in dying.items())
        if not left and (not held or time.monotonic() > began + _DYING_S):
            if cgroup is not None and cgroup.is_dir():
                cgroup.rmdir()
            return True
        time.sleep(0.01)
    return False


def _members(cgroup: Path | None) -> set[int]:
    if cgroup is None:
        return set()
    try:
        return {int(line) for line in (cgroup / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
