"""What is sent on one HTTP/2 connection, as far as the client's windows go (RFC 9113 §5.2); the rest when it makes room."""

import time
from collections import deque
from collections.abc import Callable, Iterable

from skyloom.inference.wire.fields import block, known_block
from skyloom.inference.wire.frames import (
    MAX_WINDOW,
    ConnectionBroken,
    ErrorCode,
    Flag,
    FrameKind,
    StreamBroken,
    frame,
    reset,
    window_update,
)
from skyloom.inference.wire.messages import Fields, Request, Response
from skyloom.inference.wire.site import Listener

STREAM_WINDOW = 2**20
_SMALL_BYTES = 2**16
_SHUT_BYTES = 2**10
_MAX_WAITING = 16  # answers of one connection; its next requests are asked when its client has taken some
_DATA, _HEADERS = int(FrameKind.DATA), int(FrameKind.HEADERS)
_LAST_HEADERS = Flag.END_HEADERS | Flag.END_STREAM
_PROGRESS_BYTES = 2**14  # who takes so much of what waits gets the whole time again
_DEFAULT_WINDOW = 65_535
_BROKEN_OFF: Fields = ((b"grpc-status", b"14"), (b"grpc-message", b"the rest of the answer was lost"))
_AHEAD_BYTES = 2**18  # written in one turn of the loop, before the system says whether it takes them
_MAX_HELD_BYTES = 2**26
_MAX_UNSENT_BYTES = 2**24


class Http2Stream:
    """One request on its way, and its answer. It is what `Site.serve` gets as the exchange.

    Attributes:
        on_cut: called when nobody waits for the answer any more.
        on_room: called when the client has taken what was pushed.
        window: how much the client may still send on it.
        send_window: how much it still takes.
        num_bytes: of the body that came so far.
        counted_bytes: of ``unsent``, what the outflow has counted.
        head_bytes: what the request's head holds for itself.
        unsent: of the answer's body, what there was no window for.
        num_out: of ``unsent``, how much went out since.
        has_more: more of the answer is to come.
        is_gone: all of it is sent, or nobody waits for it any more.
        is_held: its answer waits for a window.
        is_whole: all of the request came, and nobody was asked yet.
        listener: who hears the request part by part, if anybody.
    """

    __slots__ = (
        "_outflow",
        "body",
        "counted_bytes",
        "deadline",
        "has_more",
        "head_bytes",
        "heard_all",
        "is_answered",
        "is_gone",
        "is_held",
        "is_whole",
        "listener",
        "num_bytes",
        "num_out",
        "number",
        "on_cut",
        "on_room",
        "request",
        "send_window",
        "trailers",
        "unsent",
        "window",
    )

    def __init__(self, outflow: "Outflow", number: int, request: Request) -> None:
        self._outflow = outflow
        self.number = number
        self.request = request
        self.body: bytes | bytearray = b""
        self.num_bytes = self.head_bytes = self.counted_bytes = 0
        self.window = STREAM_WINDOW
        self.send_window = outflow.first_window
        self.heard_all = self.is_answered = self.is_gone = self.has_more = self.is_held = self.is_whole = False
        self.listener: Listener | None = None
        self.on_cut: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.unsent: bytes | bytearray = b""
        self.num_out = 0
        self.trailers: Fields = ()
        self.deadline: float | None = None

    def take(self, part: bytes) -> None:
        """Take a part of the request's body."""
        self.num_bytes += len(part)
        if not self.body:
            self.body = part
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += (
                part  # together: many small parts, each an object, would hold far more than they are counted for
            )

    def answer(self, response: Response) -> None:
        """Give the answer, once; a second one is dropped."""
        if not self.is_answered:
            self.is_answered = True
            self.on_cut = None
            self._outflow.send(self, response)

    def begin(self, response: Response) -> None:
        """Give the head of an answer that has more parts than ``response`` holds."""
        if not self.is_answered:
            self.is_answered = self.has_more = True
            self._outflow.send(self, response)

    def push(self, part: bytes) -> None:
        """Give another part of the body. Who lets more than 16 MiB wait is cut off."""
        if self.has_more and part:
            if not isinstance(self.unsent, bytearray):
                self.unsent = bytearray(self.unsent)
            self.unsent += part
            if self.num_unsent > _MAX_UNSENT_BYTES or not self._outflow.all_held.has_room(self.num_unsent):
                self._outflow.break_off(self)
            else:
                self._outflow.send_more(self)

    def stop_parts(self) -> None:
        """There is no room for an answer in parts: what was begun is all of it, and whoever makes the parts hears of it."""
        if self.has_more:
            self.has_more = False
            if self.on_cut is not None:
                self.on_cut()
            self.on_cut = self.on_room = None

    def finish(self, trailers: Fields = ()) -> None:
        """There is no more."""
        if self.has_more:
            self.has_more, self.on_cut, self.on_room = False, None, None
            self.trailers = trailers
            self._outflow.send_more(self)

    def break_off(self) -> None:
        """End with a status that says it is not all."""
        self.finish(_BROKEN_OFF)

    def resume(self) -> None:
        """The client may send more of the request."""
        if self.window < STREAM_WINDOW // 2 and not (self.heard_all or self.is_gone):
            self._outflow.widen_theirs(self)

    @property
    def num_unsent(self) -> int:
        return len(self.unsent) - self.num_out


