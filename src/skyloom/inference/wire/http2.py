"""HTTP/2 on an `asyncio.Protocol` (RFC 9113), over cleartext with prior knowledge, as gRPC speaks it. Knows no route and no model.

What a client can send has a bound: header blocks and the frames they come in, bodies, streams, resets, control frames, time. What breaks
the rules of a stream ends that stream; what breaks those of the connection ends it with GOAWAY and the reason. Both directions obey
flow control: we never send what the client has no window for, and give windows only as far as bodies may grow.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from typing import cast

from skyloom.inference.wire.blocks import Blocks
from skyloom.inference.wire.fields import FieldReader, HeadTooLarge
from skyloom.inference.wire.floods import Floods
from skyloom.inference.wire.frames import (
    PREFACE,
    ConnectionBroken,
    ErrorCode,
    Flag,
    Frame,
    FrameKind,
    Http2Setting,
    Splitter,
    StreamBroken,
    check_length,
    check_on_connection,
    check_on_stream,
    frame,
    goaway,
    read_word,
    reset,
    settings,
    told_settings,
    unpadded,
    window_update,
)
from skyloom.inference.wire.loop_turns import LoopTurns, is_left
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.inference.wire.outflow import STREAM_WINDOW, Http2Stream, Outflow, UntakenAnswers
from skyloom.inference.wire.site import Listener, Site
from skyloom.rooms.serving.plan import Limits

_DATA, _HEADERS = int(FrameKind.DATA), int(FrameKind.HEADERS)
_DEFAULT_WINDOW, _CONNECTION_WINDOW = 65_535, 2**24
_OUR_FRAME_BYTES = 2**18
_MAX_HELD_BYTES = 2**24
_MAX_STREAMS = 256
_CRUMB_BYTES = 64
_FRAMES_A_TURN, _SLOW_FRAMES_A_TURN, _TURN_S = 128, 32, 0.001  # of one read; then the others have their turns
_SHORT_READ_BYTES = 2_048  # too few frames to need turns
_SHARE_BYTES = 2**16  # of what one connection may hold though all of them together hold too much
_OPEN_SHARE = 16


class Http2Connections:
    """All connections of one listener, and the limits they share.

    Attributes:
        unread_bytes: of bodies that are not whole yet and of heads that nobody shares, on all connections together.
        held: answers that their clients do not take.
        turns: when each of them reads and writes.
        share_bytes: what one connection may keep though all together keep too much: nobody can lock out those who keep next to nothing.
        open_bytes: the same of requests that showed no token; they have a small bound of their own, so that they harm only each other.
    """

    def __init__(self, site: Site, limits: Limits) -> None:
        self.site = site
        self.limits = limits
        self.open: set[Http2Connection] = set()
        self.unread_bytes = self.open_bytes = 0
        self.held = UntakenAnswers(limits.max_unread_bytes)
        self.share_bytes = min(_SHARE_BYTES, limits.max_unread_bytes // 16)
        self.draining = False
        self.turns = LoopTurns()

    def accept(self) -> "Http2Connection":
        """Protocol factory for `loop.create_server`."""
        return Http2Connection(self)

    def count(self, request: Request, num_bytes: int) -> bool:
        """Count what a request keeps, or does not keep any more; False when all of them keep too much."""
        if request.is_open:
            self.open_bytes += num_bytes
            return self.open_bytes <= self.limits.max_unread_bytes // _OPEN_SHARE
        self.unread_bytes += num_bytes
        return self.unread_bytes <= self.limits.max_unread_bytes

    def sweep(self) -> None:
        """Cut those who are too slow. Called about once a second."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.look_at_clock(now)

    def drain(self) -> None:
        """Take no new requests: tell every client to go elsewhere, and close what is idle."""
        self.draining = True
        for connection in list(self.open):
            connection.drain()


