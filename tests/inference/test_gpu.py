"""GPUs, as NVML tells of them; played by a module with its functions."""

import os
import sys
from types import SimpleNamespace

import pytest

from skyloom.inference.gpu import GpuUnreadable, MemoryGpu, NvmlReader, open_gpu
from skyloom.inference.packing.gauge import gauge, resident_bytes
from tests.contracts.gpu_contract import GpuContract


class NvmlStand:
    """The functions of ``pynvml`` that are used, over two devices that somebody else uses too."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.mine: dict[int, int] = {}
        self.busy = {0: 90, 1: 10}
        self.broken = ""

    def _check(self, name: str) -> None:
        if self.broken == name:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:
        return place

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:
        self._check("processes")
        own = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.mine[device])] if device in self.mine else []
        return [SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=2**40), *own]

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        self._check("rates")
        return SimpleNamespace(gpu=self.busy[device], memory=1)


class TestMemoryGpu(GpuContract):
    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.reader = MemoryGpu()

    def begin(self, held_bytes: int, busy: float) -> None:
        self.reader.held_bytes, self.reader.busy = held_bytes, busy


class TestNvmlReader(GpuContract):
    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.nvml = NvmlStand()
        self.reader = NvmlReader(self.nvml)

    def begin(self, held_bytes: int, busy: float) -> None:
        self.nvml.mine, self.nvml.busy[0] = {0: held_bytes}, round(busy * 100)

    def test_several_devices_are_added_and_averaged(self) -> None:
        self.nvml.mine = {0: 5, 1: None}  # type: ignore[dict-item]
        assert (self.reader.memory_bytes(), self.reader.utilisation()) == (5, 0.5)

    @pytest.mark.parametrize("broken", ["processes", "rates"])
    def test_device_that_is_away_for_a_moment_tells_nothing(self, broken: str) -> None:
        self.begin(5, 0.5)
        self.nvml.broken = broken
        assert self.reader.utilisation() is None


def test_gpu_that_cannot_be_read_says_why(monkeypatch) -> None:
    stand = NvmlStand()
    stand.broken = "init"
    with pytest.raises(GpuUnreadable, match="Driver Not Loaded"):
        NvmlReader(stand)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(GpuUnreadable, match="nvidia-ml-py is not installed"):
        open_gpu()


def test_gauge_counts_what_lies_on_the_gpu_too() -> None:
    gpu = MemoryGpu()
    gpu.held_bytes = 2**50
    assert resident_bytes() < 2**45
    assert 2**50 < gauge(gpu)() < 2**51
