"""The files that the control plane and the replicas of one machine share: request logs, lists of accepted tokens, port locks."""

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from skyloom.core.bounds import Digest
from skyloom.durable import disk_errors, make_folder, move_into_place, write_new, write_private
from skyloom.ports.blobs import Blobs
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.predictions import MAX_LINE_BYTES, log_name
from skyloom.rooms.serving.routes import RoutingTable


class LocalReplicaFiles:
    """`rooms.serving.ports.ReplicaFiles` below one folder."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self._blobs = blobs
        self._packs, self._bundles = folder / "packs", folder / "bundles"
        self._logs, self._ports, self._access = folder / "logs", folder / "ports", folder / "access"
        self._routes = folder / "routes"
        for part in (folder, self._logs, self._ports, self._access, self._routes, self._packs, self._bundles):
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

    def pack_path(self, endpoint: str) -> str:
        return str(self._packs / f"{endpoint}.json")

    def publish_pack(self, endpoint: str, table: PackTable) -> None:
        _replace(self._packs / f"{endpoint}.json", msgspec.json.encode(table))

    def lay_out(self, manifest: Digest, files: Mapping[str, Digest]) -> str:
        place = self._bundles / manifest.removeprefix("sha256:")
        if not place.is_dir():
            with disk_errors(place), tempfile.TemporaryDirectory(dir=self._bundles) as scratch:
                draft = Path(scratch) / "bundle"
                for path, digest in files.items():
                    self._put(draft / path, digest)
                move_into_place(draft, place)
        return str(place)

    def _put(self, path: Path, digest: Digest) -> None:
        """One file of a bundle: the blob itself under another name where the disk can do that, else a copy of it."""
        make_folder(path.parent)
        held = self._blobs.path(digest)
        if held is not None:
            with contextlib.suppress(OSError):
                os.link(held, path)
                return
        write_new(path, self._blobs.open(digest))

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
