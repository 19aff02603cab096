"""A disk that loses power: at its k-th step it stops, and what was not synced may be gone, in part or all of it."""

import os
import random
from pathlib import Path

from skyloom.edge.disk import Disk


class PowerLost(BaseException):
    """The machine is gone; no handler of the code under test may catch this."""


class FrailDisk(Disk):
    """Counts its steps; dies at step ``dies_at``, before or in the middle of it."""

    def __init__(self, seed: int = 0, dies_at: int | None = None, kill_only: bool = False) -> None:
        self.steps, self.dies_at = 0, dies_at
        self._random = random.Random(seed)
        self._kill_only = kill_only
        self._safe: dict[str, int] = {}

    def _step(self) -> bool:
        self.steps += 1
        return self.steps == self.dies_at

    def create(self, path: Path) -> int:
        if self._step():
            raise PowerLost
        descriptor = super().create(path)
        self._safe[str(path)] = 0
        return descriptor

    def append(self, descriptor: int, content: bytes) -> None:
        if self._step():
            super().append(descriptor, content[: self._random.randint(0, len(content))])
            raise PowerLost
        super().append(descriptor, content)

    def sync(self, descriptor: int) -> None:
        if self._step():
            raise PowerLost
        super().sync(descriptor)
        self._safe[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = os.fstat(descriptor).st_size

    def cut(self, descriptor: int, size_bytes: int) -> None:
        if self._step():
            raise PowerLost
        super().cut(descriptor, size_bytes)

    def remove(self, path: Path) -> None:
        if self._step():
            raise PowerLost
        super().remove(path)
        self._safe.pop(str(path), None)

    def after_power_loss(self, folder: Path) -> None:
        """What the next start finds: every file cut somewhere behind what was synced, some with rubbish at their end."""
        if self._kill_only:  # the process alone was killed: the system keeps what was written
            return
        for path in folder.rglob("*.seg"):
            size = path.stat().st_size
            safe = min(self._safe.get(str(path), size), size)
            left = self._random.randint(safe, size)
            with path.open("r+b") as file:
                file.truncate(left)
                if self._random.random() < 0.3:
                    file.seek(left)
                    file.write(self._random.randbytes(self._random.randint(1, 40)))
