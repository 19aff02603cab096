"""Files that survive: written whole or not at all, on disk before we say so.

The order is always the same: write a temporary file, fsync it, rename it into place, fsync the folder. A crash leaves the old
file or the new one. Knows nothing about what the files mean.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from skyloom.core.errors import NotPermitted, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say a full disk as `StorageFull` and a refusal of the system as `NotPermitted`; other errors pass."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageFull(
                f"The disk that holds {path} is full; nothing was written.",
                next_action="Free some space there, then try again.",
            ) from error
        if error.errno in _REFUSED:
            raise NotPermitted(
                f"The system refuses to write {path}: {os.strerror(error.errno)}.",
                next_action="Give this user the right to write there, or choose another folder.",
            ) from error
        raise


def is_full(error: OSError) -> bool:
    """True when the disk, or this user's part of it, takes no more."""
    return error.errno in _FULL


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(file: Path) -> None:
    """Put the bytes of a file, whoever wrote them, on disk."""
    _sync(file)


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each on disk when this returns. Idempotent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        with contextlib.suppress(FileExistsError):
            child.mkdir()
        sync_folder(child.parent)


def write_new(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that nobody reads yet and put its bytes on disk; its name is not yet. Removes it when writing fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | bytearray) -> None:
    """Write all bytes, however many calls that takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def move_into_place(source: Path, target: Path) -> None:
    """Rename, replacing what is there, and put the new name on disk."""
    source.replace(target)
    sync_folder(target.parent)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, whole or not at all, on disk when this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_new(draft, (content,))
    move_into_place(draft, path)
