"""What this machine has: the cores, memory and GPUs that this process may use."""

import os
import platform
import re
from pathlib import Path

from skyloom.core.resources import NOTHING, Resources

_CGROUP = Path("/sys/fs/cgroup")


def capacity(wanted: Resources | None = None) -> Resources:
    """What ``wanted`` says, and where it says nothing or 0, all that the machine and our control group allow."""
    wanted = wanted or NOTHING
    return Resources(
        cpus=wanted.cpus or _cpus(),
        gpus=wanted.gpus or len(gpu_indices()),
        memory_bytes=wanted.memory_bytes or _memory_bytes(),
    )


def name() -> str:
    """What this machine is called."""
    return platform.node() or "localhost"


def gpu_indices() -> tuple[int, ...]:
    """Indices of the NVIDIA GPUs whose device files are here."""
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return tuple(sorted(int(match[1]) for match in found if match))


def _cpus() -> float:
    allowed = float(len(os.sched_getaffinity(0)))
    quota = _words(_CGROUP / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        return min(allowed, int(quota[0]) / int(quota[1]))
    old = _words(_CGROUP / "cpu/cpu.cfs_quota_us") + _words(_CGROUP / "cpu/cpu.cfs_period_us")
    if len(old) == 2 and int(old[0]) > 0:
        return min(allowed, int(old[0]) / int(old[1]))
    return allowed


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    limits = [_words(_CGROUP / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(int(words[0]) for words in limits if words and words[0] != "max")])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
