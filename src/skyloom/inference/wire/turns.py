"""An answer of HTTP/1.1 in the order of its connection: whole, or part by part in chunks (RFC 9112 §7.1)."""

from collections.abc import Callable
from typing import Protocol

from skyloom.inference.wire.messages import Fields, Response

_MAX_HELD_BYTES = 2**24


class AnswerLine(Protocol):
    """The connection that an answer goes out on."""

    @property
    def closing(self) -> bool:
        """True when the next answer is the last."""
        ...

    @property
    def num_buffered(self) -> int:
        """Bytes that were sent and that the system has not taken."""
        ...

    def fitting(self, response: Response) -> Response:
        """An answer, or what is said instead where there is no room to keep it."""
        ...

    def flush(self) -> None:
        """Send what is ready, in the order of the requests."""
        ...

    def give_up(self) -> None:
        """Cut the connection."""
        ...


class Turn:
    """One request's place in the order of its connection's answers; a `Streaming` exchange.

    A client of HTTP/1.0 knows no chunks: parts go to it as they are, and the end of the connection ends them.

    Attributes:
        encoded: what can be sent and was not; None until there is an answer.
        is_parted: the answer comes part by part.
        has_more: more parts are to come.
    """

    __slots__ = (
        "_line",
        "closing",
        "encoded",
        "has_more",
        "is_chunked",
        "is_parted",
        "on_cut",
        "on_room",
        "without_body",
    )

    def __init__(self, line: AnswerLine, closing: bool, without_body: bool, is_chunked: bool = True) -> None:
        self._line = line
        self.closing = closing
        self.without_body = without_body
        self.is_chunked = is_chunked
        self.encoded: bytes | bytearray | None = None
        self.is_parted = self.has_more = False
        self.on_cut: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None

    def answer(self, response: Response) -> None:
        """Give the answer. It goes out when all earlier ones have."""
        if self.encoded is None:
            self.closing = self.closing or self._line.closing
            self.encoded = self._line.fitting(response).encode(self.closing, self.without_body)
            self.on_cut = None
            self._line.flush()

    def begin(self, response: Response) -> None:
        """Give the head of an answer that has more parts than ``response`` holds."""
        if self.encoded is None:
            self.is_parted = self.has_more = True
            self.closing = self.closing or not self.is_chunked or self._line.closing
            self.encoded = bytearray(response.encode_head(self.closing, self.is_chunked))
            self._hold(response.body)
            self._line.flush()

    def push(self, part: bytes) -> None:
        """Give another part of the body. Who lets more than 16 MiB wait is cut off."""
        if self.has_more:
            self._hold(part)
            self._line.flush()

    def finish(self, trailers: Fields = ()) -> None:
        """There is no more."""
        if self.has_more:
            assert isinstance(self.encoded, bytearray)
            self.has_more = False
            self.closing = self.closing or self._line.closing
            self.on_cut = self.on_room = None
            if self.is_chunked and not self.without_body:
                lines = b"".join([b"%b: %b\r\n" % field for field in trailers])
                self.encoded += b"0\r\n%b\r\n" % lines
            self._line.flush()

    def break_off(self) -> None:
        """Cut the connection: the last chunk is missing, so nobody takes the parts for all of it."""
        if self.has_more:
            self.on_cut = None
            self._line.give_up()

    def resume(self) -> None:
        """Nothing: over HTTP/1.1 a request is served whole."""

    @property
    def num_unsent(self) -> int:
        """Bytes that wait for the client to take them."""
        return len(self.encoded or b"") + self._line.num_buffered

    def take(self, most: int) -> bytes:
        """Take a slice of what can be sent."""
        assert isinstance(self.encoded, bytearray)
        part = bytes(self.encoded[:most])
        del self.encoded[:most]
        return part

    def cut(self) -> None:
        """Nobody waits any more, so nothing is kept of what may still be given."""
        self.has_more, self.on_room = False, None
        if self.encoded is None:
            self.encoded = b""
        if self.on_cut is not None:
            self.on_cut()
            self.on_cut = None

    def _hold(self, part: bytes) -> None:
        if not part or self.without_body:  # an empty chunk would be the last one
            return
        assert isinstance(self.encoded, bytearray)
        if self.is_chunked:
            self.encoded += b"%x\r\n" % len(part)
        self.encoded += part
        if self.is_chunked:
            self.encoded += b"\r\n"
        if len(self.encoded) > _MAX_HELD_BYTES:
            self._line.give_up()
