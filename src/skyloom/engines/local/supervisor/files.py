"""Small files that survive power loss, and the lock that says "a supervisor lives here"."""

from __future__ import annotations

import fcntl
import json
import os
import struct

# struct flock: type, whence, start, length, pid. Open-file-description locks, unlike flock(2), can be probed without being taken,
# so that an observer never makes a starting supervisor believe that another one is there.
_FLOCK = "hhqqi4x"


def read_json(path: str) -> dict[str, object] | None:
    """Read an object, or None when the file is missing. Raises ``ValueError`` when it holds something else."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


HIDDEN_VARIABLES = ".variables"  # in the folder of secrets


def complete_environment(plan: dict[str, object]) -> dict[str, str]:
    """The variables of the user's process: those of the plan, and the secret ones, which stand in a file of their own."""
    environment = plan["environment"]
    assert isinstance(environment, dict)
    path = str(plan.get("secret_variables") or "")
    if not path:
        return environment
    with open(path, "rb") as file:
        return {**environment, **json.loads(file.read())}


def read_error(path: str) -> tuple[str, str] | None:
    """Reason and message of an end, from what a program left about its failure; None when that is nothing of use.

    The program may leave anything there: it is read without waiting, without following links, and in part.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            told = json.loads(os.read(descriptor, _MAX_ERROR_BYTES))
        finally:
            os.close(descriptor)
        text = str(told["message"]).encode("utf-8", "replace").decode()
        message = " ".join(text.split())[:_MAX_ERROR_CHARACTERS]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if not message:
        return None
    reason = "launch_failed" if told.get("launch") is True else "refused" if told.get("final") is True else "exit_code"
    return reason, message


def write_durable(path: str, value: dict[str, object], reserve: str | None = None) -> None:
    """Put an object at ``path``: whole or not at all, on disk before this returns.

    Args:
        reserve: a file of `RESERVE_BYTES` made earlier, whose blocks are used, so that a full disk cannot stop the write.

    Raises ``OSError``; then ``path`` is as it was.
    """
    content = json.dumps(value).encode()
    temporary = reserve if reserve is not None and os.path.exists(reserve) else f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, content)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


_MOMENT_BYTES = 32


def write_moment(path: str, seconds: float) -> None:
    """Write a time over the one that is there: in place and of fixed length, which a full disk still takes."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.pwrite(descriptor, b"%-*.6f\n" % (_MOMENT_BYTES - 1, seconds), 0)
    finally:
        os.close(descriptor)


def read_moment(path: str) -> float | None:
    """Read what `write_moment` wrote; None when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return float(file.read(_MOMENT_BYTES))
    except (OSError, ValueError):
        return None


RESERVE_BYTES = 8192
_MAX_ERROR_BYTES = 65536
_MAX_ERROR_CHARACTERS = 500  # at most 6,000 bytes as JSON, so that the record fits into its reserve


def make_reserve(path: str) -> None:
    """Set blocks aside for a later `write_durable`, without waiting for the disk. Raises ``OSError`` when it is full."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
    finally:
        os.close(descriptor)


def sync_folder(path: str) -> None:
    """Make a folder's names durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: str) -> int | None:
    """Take the lock for as long as the returned descriptor (or a fork's copy of it) is open; None when someone has it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: str) -> bool:
    """True while someone holds the lock. Takes nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK
