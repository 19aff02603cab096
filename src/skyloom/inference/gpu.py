"""What this process uses of the machine's GPUs, read through NVML (``nvidia-ml-py``), which is imported only where a GPU was given."""

import contextlib
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol

from skyloom.core.errors import Unavailable


class GpuUnreadable(Unavailable):
    """A GPU was given, and nothing here can read it."""


class GpuReader(Protocol):
    """Reads the GPUs that this process computes on. `tests/contracts/gpu_contract.py` is its suite."""

    def memory_bytes(self) -> int:
        """What this process holds of their memory; 0 before it uses one."""
        ...

    def utilisation(self) -> float | None:
        """Share of their time in which they were busy lately, 0 to 1, by whomever; None before this process uses one."""
        ...


class MemoryGpu:
    """A GPU that does what it is told; for tests, and for trying things out on machines without one."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.busy: float | None = None

    def memory_bytes(self) -> int:
        """What was set."""
        return self.held_bytes

    def utilisation(self) -> float | None:
        """What was set; None while nothing is held."""
        return self.busy if self.held_bytes else None


class NvmlReader:
    """`GpuReader` over NVML. The devices are those that list this process: NVML knows nothing of ``CUDA_VISIBLE_DEVICES``.

    Args:
        nvml: the module ``pynvml``. Raises `GpuUnreadable` when there is no driver.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._devices = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            raise _unreadable(f"NVML says {error}") from error

    def memory_bytes(self) -> int:
        """What this process holds of their memory."""
        return sum(held_bytes for _, held_bytes in self._mine())

    def utilisation(self) -> float | None:
        """The mean over the devices that this process computes on."""
        busy: list[float] = []
        for device, _ in self._mine():
            with contextlib.suppress(self._nvml.NVMLError):
                busy.append(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
        return sum(busy) / len(busy) if busy else None

    def _mine(self) -> Iterator[tuple[Any, int]]:
        for device in self._devices:
            with contextlib.suppress(self._nvml.NVMLError):  # a device that is away for a moment holds nothing of ours
                for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device):
                    if process.pid == os.getpid():
                        yield device, process.usedGpuMemory or 0


def open_gpu() -> GpuReader:
    """Read the GPUs of this machine. Raises `GpuUnreadable`."""
    try:
        return NvmlReader(import_module("pynvml"))
    except ImportError as error:
        raise _unreadable("nvidia-ml-py is not installed") from error


def _unreadable(why: str) -> GpuUnreadable:
    return GpuUnreadable(
        f"The GPU cannot be read: {why}.", next_action="Install nvidia-ml-py where replicas run, and NVIDIA's driver."
    )
