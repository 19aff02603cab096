"""One lane of the outbox: numbered records in segments that only grow.

A segment is a file named by the number of its first record. A record is a header (CRC-32 of all that follows, length, number) and its
bytes. After a crash the last segment may end in half a record or in rubbish: it is cut there, and the numbers are used again, which harms
nobody because only what has been synced is ever sent. A record that went bad in the middle ends its segment: what lies between it and the
next segment is a hole, and the reader says so by where it goes on.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skyloom.edge.disk import Disk

_HEADER = struct.Struct("<IIQ")
_SUFFIX = ".seg"
MAX_RECORD_BYTES = 256 * 1024


@dataclass
class Segment:
    """Records ``first`` to before ``end`` in one file."""

    path: Path
    first: int
    end: int
    size_bytes: int


@dataclass(frozen=True)
class Piece:
    """Some records in a row. ``oldest``: what is below it and was not sent is not there any more."""

    oldest: int
    first: int
    payloads: tuple[bytes, ...] = field(default=())


class RecordLane:
    """Appends on one thread; the other methods may be called from one other thread, with the outbox's lock held."""

    def __init__(self, folder: Path, disk: Disk, segment_bytes: int, base: int = 0) -> None:
        self._folder = folder
        self._disk = disk
        self._segment_bytes = segment_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segments = self._found()
        self.next = self._segments[-1].end if self._segments else base
        self._file: int | None = None
        self.synced = self.next
        self._fresh = True
        if self._segments:
            self._reopen(self._segments[-1])

    @property
    def size_bytes(self) -> int:
        """What all segments hold."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def oldest(self) -> int:
        """Number of the oldest record that is there; the next one when there is none."""
        return next((segment.first for segment in self._segments if segment.end > segment.first), self.next)

    @property
    def begins_segment(self) -> bool:
        """The next record is the first of its segment, or the first that this process adds to one."""
        return self._file is None or self._fresh or self._segments[-1].size_bytes >= self._segment_bytes

    def append(self, payloads: Sequence[bytes]) -> int:
        """Add records; returns the number of the first. Raises ``OSError``; then none of them counts."""
        if self._file is None and self._segments:
            self._reopen(self._segments[-1])
        if self._file is None or self._segments[-1].size_bytes >= self._segment_bytes:
            self._roll()
        segment = self._segments[-1]
        content = b"".join(_framed(self.next + place, payload) for place, payload in enumerate(payloads))
        assert self._file is not None, "it was just opened"
        try:
            self._disk.append(self._file, content)
        except OSError:
            self._mend(self._file, segment)
            raise
        first = self.next
        self.next += len(payloads)
        segment.end, segment.size_bytes = self.next, segment.size_bytes + len(content)
        self._fresh = False
        return first

    def duplicate(self) -> tuple[int, int] | None:
        """A descriptor of what is written now, and the number that is safe once it is synced; None when all is."""
        if self._file is None or self.synced == self.next:
            return None
        return os.dup(self._file), self.next

    def readable(self) -> list[Segment]:
        """What is on disk now; `read_piece` reads it, and needs no lock for that."""
        synced = self.synced
        return [
            Segment(one.path, one.first, min(one.end, synced), one.size_bytes)
            for one in self._segments
            if one.first < synced
        ]

    def forget(self, position: int) -> None:
        """Take away the segments of which everything is below ``position``; the one that is written stays."""
        while len(self._segments) > 1 and self._segments[0].end <= position:
            self._disk.remove(self._segments.pop(0).path)

    def give_up_oldest(self) -> tuple[int, int] | None:
        """Take away the oldest segment that is not written to; returns its first number and its end, or None when there is none."""
        if len(self._segments) < 2:
            return None
        segment = self._segments.pop(0)
        self._disk.remove(segment.path)
        return segment.first, self._segments[0].first

    def close(self) -> None:
        """Put everything on disk and let go."""
        if self._file is not None:
            self._disk.sync(self._file)
            os.close(self._file)
            self._file, self.synced = None, self.next

    def _found(self) -> list[Segment]:
        paths = sorted(path for path in self._folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())
        found = []
        for path in paths:
            first = int(path.stem)
            end, size = first, 0
            for number, _, place in _records(path, first):
                end, size = number + 1, place
            found.append(Segment(path, first, end, size))
        # Numbers of a segment that lost its end were used again by the next one only if they are the same: names never overlap.
        return [segment for segment in found if segment.end > segment.first or segment is found[-1]]

    def _reopen(self, segment: Segment) -> None:
        self._file = os.open(segment.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        if os.fstat(self._file).st_size != segment.size_bytes:
            self._disk.cut(self._file, segment.size_bytes)
        self._disk.sync(self._file)

    def _mend(self, file: int, segment: Segment) -> None:
        """Take half a record off the end; what cannot be cut now is cut before anything follows it."""
        try:
            self._disk.cut(file, segment.size_bytes)
        except OSError:
            os.close(file)
            self._file = None

    def _roll(self) -> None:
        """Begin a new segment; the one before is on disk from then on."""
        path = self._folder / f"{self.next:016d}{_SUFFIX}"
        if self._file is not None:
            self._disk.sync(self._file)
            self.synced = self.next
        made = self._disk.create(path)
        if self._file is not None:
            os.close(self._file)
        self._file = made
        self._segments.append(Segment(path, self.next, self.next, 0))
        self._fresh = True


def read_piece(segments: Sequence[Segment], position: int, max_records: int, max_bytes: int) -> Piece:
    """The records from ``position`` on, or from where there are some again. A segment that cannot be read any more is passed over."""
    for segment in segments:
        if segment.end <= position:
            continue
        first = max(position, segment.first)
        payloads: list[bytes] = []
        size = 0
        for number, payload, _ in _records(segment.path, segment.first):
            if number >= segment.end or len(payloads) == max_records or size >= max_bytes:
                break
            if number >= first:
                payloads.append(payload)
                size += len(payload)
        if payloads:
            return Piece(first if first > position else 0, first, tuple(payloads))
    return Piece(0, position)


def _framed(number: int, payload: bytes) -> bytes:
    head = _HEADER.pack(0, len(payload), number)[4:]
    return zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "little") + head + payload


def _records(path: Path, first: int) -> "list[tuple[int, bytes, int]]":
    """The good records at the beginning of a file: number, bytes and where each ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # it was given up meanwhile
        return []
    found, place, number = [], 0, first
    while place + _HEADER.size <= len(content):
        crc, length, told = _HEADER.unpack_from(content, place)
        end = place + _HEADER.size + length
        if told != number or length > MAX_RECORD_BYTES or end > len(content):
            break
        if zlib.crc32(memoryview(content)[place + 4 : end]) != crc:
            break
        found.append((number, content[place + _HEADER.size : end], end))
        place, number = end, number + 1
    return found
