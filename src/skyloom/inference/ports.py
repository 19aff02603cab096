"""Who owns a port on this machine: replicas of one endpoint share it, and nobody else may take part.

The system lets every process of one user join a shared port (SO_REUSEPORT) and would hand a stranger a part of the requests. So the first
replica takes the port's lock file alone, checks that nobody listens, writes the endpoint's id and then only shares the lock;
later ones share it if the id is theirs. The lock dies with the process.
"""

import errno
import fcntl
import os
import socket
from pathlib import Path

from skyloom.core.errors import Conflict


class PortTaken(Conflict):
    """Another program or another endpoint listens on the port."""


class PortClaim:
    """A held share of one port's lock. Keep it for the life of the process."""

    def __init__(self, folder: Path, endpoint: str, host: str, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(folder / f"{port}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._claim(endpoint, host, port)
        except BaseException:
            os.close(self._file)
            raise

    def release(self) -> None:
        """Let go."""
        os.close(self._file)

    def _claim(self, endpoint: str, host: str, port: int) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # Somebody holds it; wait while that is a first replica that still writes its name.
            fcntl.lockf(self._file, fcntl.LOCK_SH)
            owner = os.pread(self._file, 200, 0).decode("utf-8", "replace")
            if owner != endpoint:
                raise taken(host, port, "another endpoint") from None
            return
        check_free(host, port)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, endpoint.encode(), 0)
        # POSIX locks turn from exclusive to shared in one step; flock would let go in between.
        fcntl.lockf(self._file, fcntl.LOCK_SH)


def check_free(host: str, port: int) -> None:
    """Raise `PortTaken` when anybody listens there, willing to share or not."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _bind_error(error, host, port) from error


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket that other replicas may share. Raises `PortTaken`."""
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(1_024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _bind_error(error, host, port) from error
    return listener


def taken(host: str, port: int, by: str) -> PortTaken:
    """Word the error."""
    return PortTaken(
        f"Port {port} on {host} is used by {by}.",
        next_action="Stop that program, or deploy the endpoint again for other ports.",
    )


def _bind_error(error: OSError, host: str, port: int) -> PortTaken:
    if error.errno == errno.EADDRINUSE:
        return taken(host, port, "another program")
    return PortTaken(
        f"Port {port} on {host} cannot be opened: {os.strerror(error.errno or 0)}.", next_action="Choose another port."
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