class Http2Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, group: Http2Connections) -> None:
        self._group = group
        self._site = group.site
        self._limits = limits = group.limits
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._preface = PREFACE
        self._splitter = Splitter(_OUR_FRAME_BYTES)
        self._fields = FieldReader(limits.max_header_bytes)
        self._streams: dict[int, Http2Stream] = {}
        self._last = 0  # the newest stream that the client has begun
        # The head that was let in last, the site's epoch then, and the most that its body may be.
        self._admitted: Head | None = None
        self._epoch = self._admitted_bytes = 0
        self._window = _CONNECTION_WINDOW
        self._outflow = Outflow(self._write, self._sent, limits.write_timeout_s, self._overflown, group.held)
        self._blocks = Blocks(self._fields.max_block_bytes)
        self._floods = Floods(self._outflow)
        self._out: list[bytes] = []
        self._flushing = self._closing = self._paused = self._is_quiet = self._is_held = False
        self._unread: deque[Iterator[Frame]] = deque()  # what came and waits for its turn
        # Requests that are asked at the end of a turn, unless they are taken back in it.
        self._whole: deque[Http2Stream] = deque()
        self._num_whole = self._num_kept = 0
        self._deadline: float | None = None
        self._write_deadline: float | None = None

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._group.open.add(self)
        self._deadline = time.monotonic() + self._limits.header_timeout_s
        told = {
            Http2Setting.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
            Http2Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Http2Setting.MAX_FRAME_SIZE: _OUR_FRAME_BYTES,
            Http2Setting.MAX_HEADER_LIST_SIZE: self._limits.max_header_bytes,
        }
        self._write(settings(told) + window_update(0, _CONNECTION_WINDOW - _DEFAULT_WINDOW))
        if len(self._group.open) > self._limits.max_connections:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "too many connections")

    def connection_lost(self, error: Exception | None) -> None:
        self._group.open.discard(self)
        self._closing = True
        self._unread.clear()
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._whole.clear()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            if self._preface:
                data = self._check_preface(data)
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))
        else:
            frames = self._splitter.feed(data)
            if self._unread or len(data) > _SHORT_READ_BYTES or self._floods.is_taking_back:
                self._unread.append(frames)
                if len(self._unread) == 1:
                    self._read()
            else:
                self._read_all(frames)
        self.flush()

    def _read_all(self, frames: Iterator[Frame]) -> None:
        """Take the few frames of a short read, as most are, at once."""
        try:
            for each in frames:
                try:
                    self._take(each)
                except StreamBroken as broken:
                    self._reset(broken.stream, broken.code)
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))
        if self._whole:
            self._ask(len(self._whole))

    def _read(self) -> None:
        """Take frames, some at a time: other clients get their turns between those of one read."""
        num_older, is_slow = len(self._whole), False
        try:
            while self._unread and not self._closing:
                if self._read_some(self._unread[0]):
                    is_slow = self._floods.is_taking_back
                    self._group.turns.read_later(self, self._loop, slowly=is_slow)
                    break
                self._unread.popleft()
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))
        self._ask(num_older if is_slow else len(self._whole))  # what is taken back comes in the next frame
        self._steer()

    def _read_some(self, frames: Iterator[Frame]) -> bool:
        """Take the frames of one turn; True when there may be more. Raises `ConnectionBroken`."""
        until = time.perf_counter() + _TURN_S
        for number, each in enumerate(frames, 1):
            try:
                self._take(each)
            except StreamBroken as broken:
                self._reset(broken.stream, broken.code)
            if number >= _FRAMES_A_TURN or time.perf_counter() > until:
                return True
            if number >= _SLOW_FRAMES_A_TURN and self._floods.is_taking_back:
                return True
        return False

    def read_on(self) -> None:
        """It is this connection's turn again."""
        self._read()
        self.flush()

    def _ask(self, most: int) -> None:
        """Ask for what came whole, the oldest first. While the client does not take its answers, no more of them are made."""
        whole = self._whole
        while whole and most and not self._closing:
            stream = whole[0]
            if not stream.is_gone and self._outflow.is_sated(stream, len(self._streams) - self._num_whole):
                return
            whole.popleft()
            most -= 1
            if not stream.is_gone:
                stream.is_whole = False
                self._num_whole -= 1
                stream.request.arrived_at = time.perf_counter()
                self._site.serve(stream.request, stream)

    def _resume(self) -> None:
        """The client takes more."""
        self._outflow.resume()
        self._ask(len(self._whole))

    def _steer(self) -> None:
        """Read no further while the system takes nothing, or while there is something to be read."""
        pauses = self._paused or len(self._unread) > 0
        if pauses != self._is_held and not self._transport.is_closing():
            self._is_held = pauses
            if pauses:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._write_deadline = time.monotonic() + self._limits.write_timeout_s
        self._paused = self._outflow.is_stopped = True
        self._steer()

    def resume_writing(self) -> None:
        self._write_deadline = None
        self._paused = self._outflow.is_stopped = False
        self._steer()
        self.flush()
        self._resume()
        self._close_if_done()

    # -- frames -------------------------------------------------------------------------------------------------------------

    def _check_preface(self, data: bytes) -> bytes:
        """Take off what every client begins with. Raises `ConnectionBroken`."""
        length = min(len(self._preface), len(data))
        if data[:length] != self._preface[:length]:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2, as gRPC does")
        self._preface = self._preface[length:]
        if not self._preface:
            self._deadline = time.monotonic() + self._limits.idle_timeout_s
        return data[length:]

    def _take(self, each: Frame) -> None:
        self._blocks.check(each)
        if each.kind == _DATA:
            self._take_data(each)
        elif each.kind == _HEADERS:
            self._take_headers(each)
        elif each.kind == FrameKind.CONTINUATION:
            self._take_continuation(each)
        else:
            self._floods.control()
            self._take_control(each)

    def _take_control(self, each: Frame) -> None:
        if each.kind == FrameKind.WINDOW_UPDATE:
            self._widen(each.stream, read_word(each.payload))
        elif each.kind == FrameKind.SETTINGS:
            self._take_settings(each)
        elif each.kind == FrameKind.PING:
            check_length(each, 8)
            check_on_connection(each)
            if not each.flags & Flag.ACK:
                self._write(frame(FrameKind.PING, Flag.ACK, 0, each.payload))
        elif each.kind == FrameKind.RST_STREAM:
            self._take_reset(each)
        elif each.kind == FrameKind.PRIORITY:
            # RFC 9113 §5.3 dropped priorities, so what one says is not read: a stream that depends on itself was an error of RFC 7540.
            check_on_stream(each)
            if len(each.payload) != 5:
                raise StreamBroken(each.stream, ErrorCode.FRAME_SIZE_ERROR)
        elif each.kind == FrameKind.GOAWAY:
            check_on_connection(each)
            self._is_quiet = True
            self._close_if_done()
        elif each.kind == FrameKind.PUSH_PROMISE:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _take_settings(self, each: Frame) -> None:
        if (told := told_settings(each)) is None:
            return
        for name, value in told:
            if name == Http2Setting.INITIAL_WINDOW_SIZE:
                self._outflow.set_first_window(value, self._streams.values())
            if name == Http2Setting.MAX_FRAME_SIZE:
                self._outflow.frame_bytes = value
        self._write(frame(FrameKind.SETTINGS, Flag.ACK, 0))
        self._outflow.resume()  # what came whole is asked at the end of the turn

    def _take_reset(self, each: Frame) -> None:
        check_on_stream(each)
        check_length(each, 4)
        if each.stream > self._last:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a stream that was not begun is reset")
        stream = self._streams.get(each.stream)
        if stream is not None:
            self._floods.reset()
            self._forget(stream)

    def _widen(self, number: int, increment: int) -> None:
        stream = self._streams.get(number)
        if not increment:
            if not number:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
            raise StreamBroken(number, ErrorCode.PROTOCOL_ERROR)
        if number and stream is None:
            if number > self._last:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a window of a stream that was not begun")
            return
        self._outflow.widen(stream, increment)
        self._outflow.resume()

    # -- requests -----------------------------------------------------------------------------------------------------------

    def _take_headers(self, each: Frame) -> None:
        whole = self._blocks.take_headers(each)
        if whole is not None:
            self._head(each, whole)
        else:
            self._deadline = time.monotonic() + self._limits.header_timeout_s

    def _take_continuation(self, each: Frame) -> None:
        found = self._blocks.take_continuation(each)
        if found is not None:
            self._deadline = None if self._streams else time.monotonic() + self._limits.idle_timeout_s
            self._head(*found)

    def _head(self, each: Frame, written: bytes) -> None:
        """A whole header block: a new request, or the trailers of one."""
        ends, stream = bool(each.flags & Flag.END_STREAM), self._streams.get(each.stream)
        if stream is not None or each.stream <= self._last:
            self._fields.skip(written)
            if stream is None or stream.heard_all:
                raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that has ended")
            if not ends:
                raise StreamBroken(each.stream, ErrorCode.PROTOCOL_ERROR)
            self._heard_all(stream)
            return
        self._last = each.stream
        if self._group.draining or self._is_quiet or len(self._streams) >= _MAX_STREAMS:
            self._fields.skip(written)
            raise StreamBroken(each.stream, ErrorCode.REFUSED_STREAM)
        try:
            request = Request(self._fields.read(written, each.stream))
            refusal = self._admit(request)
        except HeadTooLarge:
            request = Request(Head(b"", b"", {}))
            refusal = self._site.refusal(431, "The request's headers are too large.")
        stream = self._streams[each.stream] = Http2Stream(self._outflow, each.stream, request)
        self._deadline = None
        stream.head_bytes = self._fields.cost_bytes
        has_room = self._has_room(request, stream.head_bytes)
        if refusal is None and self._outflow.num_held_bytes > _MAX_HELD_BYTES:
            refusal = self._overflown()
        elif refusal is None and not has_room:
            refusal = self._crowded()
        if refusal is not None:
            stream.heard_all = ends
            stream.answer(refusal)
        else:
            stream.listener = self._site.listener(request, stream)
            if ends:
                self._heard_all(stream)
            elif stream.listener is None:
                stream.deadline = time.monotonic() + self._limits.body_timeout_s

    def _admit(self, request: Request) -> Response | None:
        """Ask the site, unless it let the same head in before and nothing has changed since."""
        if request.head is self._admitted and self._epoch == self._site.epoch:
            request.max_bytes = self._admitted_bytes
            return None
        self._epoch = self._site.epoch
        refusal = self._site.admit(request)
        # Remembered heads alone come again as the same object; those of requests without a token are counted, so they are asked about.
        self._admitted = request.head if refusal is None and not request.is_open else None
        self._admitted_bytes = request.max_bytes
        return refusal

    def _take_data(self, each: Frame) -> None:
        check_on_stream(each)
        size, stream = len(each.payload), self._streams.get(each.stream)
        part = unpadded(each)  # ours to check on every stream, also where nobody wants the content
        self._window -= size
        if self._window < 0:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._window < _CONNECTION_WINDOW // 2:
            self._write(window_update(0, _CONNECTION_WINDOW - self._window))
            self._window = _CONNECTION_WINDOW
        if stream is None or stream.heard_all:
            if each.stream > self._last:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not begun")
            raise StreamBroken(each.stream, ErrorCode.STREAM_CLOSED)
        stream.window -= size
        if stream.window < 0:
            raise StreamBroken(each.stream, ErrorCode.FLOW_CONTROL_ERROR)
        if len(part) < _CRUMB_BYTES and not each.flags & Flag.END_STREAM:
            self._floods.control()  # it costs more than it brings
        if stream.listener is not None:
            if part:
                stream.listener.heard(part)
                self._count_kept(stream, stream.listener)
        elif stream.is_answered:  # refused; the answer waits for a window, and nobody wants the body
            return
        else:
            stream.take(part)
            if self._is_too_much(stream, self._has_room(stream.request, len(part))):
                return
        if each.flags & Flag.END_STREAM:
            self._heard_all(stream)
        elif stream.listener is None or stream.listener.wants_more:
            stream.resume()

    def _count_kept(self, stream: Http2Stream, listener: Listener) -> None:
        """Count what a listener keeps, and give it time for the rest. Raises `StreamBroken`."""
        kept = 0 if stream.is_gone else listener.num_kept
        has_room = self._has_room(stream.request, kept - stream.num_bytes)
        stream.num_bytes = kept
        is_late = kept and listener.wants_more
        stream.deadline = time.monotonic() + self._limits.body_timeout_s if is_late else None
        if not has_room:
            raise StreamBroken(stream.number, ErrorCode.ENHANCE_YOUR_CALM)

    def _is_too_much(self, stream: Http2Stream, has_room: bool) -> bool:
        most = stream.request.max_bytes or self._limits.max_body_bytes
        if stream.num_bytes > most:
            stream.answer(self._site.refusal(413, f"The body is larger than {most} bytes."))
        elif not has_room:
            stream.answer(self._crowded())
        return stream.is_answered

    def _heard_all(self, stream: Http2Stream) -> None:
        """The whole request is there."""
        request = stream.request
        stream.heard_all, stream.deadline = True, None
        if stream.listener is not None:
            stream.listener.heard_all()
            return
        if stream.is_answered:
            return
        request.body = bytes(stream.body)
        self._drop_body(stream)
        length = request.head.headers.get(b"content-length")
        if length is not None and length != b"%d" % len(request.body):
            raise StreamBroken(stream.number, ErrorCode.PROTOCOL_ERROR)
        stream.is_whole = True
        self._num_whole += 1
        self._whole.append(stream)

    # -- answers ------------------------------------------------------------------------------------------------------------

    def _sent(self, stream: Http2Stream) -> None:
        if not stream.heard_all:
            self._write(reset(stream.number, ErrorCode.NO_ERROR))  # the rest of the request is of no use
        self._forget(stream)
        self._close_if_done()

    def _overflown(self) -> Response:
        return self._site.refusal(429, "Too many answers wait to be taken.")

    def _crowded(self) -> Response:
        return self._site.refusal(429, "Too many large requests are coming in at once.")

    def _reset(self, number: int, code: ErrorCode) -> None:
        self._write(reset(number, code))
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)
            self._floods.reset()
        self._floods.control()

    def _forget(self, stream: Http2Stream) -> None:
        self._streams.pop(stream.number, None)
        self._drop_body(stream)
        self._has_room(stream.request, -stream.head_bytes)
        stream.head_bytes = 0
        self._outflow.drop(stream)
        stream.is_answered = stream.is_gone = True
        if stream.is_whole:
            stream.is_whole = False
            self._num_whole -= 1
        stream.has_more = False
        if stream.on_cut is not None:
            stream.on_cut()
            stream.on_cut = None
        if not self._streams:
            self._deadline = time.monotonic() + self._limits.idle_timeout_s

    def _has_room(self, request: Request, num_bytes: int) -> bool:
        """Count what a request keeps; while all keep too much, only a connection that keeps next to nothing has room."""
        self._num_kept += num_bytes
        fits = self._group.count(request, num_bytes)
        return fits or (not request.is_open and self._num_kept <= self._group.share_bytes)

    def _drop_body(self, stream: Http2Stream) -> None:
        self._has_room(stream.request, -stream.num_bytes)
        stream.body, stream.num_bytes = b"", 0

    def _write(self, content: bytes) -> None:
        """Send soon: what is written in one turn of the loop leaves together."""
        self._out.append(content)
        if not self._flushing:
            self._flushing = True
            self._group.turns.flush_soon(self, self._loop)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._flushing = False
        if self._out and not self._paused and not self._transport.is_closing():
            out, self._out = self._out, []
            self._transport.write(b"".join(out))
            if self._outflow.flushed() and not self._paused:
                self._loop.call_soon(self._resume)

    # -- the end ------------------------------------------------------------------------------------------------------------

    @property
    def has_left(self) -> bool:
        """True when the client is known to be gone. While we do not read, nobody else says so."""
        return self._closing or is_left(self._transport)

    @property
    def harm(self) -> int:
        """Requests that were taken back, beyond those that were answered."""
        return self._floods.num_unpaid

    def send_away(self) -> None:
        """End the connection of a client that has to wait and would wait too long."""
        self._end(ErrorCode.ENHANCE_YOUR_CALM, "too many requests are taken back")

    def give_up(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def look_at_clock(self, now: float) -> None:
        """Cut what is too slow. Called about once a second."""
        try:
            self._look_at_clock(now)
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))

    def _look_at_clock(self, now: float) -> None:
        self._floods.forgive()
        if any(late is not None and now > late for late in (self._write_deadline, self._outflow.deadline)):
            self._transport.abort()
        elif self._deadline is not None and now > self._deadline and not self._paused:
            self._end(ErrorCode.NO_ERROR, "nothing came")
        else:
            for stream in [one for one in self._streams.values() if one.deadline is not None and now > one.deadline]:
                if stream.has_more:
                    self._reset(stream.number, ErrorCode.CANCEL)
                else:
                    stream.answer(self._site.refusal(408, "The request came too slowly."))

    def drain(self) -> None:
        """Tell the client to go elsewhere; close when its requests are answered."""
        self._is_quiet = True
        self._write(goaway(self._last, ErrorCode.NO_ERROR, "this replica is stopping"))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_quiet and not self._streams and not self._paused:
            self.flush()
            self._close()

    def _end(self, code: ErrorCode, why: str) -> None:
        """Say why, and close."""
        if not self._closing:
            self._write(goaway(self._last, code, why))
            self._closing = True
            self._unread.clear()
            self.flush()
            self._close()

    def _close(self) -> None:
        """Close when the client has read what was written; it has some time for that."""
        if self._write_deadline is None:
            self._write_deadline = time.monotonic() + self._limits.write_timeout_s
        self._transport.close()