class UntakenAnswers:
    """What waits for the clients of all connections together.

    Attributes:
        num_bytes: of answers that were made.
        most: beyond it, only small answers are made.
    """

    def __init__(self, most: int) -> None:
        self.num_bytes = 0
        self.most = most

    def has_room(self, num_bytes: int) -> bool:
        """True for what may be made, or kept, of one answer."""
        return self.num_bytes <= self.most or num_bytes <= _SMALL_BYTES


class Outflow:
    """The answers of one connection on their way.

    Args:
        write: takes bytes that leave soon.
        on_sent: called when the last byte of a stream's answer was written.
        overflown: what is answered instead of an answer that there is no room to keep.
        held: what waits on all connections together.

    Attributes:
        frame_bytes: the longest payload that the client takes.
        deadline: when the client has to have made room, on the monotonic clock; None while nothing waits for it.
        num_served: answers that were begun.
        num_parts: DATA frames that were sent; the connection counts them from zero now and then.
        num_held_bytes: of answers that wait for the client.
        num_waiting: such answers.
        is_stopped: the system takes no more bytes; what has to be sent waits.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_sent: Callable[[Http2Stream], None],
        timeout_s: float,
        overflown: Callable[[], Response],
        held: UntakenAnswers,
    ) -> None:
        self._write = write
        self._on_sent = on_sent
        self._overflown = overflown
        self.all_held = held
        self._timeout_s = timeout_s
        self._window = self.first_window = _DEFAULT_WINDOW
        self._held: deque[Http2Stream] = deque()
        self.frame_bytes = 2**14
        self.deadline: float | None = None
        self.num_served = self.num_parts = self.num_held_bytes = self.num_waiting = 0
        self._num_progressed = self._num_ahead = 0
        self.is_stopped = False

    def set_first_window(self, value: int, streams: Iterable[Http2Stream]) -> None:
        """The client changed the window that its streams begin with. Raises `ConnectionBroken`."""
        if value > MAX_WINDOW:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        for stream in streams:
            stream.send_window += value - self.first_window
            if stream.send_window > MAX_WINDOW:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        self.first_window = value

    def widen(self, stream: Http2Stream | None, increment: int) -> None:
        """The client takes more: on one stream, or on the whole connection. Raises `StreamBroken`, `ConnectionBroken`."""
        if stream is None:
            self._window += increment
            if self._window > MAX_WINDOW:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
        else:
            stream.send_window += increment
            if stream.send_window > MAX_WINDOW:
                raise StreamBroken(stream.number, ErrorCode.FLOW_CONTROL_ERROR)

    def widen_theirs(self, stream: Http2Stream) -> None:
        """Give a stream's client its whole window again."""
        self._write(window_update(stream.number, STREAM_WINDOW - stream.window))
        stream.window = STREAM_WINDOW

    def flushed(self) -> bool:
        """What was written has been handed to the system; True when more waits."""
        self._num_ahead = 0
        return bool(self._held)

    def break_off(self, stream: Http2Stream) -> None:
        """Give up on an answer that its client does not take."""
        self._write(reset(stream.number, ErrorCode.ENHANCE_YOUR_CALM))
        stream.heard_all = True
        self._on_sent(stream)

    def send(self, stream: Http2Stream, response: Response) -> None:
        """Send the head of an answer, and its body as far as it goes."""
        if self.num_held_bytes > _MAX_HELD_BYTES or not self.all_held.has_room(len(response.body)):
            response = self._overflown()
            stream.stop_parts()
        self.num_served += 1
        fields = known_block(response.status, response.content_type)
        if response.headers:
            fields += block(response.headers)
        more = stream.has_more or bool(response.body or response.trailers)
        flags = Flag.END_HEADERS | (0 if more else Flag.END_STREAM)
        head = frame(_HEADERS, flags, stream.number, fields)
        if response.body and response.trailers and self._takes_whole(stream, len(response.body)):
            data = frame(_DATA, 0, stream.number, response.body)
            self._write(head + data + frame(_HEADERS, _LAST_HEADERS, stream.number, block(response.trailers)))
            self._on_sent(stream)
            return
        self._write(head)
        stream.trailers = response.trailers
        if not more:
            self._on_sent(stream)
        else:
            stream.unsent = response.body
            self.send_more(stream)

    def _takes_whole(self, stream: Http2Stream, size: int) -> bool:
        """True when a body of a whole answer can go out in one frame now; then its bytes are counted as sent."""
        most = min(self._window, stream.send_window, self.frame_bytes)
        if stream.has_more or size > most or self.is_stopped or self._num_ahead > _AHEAD_BYTES:
            return False
        self.num_parts += 1
        self._num_ahead += size
        self._window -= size
        stream.send_window -= size
        return True

    def send_more(self, stream: Http2Stream) -> None:
        """Send what there is of an answer as far as it goes; the rest is held."""
        if not self._send_part(stream) and not stream.is_held:
            stream.is_held = True
            self.num_waiting += 1
            self._held.append(stream)
            self.deadline = self.deadline or time.monotonic() + self._timeout_s

    def resume(self) -> None:
        """Send the answers that waited, each in its turn."""
        for _ in range(len(self._held)):
            stream = self._held.popleft()
            before = stream.num_unsent
            is_out = stream.is_gone or self._send_part(stream)
            self._num_progressed += _PROGRESS_BYTES if is_out else before - stream.num_unsent
            if is_out:
                self._let_go(stream)
                if stream.has_more and stream.on_room is not None:
                    stream.on_room()
            else:
                self._held.append(stream)
        if not self._held:
            self.deadline = None
        elif self._num_progressed >= _PROGRESS_BYTES:
            self.deadline, self._num_progressed = time.monotonic() + self._timeout_s, 0

    def drop(self, stream: Http2Stream) -> None:
        """Nobody waits for the rest of this one."""
        if stream.unsent:
            self._took(stream, stream.num_unsent)
        self._let_go(stream)

    def _let_go(self, stream: Http2Stream) -> None:
        if stream.is_held:
            stream.is_held = False
            self.num_waiting -= 1
            if not self.num_waiting:
                self.deadline = None

    def is_sated(self, stream: Http2Stream, num_asked: int) -> bool:
        """True while the client does not take the answers that it has; requests that were asked for it may bring more of them."""
        is_shut = self._window < _SHUT_BYTES or stream.send_window < _SHUT_BYTES
        return self.num_waiting >= _MAX_WAITING or (num_asked >= _MAX_WAITING and is_shut)

    def _took(self, stream: Http2Stream, num_bytes: int) -> None:
        """So much of what waited does not wait any more."""
        stream.num_out += num_bytes
        if stream.num_out == len(stream.unsent):
            stream.unsent, stream.num_out = b"", 0
        elif isinstance(stream.unsent, bytearray):
            del stream.unsent[: stream.num_out]
            stream.num_out = 0
        more = stream.num_unsent - stream.counted_bytes
        self.num_held_bytes += more
        self.all_held.num_bytes += more
        stream.counted_bytes = stream.num_unsent

    def _send_part(self, stream: Http2Stream) -> bool:
        """Send what there is a window for; True when all of it is out."""
        at, end = stream.num_out, len(stream.unsent)
        ended = at == end and not stream.trailers and not stream.has_more
        while at < end:
            size = min(end - at, self._window, stream.send_window, self.frame_bytes)
            if size <= 0 or self.is_stopped or self._num_ahead > _AHEAD_BYTES:
                self._took(stream, at - stream.num_out)
                return False
            last = at + size == end and not stream.trailers and not stream.has_more
            flags = Flag.END_STREAM if last else 0
            self._write(frame(FrameKind.DATA, flags, stream.number, bytes(stream.unsent[at : at + size])))
            self.num_parts += 1
            self._num_ahead += size
            self._window -= size
            stream.send_window -= size
            at += size
        self._took(stream, at - stream.num_out)
        if stream.has_more:
            return True
        if ended:  # the last part went out before it was known to be the last
            self._write(frame(FrameKind.DATA, Flag.END_STREAM, stream.number))
        if stream.trailers:
            flags = Flag.END_HEADERS | Flag.END_STREAM
            self._write(frame(FrameKind.HEADERS, flags, stream.number, block(stream.trailers)))
        self._on_sent(stream)
        return True
