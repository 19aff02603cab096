"""The requests of one HTTP/2 connection: let in by their heads, filled, asked in their turn, forgotten. Knows no frames."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from skyloom.inference.wire.fields import FieldReader, HeadTooLarge
from skyloom.inference.wire.frames import ConnectionBroken, ErrorCode, StreamBroken
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.inference.wire.outflow import Http2Stream, Outflow
from skyloom.inference.wire.site import Listener, Site
from skyloom.rooms.serving.plan import Limits

MAX_STREAMS = 256
_MAX_HELD_BYTES = 2**24
_MAX_UNWANTED = 256


class Shared(Protocol):
    """What the connections of one listener share.

    Attributes:
        share_bytes: what one connection may keep though all together keep too much.
        draining: nothing new is let in.
    """

    site: Site
    limits: Limits
    share_bytes: int
    draining: bool

    def count(self, request: Request, num_bytes: int) -> bool:
        """Count what a request keeps, or does not keep any more; False when all of them keep too much."""
        ...

    def overflown(self) -> Response:
        """What is answered where there is no room to keep an answer."""
        ...


class Http2Requests:
    """Requests of one connection.

    Args:
        on_empty: called when the last one is forgotten.

    Attributes:
        streams: those that were begun and are not forgotten, by their numbers.
        last: the newest number that the client has begun.
        num_whole: those that are whole, and nobody was asked for yet.
        deadline: when the client has to have gone on, on the monotonic clock; None while it owes nothing, or only bodies.
        is_quiet: the client said that it begins no more.
        is_over: the connection has ended, and nobody is asked any more.
    """

    def __init__(self, shared: Shared, fields: FieldReader, outflow: Outflow, on_empty: Callable[[], None]) -> None:
        self._shared = shared
        self._site = shared.site
        self._limits = shared.limits
        self._fields = fields
        self._outflow = outflow
        self._on_empty = on_empty
        self.streams: dict[int, Http2Stream] = {}
        self.last = 0
        # The head that was let in last, the site's epoch then, and the most that its body may be.
        self._admitted: Head | None = None
        self._epoch = self._admitted_bytes = 0
        self._whole: deque[Http2Stream] = deque()  # asked at the end of a turn, unless they are taken back in it
        self._unwanted: dict[
            int, None
        ] = {}  # streams that we ended before their client did: it may not have heard of it
        self.num_whole = self._num_kept = 0
        self.deadline: float | None = None
        self.is_quiet = self.is_over = False

    # -- coming in ----------------------------------------------------------------------------------------------------------

    def begin(self, number: int, written: bytes, ends: bool) -> None:
        """A whole header block: a new request, or the trailers of one. Raises `StreamBroken`, `ConnectionBroken`."""
        stream = self.streams.get(number)
        if stream is not None or number <= self.last:
            self._fields.skip(written)
            self._end_by_trailers(number, stream, ends)
            return
        self.last = number
        if self._shared.draining or self.is_quiet or len(self.streams) >= MAX_STREAMS:
            self._fields.skip(written)
            raise StreamBroken(number, ErrorCode.REFUSED_STREAM)
        try:
            request = Request(self._fields.read(written, number))
            refusal = self._admit(request)
        except HeadTooLarge:
            request = Request(Head(b"", b"", {}))
            refusal = self._site.refusal(431, "The request's headers are too large.")
        stream = self.streams[number] = Http2Stream(self._outflow, number, request)
        self.deadline = None
        stream.head_bytes = self._fields.cost_bytes
        has_room = self._has_room(request, stream.head_bytes)
        if refusal is None and self._outflow.num_held_bytes > _MAX_HELD_BYTES:
            refusal = self._shared.overflown()
        elif refusal is None and not has_room:
            refusal = self._crowded()
        if refusal is not None:
            stream.heard_all = ends
            stream.answer(refusal)
            return
        stream.listener = self._site.listener(request, stream)
        if ends:
            self._heard_all(stream)
        elif stream.listener is None:
            stream.deadline = time.monotonic() + self._limits.body_timeout_s

    def _end_by_trailers(self, number: int, stream: Http2Stream | None, ends: bool) -> None:
        """A second header block ends a request; nobody reads it. Raises `StreamBroken`, `ConnectionBroken`."""
        if stream is None and number in self._unwanted:
            return
        if stream is None or stream.heard_all:
            raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that has ended")
        if not ends:
            raise StreamBroken(number, ErrorCode.PROTOCOL_ERROR)
        self._heard_all(stream)

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

    def take(self, stream: Http2Stream, part: bytes, ends: bool) -> None:
        """Take a part of a request's body. Raises `StreamBroken`."""
        listener = stream.listener
        if listener is not None:
            if part:
                listener.heard(part)
                self._count_kept(stream, listener)
        elif stream.is_answered:  # refused; the answer waits for a window, and nobody wants the body
            return
        else:
            stream.take(part)
            if self._is_too_much(stream, self._has_room(stream.request, len(part))):
                return
        if ends:
            self._heard_all(stream)
        elif listener is None or listener.wants_more:
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
        self._has_room(request, -stream.num_bytes)
        stream.body, stream.num_bytes = b"", 0
        length = request.head.headers.get(b"content-length")
        if length is not None and length != b"%d" % len(request.body):
            raise StreamBroken(stream.number, ErrorCode.PROTOCOL_ERROR)
        stream.is_whole = True
        self.num_whole += 1
        self._whole.append(stream)

    # -- asked --------------------------------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """How many `ask` looks at, those that were taken back meanwhile among them."""
        return len(self._whole)

    def ask(self, most: int) -> None:
        """Ask for what came whole, the oldest first. While the client does not take its answers, no more of them are made."""
        whole = self._whole
        while whole and most and not self.is_over:
            stream = whole[0]
            if not stream.is_gone and self._outflow.is_sated(stream, len(self.streams) - self.num_whole):
                return
            whole.popleft()
            most -= 1
            if not stream.is_gone:
                stream.is_whole = False
                self.num_whole -= 1
                stream.request.arrived_at = time.perf_counter()
                self._site.serve(stream.request, stream)

    # -- going out ----------------------------------------------------------------------------------------------------------

    def end_early(self, number: int) -> bool:
        """We end a stream, and its client may be in the middle of it; False when there is none. What still comes is nobody's fault."""
        self._unwanted[number] = None
        if len(self._unwanted) > _MAX_UNWANTED:
            del self._unwanted[next(iter(self._unwanted))]
        stream = self.streams.get(number)
        if stream is None:
            return False
        self.forget(stream)
        return True

    def is_unwanted(self, number: int) -> bool:
        """True for a stream that we ended, of which more may come."""
        return number in self._unwanted

    def forget(self, stream: Http2Stream) -> None:
        """All of its answer is sent, or nobody waits for it any more."""
        self.streams.pop(stream.number, None)
        kept = stream.num_bytes + stream.head_bytes
        if kept:
            self._has_room(stream.request, -kept)
            stream.body, stream.num_bytes, stream.head_bytes = b"", 0, 0
        self._outflow.drop(stream)
        stream.is_answered = stream.is_gone = True
        if stream.is_whole:
            stream.is_whole = False
            self.num_whole -= 1
        stream.has_more = False
        if stream.on_cut is not None:
            stream.on_cut()
            stream.on_cut = None
        if not self.streams:
            self._on_empty()

    def forget_all(self) -> None:
        """The connection is lost."""
        self.is_over = True
        for stream in list(self.streams.values()):
            self.forget(stream)
        self._whole.clear()

    def late(self, now: float) -> Iterable[Http2Stream]:
        """Streams whose time is over; those that did not begin to be answered are answered."""
        for stream in [one for one in self.streams.values() if one.deadline is not None and now > one.deadline]:
            if stream.has_more:
                yield stream
            else:
                stream.answer(self._site.refusal(408, "The request came too slowly."))

    def _crowded(self) -> Response:
        return self._site.refusal(429, "Too many large requests are coming in at once.")

    def _has_room(self, request: Request, num_bytes: int) -> bool:
        """Count what a request keeps; while all keep too much, only a connection that keeps next to nothing has room."""
        self._num_kept += num_bytes
        fits = self._shared.count(request, num_bytes)
        return fits or (not request.is_open and self._num_kept <= self._shared.share_bytes)
