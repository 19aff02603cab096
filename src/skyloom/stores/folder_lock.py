"""One process per data folder: an advisory lock that the kernel drops when its holder dies."""

import fcntl
import os
from pathlib import Path

from skyloom.core.errors import Conflict, NotPermitted


class FolderInUse(Conflict):
    """Another control plane works in this folder."""


class FolderLock:
    """Holds ``<folder>/lock`` until closed. Raises `FolderInUse` naming the other process, `NotPermitted`."""

    def __init__(self, folder: Path) -> None:
        self._file: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotPermitted(
                f"The data folder {folder} cannot be used: {error.strerror}.",
                next_action="Give this user write access to it, or choose another with SKYLOOM_HOME.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise FolderInUse(
                f"Another control plane (process {holder}) works in {folder}.",
                next_action="Use that one (skyloom status), stop it (skyloom down), or choose another SKYLOOM_HOME.",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go. Safe to call twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
