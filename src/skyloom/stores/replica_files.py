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
from skyloom.rooms.serving.load import LoadMemory
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.predictions import MAX_LINE_BYTES, log_name, segment_of, starts_of
from skyloom.rooms.serving.routes import RoutingTable
from skyloom.rooms.serving.samples import SamplingRule

_FRESH_S = 60.0
_TAIL_BYTES = 64 * 2**10


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
        self._routes, self._urgent, self._loads = folder / "routes", folder / "urgent", folder / "loads"
        self._sampling, self._samples = folder / "sampling", folder / "samples"
        requests = (self._logs, self._ports, self._access, self._routes, self._urgent, self._loads)
        for part in (folder, *requests, self._packs, self._bundles, self._sampling, self._samples):
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

    def keep_load(self, endpoint: str, memory: LoadMemory) -> None:
        _replace(self._loads / f"{endpoint}.json", msgspec.json.encode(memory))

    def read_load(self, endpoint: str) -> LoadMemory | None:
        try:
            return msgspec.json.decode((self._loads / f"{endpoint}.json").read_bytes(), type=LoadMemory)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def sampling_path(self, endpoint: str) -> str:
        return str(self._sampling / f"{endpoint}.json")

    def publish_sampling(self, endpoint: str, rule: SamplingRule | None) -> None:
        path = Path(self.sampling_path(endpoint))
        if rule is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, msgspec.json.encode(rule))

    def samples_folder(self, endpoint: str) -> str:
        return str(self._samples / endpoint)

    def samples(self, endpoint: str) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for replica, starts in _segments(self._samples / endpoint).items():
            last = self._samples / endpoint / log_name(replica, starts[-1])
            with contextlib.suppress(FileNotFoundError):
                found[replica] = (starts[0], starts[-1] + _whole(last))
        return found

    def remove_samples(self, endpoint: str, taken: Mapping[str, int], live: Collection[str]) -> None:
        folder = self._samples / endpoint
        for replica, starts in _segments(folder).items():
            ends = [*starts[1:], None]
            for start, end in zip(starts, ends, strict=True):
                path = folder / log_name(replica, start)
                if end is None:
                    end = -1 if replica in live else start + _whole(path)
                if 0 <= end <= taken.get(replica, 0):
                    path.unlink(missing_ok=True)

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


def _segments(folder: Path) -> dict[str, list[int]]:
    """Replica → where its segments in a folder begin, in order."""
    found: dict[str, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):  # noqa: PTH208
            if (segment := segment_of(name)) is not None:
                found.setdefault(segment[0], []).append(segment[1])
    return {replica: sorted(starts) for replica, starts in found.items()}


def _whole(path: Path) -> int:
    """Where the last whole line of a file ends. Raises `FileNotFoundError`."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL_BYTES)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0


def _replace(path: Path, content: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    with disk_errors(path):
        write_private(path, content)
