"""What this process holds in memory: its resident set, and its part of a GPU's memory where there is one."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from skyloom.inference.gpu import GpuReader

Gauge = Callable[[], int]
"""Bytes that this process holds now."""

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The resident set of this process."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES


def gauge(gpu: GpuReader | None) -> Gauge:
    """What is measured: cores' memory alone, or with a GPU both together, since a model lies in one or the other."""
    if gpu is None:
        return resident_bytes
    return lambda: resident_bytes() + gpu.memory_bytes()


def give_back() -> None:
    """Let the allocator return what nobody holds, so that the next measurement tells the truth. Only glibc knows how."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
