"""A body whose length is known, while it comes in: kept in the parts that it comes in, and put together once."""

from skyloom.inference.wire.messages import Head

_PART_BYTES = 4_096  # smaller parts, each an object, would hold far more than they are counted for


class ComingBody:
    """What came so far of the body behind a known head.

    Attributes:
        num_bytes: of it that are there.
    """

    def __init__(self, head: Head, size: int) -> None:
        self.head = head
        self.num_bytes = 0
        self._size = size
        self._parts: list[bytes | bytearray] = []

    @property
    def is_whole(self) -> bool:
        """True when nothing is missing."""
        return self.num_bytes == self._size

    def take(self, data: bytes) -> bytes:
        """Take what belongs to the body; the rest is the answer."""
        missing = self._size - self.num_bytes
        part = data if len(data) <= missing else data[:missing]
        self.num_bytes += len(part)
        parts = self._parts
        if len(part) >= _PART_BYTES or not parts:
            parts.append(part)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))
        return data[missing:]

    def joined(self) -> bytes:
        """The whole body."""
        return b"".join(self._parts)
