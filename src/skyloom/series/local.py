"""Series in append-only files, one per track. Exactly one process writes a folder.

A file is a sequence of lines, one per batch: eight hex digits of CRC-32, a space, JSON ``[source, sequence, [point, …]]``. A
crash can tear only the last line; readers leave it out, and it is cut off when the file is next opened for writing.
"""

import os
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.durable import disk_errors, make_folder, sync_file, sync_folder, write_all
from skyloom.ports.series import Point
from skyloom.series.memory import Track, matches, plain

_SYNC_EVERY_S = 0.5
_TRACK = re.compile(r"[A-Za-z0-9._:-]{1,120}")


class InvalidTrack(InvalidInput):
    """A track is named by an id."""


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    source: str
    sequence: int
    points: tuple[Point, ...]


_decoder = msgspec.json.Decoder(_Batch)


class LocalSeries:
    """Measurements on local disk. A batch is in the file when `append` returns; a thread syncs the files twice a second."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}
        self._dirty: set[Path] = set()
        self._work = threading.Event()
        self._closing = threading.Event()
        with disk_errors(root):
            make_folder(root)
        self._syncer = threading.Thread(target=self._sync_often, name="series-sync", daemon=True)
        self._syncer.start()

    def append(self, track: str, source: str, sequence: int, points: Sequence[Point]) -> bool:
        file = self._file(track)
        with self._lock, disk_errors(file):
            known = self._open(track, file)
            if not known.is_new(source, sequence):
                return False
            stored = tuple(plain(point) for point in points)
            _append_line(file, _line(_Batch(source, sequence, stored)))
            known.note(source, sequence, stored)
            self._dirty.add(file)
        self._work.set()
        return True

    def points(self, track: str, name: str | None = None, *, after_step: int = -1, limit: int = 10_000) -> list[Point]:
        file = self._file(track)
        if not file.exists():
            return []
        found: list[Point] = []
        with file.open("rb") as lines:
            for batch in _batches(lines):
                found.extend(point for point in batch.points if matches(point, name, after_step))
                if len(found) >= limit:
                    break
        return found[:limit]

    def latest(self, track: str) -> dict[str, Point]:
        file = self._file(track)
        with self._lock:
            if track not in self._tracks and not file.exists():
                return {}
            return dict(self._open(track, file).latest)

    def close(self) -> None:
        self._closing.set()
        self._work.set()
        self._syncer.join()

    def _file(self, track: str) -> Path:
        if not _TRACK.fullmatch(track):
            raise InvalidTrack(f"{track[:120]!r} is not an id.", next_action="Name the run or endpoint by its id.")
        return self._root / f"{track}.series"

    def _open(self, track: str, file: Path) -> Track:
        """The track's state; read from its file, whose torn tail is cut off, when this process meets it first."""
        known = self._tracks.get(track)
        if known is None:
            known = Track()
            if file.exists():
                _recover(file, known)
            else:
                file.touch()
                sync_folder(self._root)
            self._tracks[track] = known
        return known

    def _sync_often(self) -> None:
        while not self._closing.is_set():
            self._work.wait()
            self._work.clear()
            self._sync()
            self._closing.wait(_SYNC_EVERY_S)
        self._sync()

    def _sync(self) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        for file in dirty:
            sync_file(file)


def _line(batch: _Batch) -> bytes:
    body = msgspec.json.encode(batch)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _append_line(file: Path, line: bytes) -> None:
    """Add a line whole: when the disk fills half-way, what was written is cut off again."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        size_bytes = os.fstat(descriptor).st_size
        try:
            write_all(descriptor, line)
        except OSError:
            os.ftruncate(descriptor, size_bytes)
            raise
    finally:
        os.close(descriptor)


def _batches(lines: BinaryIO) -> Iterator[_Batch]:
    """Yield the whole batches; a damaged line is left out, the ones around it count."""
    for line in lines:
        body = line[9:-1]
        if line.endswith(b"\n") and line[:9] == b"%08x " % zlib.crc32(body):
            yield _decoder.decode(body)


def _recover(file: Path, track: Track) -> None:
    """Read a track's state and cut off the tail that a crash tore, so that the next line starts on a new one."""
    end = 0
    with file.open("r+b") as lines:
        for batch in _batches(lines):
            track.note(batch.source, batch.sequence, batch.points)
        lines.seek(0)
        for line in lines:
            end += len(line) if line.endswith(b"\n") else 0
        lines.truncate(end)
