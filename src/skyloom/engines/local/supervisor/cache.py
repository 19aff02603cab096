"""Folders that are made once for each machine and then only read: environments, datasets, models. Shared by all tasks of a user.

<root>/<key>          the folder itself            <root>/<key>.lock   exclusive: being made or removed; shared: in use
<root>/<key>.ready    it is whole, and on disk     (its time: when it was last taken)

Who takes a folder keeps its lock, through ``exec`` too, so that nobody removes what a living task uses. The kernel lets go of the
lock when the task ends, however it does. A maker that dies leaves a folder that is not ready, which the next one makes again.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable

from . import files

KEY = re.compile(r"[0-9a-f]{16,64}")
_libc = ctypes.CDLL(None, use_errno=True)
_ABANDONED_S = 3600.0


def take(root: str, key: str, make: Callable[[str], None], waits: Callable[[], None], max_bytes: int) -> int:
    """Return a descriptor that keeps the folder ``key`` in place for as long as it is open; an ``exec`` inherits it.

    Args:
        make: fills the empty folder it is given; called at most once at a time on this machine. What it raises leaves no folder.
        waits: called once when somebody else is making the folder right now.
        max_bytes: bound of the whole cache; what was not taken for longest and is not in use goes first. A folder that somebody
            uses is never removed, so that a few large ones may go beyond the bound.
    """
    os.makedirs(root, mode=0o700, exist_ok=True)
    folder, told = f"{root}/{key}", False
    while True:
        lock = _open_lock(root, key)
        if not _flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB):
            if not told:
                waits()
                told = True
            fcntl.flock(lock, fcntl.LOCK_SH)
        if not _is_current(lock, root, key):
            os.close(lock)  # it was removed while we waited
            continue
        if _touch(f"{folder}.ready"):
            os.set_inheritable(lock, True)
            return lock
        if _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not os.path.exists(f"{folder}.ready"):
                try:
                    _make(folder, make)
                except BaseException:
                    os.unlink(f"{folder}.lock")
                    raise
                evict(root, max_bytes)
        elif not told:
            waits()
            told = True
        os.close(lock)
        if told:
            time.sleep(0.02)  # two that want to make it would otherwise try in turns without a pause


def _make(folder: str, make: Callable[[str], None]) -> None:
    remove_tree(folder)
    os.mkdir(folder, 0o700)
    try:
        make(folder)
        _sync_filesystem(folder)
    except BaseException:
        remove_tree(folder)
        raise
    files.write_durable(f"{folder}.ready", {"size_bytes": size_of(folder), "made_at": time.time()})


def evict(root: str, max_bytes: int) -> None:
    """Remove what was not used for longest until the rest fits, and what a dead maker left an hour ago."""
    found = []
    for name in os.listdir(root):
        key, _, end = name.partition(".")
        if not KEY.fullmatch(key) or end:
            continue
        ready = f"{root}/{name}.ready"
        try:
            record = files.read_json(ready)
            used_at = os.stat(ready if record else f"{root}/{name}").st_mtime
        except (OSError, ValueError):
            continue
        size = int(str(record.get("size_bytes", 0))) if record else 0
        found.append((used_at, size, name, record is None))
    total = sum(size for _, size, _, _ in found)
    for used_at, size, name, unfinished in sorted(found):
        abandoned = unfinished and used_at < time.time() - _ABANDONED_S
        if (total > max_bytes or abandoned) and _remove(root, name):
            total -= size


def _remove(root: str, key: str) -> bool:
    """Remove one folder; False when somebody uses it."""
    lock = _open_lock(root, key)
    try:
        if not _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) or not _is_current(lock, root, key):
            return False
        # In this order a crash leaves a folder that is not ready, never one that is ready and incomplete.
        if os.path.exists(f"{root}/{key}.ready"):
            os.unlink(f"{root}/{key}.ready")
        files.sync_folder(root)
        remove_tree(f"{root}/{key}")
        os.unlink(f"{root}/{key}.lock")
        return True
    finally:
        os.close(lock)


def remove_tree(folder: str) -> None:
    """Delete a folder, also one whose insides are read-only. A link is not followed."""
    if not os.path.isdir(folder) or os.path.islink(folder):
        return
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def size_of(folder: str) -> int:
    """Bytes on disk of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(f"{place}/{name}").st_blocks * 512
    return total


def _open_lock(root: str, key: str) -> int:
    return os.open(f"{root}/{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _flock(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how)
    except BlockingIOError:
        return False
    return True


def _is_current(lock: int, root: str, key: str) -> bool:
    """False when the lock's file was removed or replaced since it was opened."""
    try:
        return os.fstat(lock).st_ino == os.stat(f"{root}/{key}.lock").st_ino
    except FileNotFoundError:
        return False


def _touch(path: str) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _sync_filesystem(folder: str) -> None:
    """Put everything of this file system on disk: one call, where a folder of a wheel has thousands of files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "the environment could not be put on disk", folder)
    finally:
        os.close(descriptor)
