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


def end_lost(folder: TaskFolder) -> ExitRecord | None:
    """Record that a task lost its supervisor, once nothing of it lives. None while that is not so.

    Takes the folder's lock: a supervisor that does live keeps it, and then nothing happens.
    """
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
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        inside = _members(cgroup)
        left = {*processes.marked(shim.marker), *inside}
        if not left:
            if cgroup is not None and cgroup.is_dir():
                cgroup.rmdir()
            return True
        for pid in left:
            ticks = processes.start_ticks(pid)
            if ticks is not None and (processes.carries(pid, shim.marker) or pid in _members(cgroup)):
                processes.send(pid, ticks, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def _members(cgroup: Path | None) -> set[int]:
    if cgroup is None:
        return set()
    try:
        return {int(line) for line in (cgroup / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
