"""What the outbox asks of a disk: the seam at which tests pull the plug."""

import os
from pathlib import Path

from skyloom.durable import sync_folder, write_all


class Disk:
    """The real one."""

    def create(self, path: Path) -> int:
        """A new file for appending, its name on disk when this returns."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        sync_folder(path.parent)
        return descriptor

    def append(self, descriptor: int, content: bytes) -> None:
        """Add bytes at the end; after a crash of the machine a part of them may be missing."""
        write_all(descriptor, content)

    def sync(self, descriptor: int) -> None:
        """What was appended outlives the loss of power when this returns."""
        os.fsync(descriptor)

    def cut(self, descriptor: int, size_bytes: int) -> None:
        """Shorten a file."""
        os.ftruncate(descriptor, size_bytes)

    def remove(self, path: Path) -> None:
        """Take a file away."""
        path.unlink(missing_ok=True)
