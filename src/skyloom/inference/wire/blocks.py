"""Header blocks of HTTP/2 as they come: one HEADERS frame, or one and its CONTINUATIONs (RFC 9113 §6.2, §6.10)."""

from skyloom.inference.wire.frames import (
    ConnectionBroken,
    ErrorCode,
    Flag,
    Frame,
    FrameKind,
    check_on_stream,
    unpadded,
)

_MAX_CONTINUATIONS = 32


class Blocks:
    """Puts blocks together.

    Args:
        max_bytes: of one block.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._first: Frame | None = None

    @property
    def is_open(self) -> bool:
        """True while a block waits for its rest."""
        return self._first is not None

    def check(self, each: Frame) -> None:
        """Raise `ConnectionBroken` when a frame comes into the middle of a block."""
        first = self._first
        if first is not None and (each.kind != FrameKind.CONTINUATION or each.stream != first.stream):
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a header block was not finished")

    def take_headers(self, each: Frame) -> bytes | None:
        """Begin a block; all of it when there is no more. Raises `ConnectionBroken`."""
        check_on_stream(each)
        if not each.stream & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        part = unpadded(each)
        if each.flags & Flag.PRIORITY:
            if len(part) < 5:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without their priority")
            part = part[5:]
        if each.flags & Flag.END_HEADERS:
            return part
        self._parts, self._first = [part], each
        return None

    def take_continuation(self, each: Frame) -> tuple[Frame, bytes] | None:
        """Go on with a block; its first frame and all of it at its end. Raises `ConnectionBroken`."""
        first = self._first
        if first is None:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._parts.append(each.payload)
        if sum(map(len, self._parts)) > self._max_bytes or len(self._parts) > _MAX_CONTINUATIONS:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not end")
        if not each.flags & Flag.END_HEADERS:
            return None
        self._first = None
        whole, self._parts = b"".join(self._parts), []
        return first, whole
