"""The routing file: read again when it changes, kept when it cannot be read."""

import os
import sys
from pathlib import Path

import msgspec

from skyloom.rooms.serving.routes import RoutingTable

_MAX_BYTES = 64 * 2**20


class RoutingFile:
    """The newest table that could be read. Says once on stderr when the file is gone or damaged, and once when it is well again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._is_well = True

    def read(self) -> RoutingTable | None:
        """The table, if the file changed since the last look; None: go on with what is known."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return None
            if found.st_size > _MAX_BYTES:
                raise ValueError("it is too large")
            table = msgspec.json.decode(self._path.read_bytes(), type=RoutingTable)
            _check(table)
        except OSError as error:
            self._complain(os.strerror(error.errno or 0))
            return None
        except (ValueError, msgspec.MsgspecError) as error:
            self._seen = seen
            self._complain(str(error))
            return None
        self._seen = seen
        if not self._is_well:
            self._is_well = True
            print("the routing file can be read again", file=sys.stderr, flush=True)
        return table

    def _complain(self, why: str) -> None:
        if self._is_well:
            self._is_well = False
            print(f"the routing file cannot be read, what is known stays: {why}", file=sys.stderr, flush=True)


def _check(table: RoutingTable) -> None:
    """Raise `ValueError` for what no gateway can do."""
    endpoints = [route.endpoint for route in table.routes]
    ports = [port for route in table.routes for port in (route.rest_port, route.grpc_port) if port]
    if len(set(endpoints)) < len(endpoints) or len(set(ports)) < len(ports):
        raise ValueError("two routes have the same endpoint or the same port")
