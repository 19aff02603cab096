"""What every `GpuReader` keeps."""

from typing import Any


class GpuContract:
    """Give ``reader`` (nothing runs on it), ``begin`` (this process holds so many bytes, and it is busy for this share of its time)."""

    reader: Any

    def begin(self, held_bytes: int, busy: float) -> None:
        raise NotImplementedError

    def test_gpu_that_this_process_does_not_use_tells_nothing(self) -> None:
        assert (self.reader.memory_bytes(), self.reader.utilisation()) == (0, None)

    def test_gpu_that_is_used_tells_what_is_held_and_how_busy_it_is(self) -> None:
        self.begin(2**30, 0.75)
        assert (self.reader.memory_bytes(), self.reader.utilisation()) == (2**30, 0.75)
        self.begin(2**20, 0.0)
        assert (self.reader.memory_bytes(), self.reader.utilisation()) == (2**20, 0.0)
