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
from skyloom.inference.wire.fields import FieldReader
from skyloom.inference.wire.floods import Floods
from skyloom.inference.wire.frame_rules import CONNECTION_WINDOW, FrameRules
from skyloom.inference.wire.frames import (
    PREFACE,
    ConnectionBroken,
    ErrorCode,
    Frame,
    Http2Setting,
    Splitter,
    StreamBroken,
    goaway,
    reset,
    settings,
    window_update,
)
from skyloom.inference.wire.http2_requests import MAX_STREAMS, Http2Requests
from skyloom.inference.wire.loop_turns import LoopTurns, is_left
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.outflow import STREAM_WINDOW, Http2Stream, Outflow, UntakenAnswers
from skyloom.inference.wire.site import Site
from skyloom.rooms.serving.plan import Limits

_DEFAULT_WINDOW = 65_535
_OUR_FRAME_BYTES = 2**18
_FRAMES_A_TURN, _SLOW_FRAMES_A_TURN, _TURN_S = 128, 32, 0.001  # of one read; then the others have their turns
_SHORT_READ_BYTES = 2_048  # too few frames to need turns
_SHARE_BYTES = 2**16  # of what one connection may hold though all of them together hold too much
_OPEN_SHARE = 16
_FAREWELL_S = 1.0  # in which a client that is told to go elsewhere may find out


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

    def overflown(self) -> Response:
        """What is answered where there is no room to keep an answer."""
        return self.site.refusal(429, "Too many answers wait to be taken.")

    def sweep(self) -> None:
        """Cut those who are too slow. Called about once a second."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.look_at_clock(now)

    def drain(self) -> None:
        """Take no new requests: tell every client to go elsewhere. Who is idle has a moment to hear of it: closed at once, the request that
        it is just sending would be lost, not refused. Needs `sweep` to be called on."""
        self.draining = True
        for connection in list(self.open):
            connection.drain()


class Http2Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, group: Http2Connections) -> None:
        self._group = group
        self._limits = limits = group.limits
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._preface = PREFACE
        self._splitter = Splitter(_OUR_FRAME_BYTES)
        fields = FieldReader(limits.max_header_bytes)
        self._outflow = Outflow(self._write, self._sent, limits.write_timeout_s, group.overflown, group.held)
        self._requests = requests = Http2Requests(group, fields, self._outflow, self._leave_or_wait)
        self._floods = Floods(self._outflow)
        blocks = Blocks(fields.max_block_bytes)
        self._rules = FrameRules(
            requests, self._outflow, self._floods, blocks, limits, self._write, self._leave_or_wait
        )
        self._out: list[bytes] = []
        self._flushing = self._closing = self._paused = self._is_held = False
        self._unread: deque[Iterator[Frame]] = deque()  # what came and waits for its turn
        self._write_deadline: float | None = None

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._group.open.add(self)
        self._requests.deadline = time.monotonic() + self._limits.header_timeout_s
        told = {
            Http2Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Http2Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Http2Setting.MAX_FRAME_SIZE: _OUR_FRAME_BYTES,
            Http2Setting.MAX_HEADER_LIST_SIZE: self._limits.max_header_bytes,
        }
        self._write(settings(told) + window_update(0, CONNECTION_WINDOW - _DEFAULT_WINDOW))
        if len(self._group.open) > self._limits.max_connections:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "too many connections")
        elif self._group.draining:
            self.drain()

    def connection_lost(self, error: Exception | None) -> None:
        self._group.open.discard(self)
        self._closing = True
        self._unread.clear()
        self._requests.forget_all()

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
        requests, rules = self._requests, self._rules
        try:
            for each in frames:
                try:
                    rules.take(each)
                except StreamBroken as broken:
                    rules.end_stream(broken.stream, broken.code)
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))
        if requests.num_waiting:
            requests.ask(requests.num_waiting)

    def _read(self) -> None:
        """Take frames, some at a time: other clients get their turns between those of one read."""
        num_older, is_slow = self._requests.num_waiting, False
        try:
            while self._unread and not self._closing:
                if self._read_some(self._unread[0]):
                    is_slow = self._floods.is_taking_back
                    self._group.turns.read_later(self, self._loop, slowly=is_slow)
                    break
                self._unread.popleft()
        except ConnectionBroken as broken:
            self._end(broken.code, str(broken))
        self._requests.ask(
            num_older if is_slow else self._requests.num_waiting
        )  # what is taken back comes in the next frame
        self._steer()

    def _read_some(self, frames: Iterator[Frame]) -> bool:
        """Take the frames of one turn; True when there may be more. Raises `ConnectionBroken`."""
        rules, until = self._rules, time.perf_counter() + _TURN_S
        for number, each in enumerate(frames, 1):
            try:
                rules.take(each)
            except StreamBroken as broken:
                rules.end_stream(broken.stream, broken.code)
            if number >= _FRAMES_A_TURN or time.perf_counter() > until:
                return True
            if number >= _SLOW_FRAMES_A_TURN and self._floods.is_taking_back:
                return True
        return False

    def read_on(self) -> None:
        """It is this connection's turn again."""
        self._read()
        self.flush()

    def _resume(self) -> None:
        """The client takes more."""
        self._outflow.resume()
        self._requests.ask(self._requests.num_waiting)

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
        if not self._transport.is_closing():  # what is closed has the time that it was given, for all that is left
            self._write_deadline = None
        self._paused = self._outflow.is_stopped = False
        self._steer()
        self.flush()
        self._resume()
        self._leave_or_wait()

    def _check_preface(self, data: bytes) -> bytes:
        """Take off what every client begins with. Raises `ConnectionBroken`."""
        length = min(len(self._preface), len(data))
        if data[:length] != self._preface[:length]:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2, as gRPC does")
        self._preface = self._preface[length:]
        if not self._preface:
            self._leave_or_wait()
        return data[length:]

    # -- answers ------------------------------------------------------------------------------------------------------------

    def _sent(self, stream: Http2Stream) -> None:
        """The last byte of an answer was written."""
        if stream.heard_all:
            self._requests.forget(stream)
        else:  # the rest of the request is of no use
            self._write(reset(stream.number, ErrorCode.NO_ERROR))
            self._requests.end_early(stream.number)

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
        requests = self._requests
        self._floods.forgive(now)
        if any(late is not None and now > late for late in (self._write_deadline, self._outflow.deadline)):
            self._transport.abort()
        elif requests.deadline is not None and now > requests.deadline and not self._paused:
            self._end(ErrorCode.NO_ERROR, "nothing came")
        else:
            for stream in requests.late(now):
                self._rules.end_stream(stream.number, ErrorCode.CANCEL)

    def drain(self) -> None:
        """Tell the client to go elsewhere; close when its requests are answered."""
        if not self._closing:
            self._write(goaway(self._requests.last, ErrorCode.NO_ERROR, "this replica is stopping"))
            if not self._requests.streams:
                self._leave_or_wait()

    def _leave_or_wait(self) -> None:
        """Nothing is on its way, or the client says that nothing will be: leave, or wait for more."""
        requests = self._requests
        if self._closing or self._paused or requests.streams:
            return
        if requests.is_quiet:
            self.flush()
            self._close()
        else:
            wait_s = _FAREWELL_S if self._group.draining else self._limits.idle_timeout_s
            requests.deadline = time.monotonic() + wait_s

    def _end(self, code: ErrorCode, why: str) -> None:
        """Say why, and close."""
        if not self._closing:
            self._write(goaway(self._requests.last, code, why))
            self._closing = self._requests.is_over = True
            self._unread.clear()
            self.flush()
            self._close()

    def _close(self) -> None:
        """Close when the client has read what was written; it has some time for that."""
        if self._write_deadline is None:
            self._write_deadline = time.monotonic() + self._limits.write_timeout_s
        self._transport.close()
