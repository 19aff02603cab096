"""The files that the control plane and the replicas of one machine share: request logs, lists of accepted tokens, port locks."""

import contextlib
import socket
import sys
from pathlib import Path

import msgspec

from skyloom.durable import disk_errors, write_private
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.predictions import MAX_LINE_BYTES, log_name
from skyloom.rooms.serving.routes import RoutingTable


class LocalReplicaFiles:
    """`rooms.serving.ports.ReplicaFiles` below one folder."""

    def __init__(self, folder: Path) -> None:
        self._logs, self._ports, self._access = folder / "logs", folder / "ports", folder / "access"
        self._routes = folder / "routes"
        for part in (folder, self._logs, self._ports, self._access, self._routes):
            part.mkdir(mode=0o700, exist_ok=True)
        self.python = sys.executable
        self.log_folder, self.port_folder = str(self._logs), str(self._ports)

    def access_path(self, project: str) -> str:
        return str(self._access / f"{project}.json")

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        _replace(self._access / f"{project}.json", msgspec.json.encode(Access(digests=digests)))

    def routes_path(self, project: str) -> str:
        return str(self._routes / f"{project}.json")

    def publish_routes(self, project: str, table: RoutingTable) -> None:
        _replace(self._routes / f"{project}.json", msgspec.json.encode(table))

    def read_routes(self, project: str) -> RoutingTable:
        try:
            return msgspec.json.decode((self._routes / f"{project}.json").read_bytes(), type=RoutingTable)
        except (FileNotFoundError, msgspec.MsgspecError):
            return RoutingTable()

    def read_log(self, replica: str, offset: int) -> bytes:
        with contextlib.suppress(FileNotFoundError), (self._logs / log_name(replica)).open("rb") as file:
            file.seek(offset)
            return file.read(MAX_LINE_BYTES)
        return b""

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


def _replace(path: Path, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    with disk_errors(path):
        write_private(path, content)
