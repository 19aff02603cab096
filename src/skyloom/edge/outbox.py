"""The outbox: all that a device has to tell, on its own disk until the cloud has it.

Two lanes of numbered records: facts (predictions, counters, events) and samples. Written before a prediction is answered, without
waiting for the disk: a crash of the process loses nothing, a loss of power at most what was written since the last sync (once a
second, and before anything is sent). The cloud keeps how far it is in the transaction that keeps the records, so sending again
from there makes neither gap nor duplicate.

It never grows beyond ``max_bytes``: the oldest samples go first, the oldest facts only when there are no samples left. What is given
up is written down as a record (`Dropped`), and the numbers that never come are counted by the cloud.
"""

import os
import secrets
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.durable import write_private
from skyloom.edge.disk import Disk
from skyloom.edge.lane import MAX_RECORD_BYTES, Piece, RecordLane, read_piece
from skyloom.rooms.devices.messages import MAX_CHUNK_BYTES, MAX_RECORDS, Dropped, Lane, OutboxRecord

SEGMENT_BYTES = 2**20
_LEAST_SEGMENTS = 4


class RecordTooLarge(InvalidInput):
    """A record that nobody could read back."""


class Epoch(msgspec.Struct, frozen=True):
    """Which outbox this is, and the numbers that its lanes began with."""

    id: str
    facts: int = 0
    samples: int = 0

    def base(self, lane: Lane) -> int:
        """The number that a lane began with."""
        return self.facts if lane is Lane.FACTS else self.samples


class DeviceOutbox:
    """Thread-safe. One process has it open.

    Attributes:
        preface: records that every segment of facts begins with, so that each can be understood without the others.
    """

    def __init__(self, folder: Path, max_bytes: int = 64 * 2**20, disk: Disk | None = None) -> None:
        self._folder = folder
        self._disk = disk or Disk()
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        segment_bytes = min(SEGMENT_BYTES, max(4_096, max_bytes // _LEAST_SEGMENTS // 2))
        self._max_bytes = max(max_bytes, _LEAST_SEGMENTS * segment_bytes)
        is_new, self.epoch = self._read_epoch()
        self._lanes = {
            lane: RecordLane(folder / lane.value, self._disk, segment_bytes, self.epoch.base(lane)) for lane in Lane
        }
        self._encoder = msgspec.json.Encoder()
        self.preface: tuple[OutboxRecord, ...] = ()
        if is_new and any(held.oldest for held in self._lanes.values()):
            self.renew()  # its name was lost, and its records were not

    def write(self, records: Sequence[OutboxRecord], lane: Lane = Lane.FACTS) -> None:
        """Append records. Raises ``OSError`` when the disk takes no more, and `RecordTooLarge`; then none of them counts."""
        payloads = [self._encoder.encode(record) for record in records]
        if any(len(payload) > MAX_RECORD_BYTES for payload in payloads):
            raise RecordTooLarge(
                f"A record of the outbox has {MAX_RECORD_BYTES} bytes at most.", next_action="Watch fewer features."
            )
        with self._lock:
            self._make_room()
            self._append(lane, payloads)

    def _append(self, lane: Lane, payloads: list[bytes]) -> None:
        held = self._lanes[lane]
        if lane is Lane.FACTS and self.preface and held.begins_segment:
            payloads = [*(self._encoder.encode(record) for record in self.preface), *payloads]
        held.append(payloads)

    def sync(self) -> None:
        """Put everything on disk. Appending goes on meanwhile."""
        with self._lock:
            open_ = {lane: found for lane, held in self._lanes.items() if (found := held.duplicate())}
        for lane, (descriptor, end) in open_.items():
            try:
                self._disk.sync(descriptor)
            finally:
                os.close(descriptor)
            with self._lock:
                self._lanes[lane].synced = max(self._lanes[lane].synced, end)

    def read(self, lane: Lane, position: int) -> Piece:
        """What is to be sent next from ``position`` on, at most one chunk; only what is on disk."""
        with self._lock:
            segments = self._lanes[lane].readable()
        return read_piece(segments, position, MAX_RECORDS, MAX_CHUNK_BYTES)

    def taken(self, lane: Lane, position: int) -> None:
        """The cloud has everything below ``position``: it may go."""
        with self._lock:
            self._lanes[lane].forget(position)

    def departs(self, lane: Lane, position: int, mark: str) -> bool:
        """The cloud has more than was ever written here, or another record before ``position`` than this disk.

        Then the disk is an older copy, or one of two.

        Args:
            mark: of the record before ``position``, as the cloud was told it; empty when it was not.
        """
        with self._lock:
            if position > self._lanes[lane].next:
                return True
            segments = self._lanes[lane].readable()
        last = read_piece(segments, position - 1, 1, 1) if mark and position else Piece(0, 0)
        return bool(last.payloads) and last.first == position - 1 and mark_of(last.payloads[0]) != mark

    def renew(self) -> None:
        """Begin a new epoch: everything that is here is sent again, and the cloud leaves out what it has."""
        with self._lock:
            bases = [self._lanes[lane].oldest for lane in (Lane.FACTS, Lane.SAMPLES)]
            self.epoch = self._write_epoch(Epoch(secrets.token_hex(16), *bases))

    def waiting(self, positions: dict[Lane, int]) -> tuple[int, int]:
        """Records that the cloud does not have, and the bytes that the outbox holds."""
        with self._lock:
            records = sum(
                max(0, held.next - max(positions.get(lane, 0), held.oldest)) for lane, held in self._lanes.items()
            )
            return records, self.size_bytes

    @property
    def size_bytes(self) -> int:
        """What it holds."""
        return sum(held.size_bytes for held in self._lanes.values())

    def close(self) -> None:
        """Put everything on disk and let go."""
        with self._lock:
            for held in self._lanes.values():
                held.close()

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes:
            for lane in (Lane.SAMPLES, Lane.FACTS):
                gone = self._lanes[lane].give_up_oldest()
                if gone is not None:
                    note = Dropped(lane=lane, first=gone[0], end=gone[1], at=time.time())
                    self._append(Lane.FACTS, [self._encoder.encode(note)])
                    break
            else:
                return  # one segment of each lane is left, which is less than the bound

    def _read_epoch(self) -> tuple[bool, Epoch]:
        """Whether it is new, and the epoch. One whose file was lost or went bad begins anew."""
        try:
            return False, msgspec.json.decode((self._folder / "epoch").read_bytes(), type=Epoch)
        except (FileNotFoundError, msgspec.MsgspecError):
            return True, self._write_epoch(Epoch(secrets.token_hex(16)))

    def _write_epoch(self, epoch: Epoch) -> Epoch:
        write_private(self._folder / "epoch", msgspec.json.encode(epoch))
        return epoch


def mark_of(payload: bytes) -> str:
    """What a record is recognised by: CRC-32 of its bytes."""
    return f"{zlib.crc32(payload):08x}"
