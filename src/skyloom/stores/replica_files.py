"""The files that the control plane and the replicas of one machine share: request logs, lists of accepted tokens, port locks."""

import contextlib
import os
import socket
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from skyloom.core.bounds import Digest
from skyloom.durable import disk_errors, make_folder, move_into_place, write_new, write_private
from skyloom.ports.blobs import Blobs
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.predictions import MAX_LINE_BYTES, log_name, segment_of, starts_of
from skyloom.rooms.serving.routes import RoutingTable

_FRESH_S = 60.0


class LocalReplicaFiles:
    """`rooms.serving.ports.ReplicaFiles` below one folder.

    Args:
        keep_s, keep_bytes: how long request logs are kept after their last line, and how large all of them may be together.
    """

    def __init__(self, folder: Path, blobs: Blobs, keep_s: float = 30 * 86_400.0, keep_bytes: int = 10 * 2**30) -> None:
        self._blobs = blobs
        self._packs, self._bundles = folder / "packs", folder / "bundles"
        self._keep_s, self._keep_bytes = keep_s, keep_bytes
        self._logs, self._ports, self._access = folder / "logs", folder / "ports", folder / "access"
        self._routes, self._urgent = folder / "routes", folder / "urgent"
        for part in (
            folder,
            self._logs,
            self._ports,
            self._access,
            self._routes,
            self._packs,
            self._bundles,
            self._urgent,
        ):
            part.mkdir(mode=0o700, exist_ok=True)
        self.python = sys.executable
        self.reads_gpu = find_spec("pynvml") is not None
        self.log_folder, self.port_folder = str(self._logs), str(self._ports)

    def access_path(self, project: str) -> str:
        return str(self._access / f"{project}.json")

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        _replace(self._access / f"{project}.json", msgspec.json.encode(Access(digests=digests)))

    def urgent_path(self, endpoint: str) -> str:
        return str(self._urgent / f"{endpoint}.json")

    def publish_urgent(self, endpoint: str, digests: tuple[str, ...]) -> None:
        _replace(self._urgent / f"{endpoint}.json", msgspec.json.encode(Access(digests=digests)))

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

    def read_log(self, replica: str, offset: int) -> bytes | None:
        starts = starts_of(replica, os.listdir(self._logs))  # noqa: PTH208
        place = bisect_right(starts, offset)
        if not place:
            return None
        start = starts[place - 1]
        with contextlib.suppress(FileNotFoundError), (self._logs / log_name(replica, start)).open("rb") as file:
            file.seek(offset - start)
            return file.read(MAX_LINE_BYTES)
        return None  # removed in this moment

    def trim_logs(self, live: Collection[str]) -> int:
        found: list[tuple[float, int, Path]] = []
        newest: dict[str, tuple[int, Path]] = {}
        with os.scandir(self._logs) as entries:
            for entry in entries:
                segment = segment_of(entry.name)
                if segment is None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    looked = entry.stat()
                    found.append((looked.st_mtime, looked.st_size, Path(entry.path)))
                    newest[segment[0]] = max(newest.get(segment[0], (-1, Path())), (segment[1], Path(entry.path)))
        kept = {path for replica, (_, path) in newest.items() if replica in live}
        left, now, removed = sum(size for _, size, _ in found), time.time(), 0
        for written_at, size, path in sorted(found):
            if now - written_at < _FRESH_S:  # of a replica, perhaps, that began after somebody asked which live
                continue
            if (now - written_at > self._keep_s or left > self._keep_bytes) and path not in kept:
                path.unlink(missing_ok=True)
                left, removed = left - size, removed + 1
        return removed

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
