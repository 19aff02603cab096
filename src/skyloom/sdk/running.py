"""The control plane of a folder, as a process on this machine: where it answers, and whether it is still alive.

A pid alone says little, because the system uses it again; together with the start time of the process it names one for ever.
"""

import os
from pathlib import Path

import msgspec


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a running embedded control plane says about itself in ``server.json``.

    Attributes:
        born: start time of the process as the kernel counts it (clock ticks since boot).
        started_at: Unix seconds.
    """

    url: str
    pid: int
    started_at: float
    version: str
    born: int = 0

    @property
    def is_alive(self) -> bool:
        """True while that very process runs; false for another one that got its pid."""
        return born(self.pid) == self.born != 0


def born(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def running(home: Path) -> ServerRecord | None:
    """The control plane that works in a folder now, or None."""
    try:
        record = msgspec.json.decode((home / "server.json").read_bytes(), type=ServerRecord)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.is_alive else None


def announce(url: str, version: str, started_at: float) -> ServerRecord:
    """The record of this very process."""
    pid = os.getpid()
    return ServerRecord(url=url, pid=pid, started_at=started_at, version=version, born=born(pid))
