"""What a task's processes use, and its hard limit: a memory cgroup where one can be made, sampling elsewhere."""

from __future__ import annotations

import os

from .processes import descendants

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_ROOT = "/sys/fs/cgroup"


def show_bytes(count: int) -> str:
    """As `skyloom.core.resources.show_bytes`, said twice because the supervisor imports nothing of Skyloom."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def resident_bytes(root: int) -> int:
    """Resident memory of all processes below ``root``; pages that several share count several times."""
    total = 0
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/statm") as file:
                total += int(file.read().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            continue
    return total


def proportional_bytes(root: int) -> int:
    """Memory of all processes below ``root``, shared pages divided by their users; slower than `resident_bytes`."""
    total = 0
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration):
            continue
    return total


class MemoryCgroup:
    """A memory cgroup for one task, version 1 or 2. The kernel ends the task's process that goes over the limit."""

    def __init__(self, path: str, version: int) -> None:
        self.path = path
        self._version = version

    @classmethod
    def make(cls, name: str, limit_bytes: int) -> MemoryCgroup | None:
        """Make and limit one below our own cgroup (or, where that one may not have children, beside it); None if not allowed."""
        for parent, version in _parents():
            group = cls(f"{parent}/{name}", version)
            try:
                os.mkdir(group.path)
            except OSError:
                continue
            if group._limit(limit_bytes):
                return group
            group.remove()
        return None

    def _limit(self, limit_bytes: int) -> bool:
        try:
            if self._version == 2:
                self._write("memory.max", limit_bytes)
                self._write("memory.oom.group", 1)
            else:
                self._write("memory.limit_in_bytes", limit_bytes)
            swap = "memory.swap.max" if self._version == 2 else "memory.memsw.limit_in_bytes"
            if os.path.exists(f"{self.path}/{swap}"):
                self._write(swap, 0 if self._version == 2 else limit_bytes)
        except OSError:
            return False
        return True

    def add(self, pid: int) -> bool:
        """Move a process in; its descendants follow. False when the kernel refuses."""
        try:
            self._write("cgroup.procs", pid)
        except OSError:
            return False
        return True

    def kills(self) -> int:
        """How many processes the kernel ended here for want of memory."""
        return self._count("memory.events" if self._version == 2 else "memory.oom_control", "oom_kill")

    def used_bytes(self) -> int:
        """Memory of the processes now, without the file cache."""
        return self._count("memory.stat", "anon" if self._version == 2 else "total_rss")

    def peak_bytes(self) -> int:
        """The most that was ever charged, file cache included."""
        try:
            return int(self._read("memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"))
        except (OSError, ValueError):
            return 0

    def pids(self) -> list[int]:
        """Processes that are in it now."""
        try:
            return [int(line) for line in self._read("cgroup.procs").split()]
        except OSError:
            return []

    def remove(self) -> None:
        """Remove it once its processes are gone."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass  # still busy, or gone: a later observation tries again

    def _count(self, file: str, name: str) -> int:
        try:
            rows = [line.split() for line in self._read(file).splitlines()]
        except OSError:
            return 0
        return next((int(row[1]) for row in rows if row[0] == name), 0)

    def _read(self, file: str) -> str:
        with open(f"{self.path}/{file}") as opened:
            return opened.read()

    def _write(self, file: str, value: int) -> None:
        with open(f"{self.path}/{file}", "w") as opened:
            opened.write(str(value))


def _parents() -> list[tuple[str, int]]:
    """Folders where a memory cgroup could be made, best first. Version 2 forbids children of a group that has processes, so
    there the group beside ours is tried too."""
    found = []
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(","):
                found += [(f"{_ROOT}/memory{path}".rstrip("/"), 1), (f"{_ROOT}/memory", 1)]
            elif not controllers and os.path.exists(f"{_ROOT}/cgroup.controllers"):
                found += [
                    (f"{_ROOT}{path}".rstrip("/"), 2),
                    (f"{_ROOT}{os.path.dirname(path)}".rstrip("/"), 2),
                    (_ROOT, 2),
                ]
    return [(path, version) for path, version in found if os.access(path, os.W_OK)]
