"""A body whose length is known, while it comes in: kept in the parts that it comes in and put together once, or read to where it stays."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from skyloom.inference.wire.messages import Head

_PART_BYTES = 4_096  # smaller parts, each an object, would hold far more than they are counted for
# A place is taken for a body of which a sixteenth is there: who announces much and sends little holds little.
_LIKELY = 16
_MIN_BYTES = 2**15  # what is missing must be worth the way
SCRATCH_BYTES = 2**16

Place = Callable[[Head, int], memoryview | None]
"""Room for a body of so many bytes, where it will be read as it lies; None: nobody reads it so."""


def nowhere(head: Head, size: int) -> None:
    """The place of bodies that are read as bytes."""


class ComingBody:
    """What came so far of the body behind a known head.

    Attributes:
        num_bytes: of it that are there.
        room: all of it, where it lies in place.
    """

    def __init__(self, head: Head, size: int, place: Place = nowhere) -> None:
        self.head = head
        self.num_bytes = 0
        self.room: memoryview | None = None
        self._size = size
        self._place = place
        self._parts: list[bytes | bytearray] = []

    @property
    def is_whole(self) -> bool:
        """True when nothing is missing."""
        return self.num_bytes == self._size

    def take(self, data: bytes) -> bytes:
        """Take what belongs to the body; the rest is the answer."""
        missing = self._size - self.num_bytes
        part = data if len(data) <= missing else data[:missing]
        parts, start = self._parts, self.num_bytes
        self.num_bytes += len(part)
        if self.room is not None:
            self.room[start : self.num_bytes] = part
        elif len(part) >= _PART_BYTES or not parts:
            parts.append(part)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))
        return data[missing:]

    def settles(self) -> bool:
        """Move to its place, if there is one and much is missing; the rest is to be written there."""
        if self._size - self.num_bytes < _MIN_BYTES or self.num_bytes * _LIKELY < self._size:
            return False
        self.room, self._place = self._place(self.head, self._size), nowhere
        if self.room is None:
            return False
        start = 0
        for part in self._parts:
            self.room[start : start + len(part)] = part
            start += len(part)
        self._parts.clear()
        return True

    def joined(self) -> bytes:
        """The whole body, where it does not lie in place."""
        return b"".join(self._parts)


class Filled(Protocol):
    """The connection that a body comes in on: an `asyncio.Protocol`, and how it hears of the body."""

    def filled(self, num_bytes: int) -> None:
        """So much more of the body is in its place."""
        ...

    def data_received(self, data: bytes) -> None:
        """As in `asyncio.Protocol`; so are the others."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        ...

    def eof_received(self) -> bool:
        """The client sends no more."""
        ...

    def pause_writing(self) -> None:
        """The client takes too little."""
        ...

    def resume_writing(self) -> None:
        """The client took what it was sent."""
        ...


class FillingProtocol(asyncio.BufferedProtocol):
    """Stands in for the protocol of a connection that sent a body to a place once, from then on: to change back costs more than it saves.

    Attributes:
        body: what the system writes to its place now. It is given nothing behind the body.
    """

    def __init__(self, connection: Filled, scratch: bytearray) -> None:
        self._connection, self._scratch = (
            connection,
            scratch,
        )  # all connections share it: nothing lies there between two calls
        self.body: ComingBody | None = None

    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        """What is missing of a body; without one, room for a head."""
        body = self.body
        return self._scratch if body is None or body.room is None else body.room[body.num_bytes :]

    def buffer_updated(self, num_bytes: int) -> None:
        """So much is there."""
        if self.body is None:
            self._connection.data_received(bytes(memoryview(self._scratch)[:num_bytes]))
        else:
            self._connection.filled(num_bytes)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.connection_lost(error)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
