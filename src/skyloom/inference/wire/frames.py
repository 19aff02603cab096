"""HTTP/2 frames as bytes (RFC 9113 §4 and §6): what stands in them, and nothing of what they mean."""

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
MAX_WINDOW = 2**31 - 1
_HEAD = struct.Struct(">HBBBL")
_pack_head = _HEAD.pack
_SETTING = struct.Struct(">HL")
_MAX_SETTINGS_BYTES = 6 * 64  # each of them may touch every stream
_WORD = struct.Struct(">L")


class FrameKind(enum.IntEnum):
    """Frame types. Unknown ones are skipped."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Flags; ACK is END_STREAM's bit, on other frames. Plain numbers: an enumeration's `&` takes a microsecond, and a request has ten."""

    END_STREAM: Final = 0x1
    ACK: Final = 0x1
    END_HEADERS: Final = 0x4
    PADDED: Final = 0x8
    PRIORITY: Final = 0x20


class Http2Setting(enum.IntEnum):
    """What a peer may tell of itself."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Frame(NamedTuple):
    """One frame. ``kind`` is a plain number, since unknown ones are allowed."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class ConnectionBroken(Exception):
    """The peer broke a rule that ends the connection."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class StreamBroken(Exception):
    """The peer broke a rule that ends one stream."""

    def __init__(self, stream: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream = stream
        self.code = code


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The nine bytes before a payload."""
    return _pack_head(length >> 8, length & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    length = len(payload)
    return _pack_head(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Http2Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(FrameKind.SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def told_settings(each: Frame) -> list[tuple[int, int]] | None:
    """What a SETTINGS frame says, unknown names too; None when it says that ours were heard. Raises `ConnectionBroken`."""
    check_on_connection(each)
    if each.flags & Flag.ACK:
        check_length(each, 0)
        return None
    if len(each.payload) > _MAX_SETTINGS_BYTES:
        raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "too many settings in one frame")
    if len(each.payload) % _SETTING.size:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    told = list(_SETTING.iter_unpack(each.payload))
    for name, value in told:
        if name == Http2Setting.ENABLE_PUSH and value > 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if name == Http2Setting.MAX_FRAME_SIZE and not 2**14 <= value < 2**24:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
    return told


def reset(stream: int, code: ErrorCode) -> bytes:
    """An RST_STREAM frame."""
    return frame(FrameKind.RST_STREAM, 0, stream, _WORD.pack(code))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(FrameKind.WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def goaway(last_stream: int, code: ErrorCode, why: str = "") -> bytes:
    """A GOAWAY frame."""
    return frame(FrameKind.GOAWAY, 0, 0, _WORD.pack(last_stream) + _WORD.pack(code) + why.encode()[:200])


def read_word(payload: bytes) -> int:
    """The number of 31 bits that a frame of four bytes holds. Raises `ConnectionBroken`."""
    if len(payload) != _WORD.size:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "a frame that has four bytes has others")
    return int(_WORD.unpack(payload)[0]) & 0x7FFF_FFFF


class Splitter:
    """Cuts what arrives into frames.

    Args:
        max_frame_bytes: a longer payload ends the connection.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._needed = HEAD_BYTES
        self._kept = bytearray()  # in one piece: many small ones would hold far more than a frame may
        self._length = 0

    @property
    def is_between(self) -> bool:
        """True when no part of a frame waits for its rest."""
        return not self._length

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises `ConnectionBroken` (FRAME_SIZE_ERROR)."""
        if self._length:
            self._kept += data
            self._length += len(data)
            if self._length < self._needed:
                return
            data = bytes(self._kept)
        at, end = 0, len(data)
        needed = HEAD_BYTES
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > self._max:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            needed = HEAD_BYTES + length
            if end - at < needed:
                break
            yield Frame(kind, flags, stream & 0x7FFF_FFFF, data[at + HEAD_BYTES : at + needed])
            at += needed
            needed = HEAD_BYTES
        if self._length or at < end:
            self._kept = bytearray(data[at:])
            self._length = end - at
        self._needed = needed


def unpadded(each: Frame) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding. Raises `ConnectionBroken`."""
    payload = each.payload
    if not each.flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


def check_on_stream(each: Frame) -> None:
    """Raise `ConnectionBroken` for a frame that names no stream and belongs to one."""
    if not each.stream:
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"frame type {each.kind} belongs to a stream")


def check_on_connection(each: Frame) -> None:
    """Raise `ConnectionBroken` for a frame that names a stream and belongs to none."""
    if each.stream:
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, f"frame type {each.kind} belongs to the connection")


def check_length(each: Frame, length: int) -> None:
    """Raise `ConnectionBroken` for a frame of another length than its type has."""
    if len(each.payload) != length:
        raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, f"frame type {each.kind} has {length} bytes")
