"""HTTP/1.1 on an `asyncio.Protocol`, with httptools as the parser. Knows no route and no model.

Everything a client can send has a bound: header bytes and count, body bytes, requests in flight, time. A request that breaks a bound or
the grammar gets one 4xx and the connection ends; nothing behind it on the same connection is believed (no request smuggling).
"""

import asyncio
import time
from collections import deque
from typing import cast

import httptools

from skyloom.inference.wire.bodies import SCRATCH_BYTES, ComingBody, FillingProtocol, Place, nowhere
from skyloom.inference.wire.head_rules import has_body, head_problem
from skyloom.inference.wire.known import Known
from skyloom.inference.wire.messages import SINGLE, Head, Request, Response
from skyloom.inference.wire.site import Site
from skyloom.inference.wire.turns import Turn
from skyloom.rooms.serving.plan import Limits

_LINGER_S = 2.0
_FAREWELL_S = 1.0  # in which a client that keeps its connection sends again, if it is one that asks often
_MAX_LINGER_BYTES = 2**26
_SLICE_BYTES = 2**18
# At a time: others get their turns between the requests of one read, and its answers must be taken.
_PARSED_BYTES = 2**10
_SHARE_BYTES = 2**16  # of a body that comes in though all of them together are too much: small ones still get through
_FREE_CHUNKS, _MIN_CHUNK_BYTES = 1_024, 64


class Connections:
    """All connections of one listener, and the limits they share.

    Args:
        place: where the site wants bodies to lie that it reads in place.

    Attributes:
        unread_bytes: of bodies that are not whole yet, on all connections together.
        held_bytes: of answers that were made and that their clients do not take, on all connections together.
        share_bytes: of one body that is let in though all together are too much.
        known: heads that need not be read again.
        scratch: where heads come in on connections whose bodies lie in place.
    """

    def __init__(self, site: Site, limits: Limits, place: Place = nowhere) -> None:
        self.site = site
        self.place = place
        self.scratch = bytearray(SCRATCH_BYTES)
        self.limits = limits
        self.known = Known(site)
        self.open: set[Connection] = set()
        self.unread_bytes = self.held_bytes = 0
        self.share_bytes = min(_SHARE_BYTES, limits.max_unread_bytes // 16)
        self.draining = False

    @property
    def is_overfull(self) -> bool:
        """True while the answers that wait for their clients are more than all of them together may be."""
        return self.held_bytes > self.limits.max_unread_bytes

    @property
    def is_full(self) -> bool:
        """True while all bodies together are more than they may be; then only small ones come in."""
        return self.unread_bytes > self.limits.max_unread_bytes

    def accept(self) -> "Connection":
        """Protocol factory for `loop.create_server`."""
        return Connection(self)

    def sweep(self) -> None:
        """Cut those who are too slow. Called about once a second."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.cut_if_late(now)

    def drain(self) -> None:
        """Each connection closes after its next answer, and idle ones after a moment: closed at once, they would fail the request that
        their client is just sending. Needs `sweep` to be called on."""
        self.draining = True
        for connection in list(self.open):
            connection.drain()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, group: Connections) -> None:
        self._group = group
        self._site = group.site
        self._limits = group.limits
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Turn] = deque()
        self._request: Request | None = None
        self._read_deadline: float | None = None
        self._write_deadline: float | None = None
        self._in_head = self._began_now = self._paused = self._refused = self._lingering = False
        self._lingered_bytes = 0
        self._stalled_head_bytes = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._unparsed: bytes | memoryview = b""
        self._is_waiting = False  # for its turn to read the rest
        self._num_chunks = self._held_bytes = 0
        self._written_bytes = 0  # of answers that the system has not taken to their end: until then all of them is kept
        self._coming: ComingBody | None = None
        self._filling: FillingProtocol | None = None  # from the first body that the system wrote to its place
        self._admission: Response | None = None
        self._head_bytes = self._num_headers = 0
        self._raw_head = b""
        self._epoch = 0  # the site's when it admitted the head

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports share the methods, not the class
        if len(self._group.open) >= 2 * self._limits.max_connections:
            self._transport.abort()
            return
        self._group.open.add(self)
        self._wait_idle()
        if len(self._group.open) > self._limits.max_connections:
            self._refuse(429, "This replica has too many connections.")

    def connection_lost(self, error: Exception | None) -> None:
        self._group.open.discard(self)
        self._drop_body()
        self._unparsed = b""
        self._group.held_bytes -= self._held_bytes
        self._held_bytes = 0
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.cut()
        del self._parser  # they hold each other, and only a search for garbage would find them

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._lingered_bytes += len(data)
            if self._lingered_bytes > _MAX_LINGER_BYTES:
                self._transport.abort()
            return
        if self._coming is not None:
            self._take(data, self._coming)
            return
        exchanges = self._exchanges
        is_between = self._request is None and not self._in_head and not len(self._unparsed)
        if is_between and not (exchanges and exchanges[-1].closing):
            end = data.find(b"\r\n\r\n") + 4
            self._raw_head = data[:end] if end > 3 else b""
            known = self._group.known.find(self._raw_head)
            if known is not None and end + known[1] == len(data):
                request = Request(known[0])
                request.body = data[end:]
                self._site.serve(request, self._begin(request, closing=False))
                if self._paused or len(exchanges) >= self._limits.max_pipelined:
                    self._steer()
                return
            if known is not None and end + known[1] > len(data):
                self._request = Request(known[0])
                self._coming = ComingBody(known[0], known[1], self._group.place)
                self._wait(self._limits.body_timeout_s)
                self._take(data[end:], self._coming)
                return
        self._parse(b"".join((self._unparsed, data)) if len(self._unparsed) else data)
        self._steer()

    def _parse(self, data: bytes | memoryview) -> None:
        """Read a few requests, or of one body all that is there; the rest when others had their turn and answers are taken."""
        is_body = True
        while len(data) and is_body and not self._refused:
            size = self._parsed_bytes
            self._feed(data if len(data) <= size else memoryview(data)[:size])
            data = memoryview(data)[size:]
            is_body = self._request is not None and b"content-length" in self._headers
        self._unparsed = b"" if self._refused else data

    def _parse_rest(self) -> None:
        self._is_waiting = False
        if len(self._unparsed) and not self._is_busy:
            self._parse(self._unparsed)
            self._steer()

    @property
    def _parsed_bytes(self) -> int:
        """How much is read at a time: little, but of one body as much as there is."""
        if self._request is None:
            return _PARSED_BYTES
        if b"content-length" not in self._headers:
            return 4 * _PARSED_BYTES
        return max(_PARSED_BYTES, int(self._headers[b"content-length"]) - len(self._body))

    def _feed(self, data: bytes | memoryview) -> None:
        self._began_now = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "Upgrades are not spoken here.")
        except httptools.HttpParserError:
            self._refuse(400, "This is not HTTP/1.1.")
        if self._in_head and not self._began_now:
            self._stalled_head_bytes += len(data)
            if self._stalled_head_bytes > self._limits.max_header_bytes:
                self._refuse(431, "The request's headers are too large.")

    def eof_received(self) -> bool:
        # A client that only closed its sending side still gets the answers it waits for. Who leaves while an answer comes part by part
        # looks the same, and parts cost: as with most proxies, that client has left.
        if self._exchanges and self._exchanges[0].has_more:
            self._transport.abort()
            return True
        if self._exchanges and not self._lingering:
            self._exchanges[-1].closing = True
            return True
        return False

    def pause_writing(self) -> None:
        self._write_deadline = time.monotonic() + self._limits.write_timeout_s
        self._steer()

    def resume_writing(self) -> None:
        self._write_deadline = None
        self._written_bytes = 0
        if self._exchanges and self._exchanges[0].is_parted:
            self._make_room(self._exchanges[0])
        self._count_held()
        self._steer()

    # -- httptools ----------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._refused:
            return
        self._reset()
        self._in_head = self._began_now = True
        self._wait(self._limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head or self._refused:  # a trailer: counted, never believed
            return
        key = name.lower()
        if key in self._headers:
            if key in SINGLE:
                self._refuse(400, f"The header {key.decode('latin-1')} comes twice.")
                return
            value = self._headers[key] + b", " + value
        self._headers[key] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refused:
            return
        parser = self._parser
        problem = head_problem(
            self._headers, parser.get_http_version(), parser.should_upgrade(), self._limits.max_body_bytes
        )
        if problem is not None:
            self._refuse(*problem)
            return
        method = self._parser.get_method()
        self._request = Request(Head(method, self._url.partition(b"?")[0], self._headers))
        self._wait(self._limits.body_timeout_s)
        self._epoch = self._site.epoch
        refusal = self._site.admit(self._request)
        if refusal is not None:
            self._admission = refusal
            if has_body(self._headers):
                self._refuse_with(refusal)
        elif self._request.is_open and has_body(self._headers):  # bodies of strangers are not kept
            self._refuse(413, "This address takes no body.")
        elif self._headers.get(b"expect") and not self._exchanges:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        if self._num_chunks > _FREE_CHUNKS and len(self._body) < _MIN_CHUNK_BYTES * self._num_chunks:
            self._refuse(400, "The chunks of the body are too small: each costs more than it brings.")
        self._num_chunks += 1

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        self._group.unread_bytes += len(body)
        if len(self._body) > self._limits.max_body_bytes:
            self._refuse(413, f"The body is larger than {self._limits.max_body_bytes} bytes.")
        elif self._group.is_full and len(self._body) > self._group.share_bytes:
            self._refuse(429, "Too many large requests are coming in at once.")

    def on_message_complete(self) -> None:
        request = self._request
        if self._refused or request is None:
            return
        request.body = bytes(self._body)
        self._drop_body()
        self._request = None
        keeps_alive = self._parser.should_keep_alive()
        exchange = self._begin(request, closing=not keeps_alive)
        exchange.is_chunked = self._parser.get_http_version() == "1.1"
        if self._admission is not None:
            exchange.answer(self._admission)
            return
        if keeps_alive and self._raw_head:
            self._group.known.keep(self._raw_head, self._url, request.head, self._epoch)
        self._raw_head = b""  # the next request of the same bytes has another one
        self._site.serve(request, exchange)

    def _take(self, data: bytes, coming: ComingBody) -> None:
        """Take a part of a body behind a known head: nothing in it has to be parsed."""
        before = coming.num_bytes
        rest = coming.take(data)
        self._came(coming, coming.num_bytes - before)
        if self._coming is coming and coming.settles():
            if self._filling is None:
                self._filling = FillingProtocol(self, self._group.scratch)
                self._transport.set_protocol(self._filling)
            self._filling.body = coming
        if rest:
            self.data_received(rest)

    def filled(self, num_bytes: int) -> None:
        """So much more of the body is in its place."""
        if self._coming is not None:
            self._coming.num_bytes += num_bytes
            self._came(self._coming, num_bytes)

    def _came(self, coming: ComingBody, num_bytes: int) -> None:
        """Count a part of a body behind a known head, and serve it when that was the last."""
        self._group.unread_bytes += num_bytes
        if self._group.is_full and coming.num_bytes > self._group.share_bytes:
            self._refuse(429, "Too many large requests are coming in at once.")
        elif coming.is_whole:
            request, self._request = Request(coming.head), None
            if coming.room is None:
                request.body = coming.joined()
            else:
                request.in_place = coming.room
            self._drop_body()
            self._site.serve(request, self._begin(request, closing=False))
        self._steer()

    def _begin(self, request: Request, *, closing: bool) -> Turn:
        request.arrived_at = time.perf_counter()
        exchange = Turn(self, closing or self._group.draining, request.head.method == b"HEAD")
        self._exchanges.append(exchange)
        self._read_deadline = None
        return exchange

    # -- answers ------------------------------------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """True when the next answer is the last."""
        return self._group.draining

    @property
    def num_buffered(self) -> int:
        """Bytes that were sent and that the system has not taken."""
        return self._transport.get_write_buffer_size()

    def fitting(self, response: Response) -> Response:
        """An answer, or, where there is no room to keep it until it is taken, one that says so."""
        if len(response.body) > _SHARE_BYTES and self._group.is_overfull:
            return self._site.refusal(429, "Too many answers wait to be taken.")
        return response

    def give_up(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def flush(self) -> None:
        """Send the answers that are ready, in the order of their requests."""
        if self._is_one_answer():
            return
        out: list[bytes | bytearray] = []
        closing = False
        while self._exchanges and (encoded := self._exchanges[0].encoded) is not None and not closing:
            if self._exchanges[0].is_parted:
                self._send(out)
                out = []
                if not self._pour(self._exchanges[0]):
                    break
            else:
                out.append(encoded)
            closing = self._exchanges.popleft().closing
        self._send(out)
        if closing:
            self._linger()
        elif not self._exchanges:
            if self._refused:
                self._linger()
            elif self._request is None and not self._in_head:
                self._wait_idle()
        if self._write_deadline is not None or self._held_bytes or closing or len(self._exchanges) > 1:
            self._count_held()
        self._steer()

    def _count_held(self) -> None:
        """Count what waits for the client: what the system has not taken, and what waits for its turn."""
        held = self._written_bytes + sum([len(turn.encoded) for turn in self._exchanges if turn.encoded])
        self._group.held_bytes += held - self._held_bytes
        self._held_bytes = held

    def _is_one_answer(self) -> bool:
        """The usual case: one request, one whole answer, and the next request may come. Sends it."""
        exchanges = self._exchanges
        if len(exchanges) != 1 or self._refused or self._held_bytes:
            return False
        turn = exchanges[0]
        encoded = turn.encoded
        if encoded is None or turn.is_parted or turn.closing:
            return False
        exchanges.popleft()
        transport = self._transport
        if not transport.is_closing():
            transport.write(encoded)
            if self._write_deadline is not None:
                self._written_bytes += len(encoded)
        if self._write_deadline is not None:
            self._count_held()
        if self._request is None and not self._in_head:
            self._wait_idle()
        if self._paused:
            self._steer()
        return True

    def _send(self, out: list[bytes | bytearray]) -> None:
        if out and not self._transport.is_closing():
            content = out[0] if len(out) == 1 else b"".join(out)
            self._transport.write(content)
            if self._write_deadline is not None:
                self._written_bytes += len(content)

    def _pour(self, turn: Turn) -> bool:
        """Send parts as far as the client takes them; True when that was all of the answer."""
        while turn.encoded and self._write_deadline is None and not self._transport.is_closing():
            self._transport.write(turn.take(_SLICE_BYTES))
        return not turn.encoded and not turn.has_more

    def _make_room(self, turn: Turn) -> None:
        """The client took what it was sent: send more, and ask for more."""
        self.flush()
        if turn.on_room is not None and turn.has_more and not turn.encoded and self._write_deadline is None:
            turn.on_room()

    def drain(self) -> None:
        """Wait a moment only for another request, if idle; what was refused has its time."""
        if not self._exchanges and self._request is None and not self._in_head and not self._lingering:
            self._wait_idle()

    def cut_if_late(self, now: float) -> None:
        """Cut the connection when a deadline has passed."""
        if self._write_deadline is not None and now > self._write_deadline:
            self._transport.abort()
        elif self._read_deadline is not None and now > self._read_deadline and not self._paused:
            if self._lingering or self._transport.is_closing():  # closed, and the client does not take what is left
                self._transport.abort()
            elif self._request is not None or self._in_head:
                self._refuse(408, "The request came too slowly.")
            else:
                self._wait(self._limits.write_timeout_s)
                self._transport.close()

    # -- inside -------------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._url = b""
        self._drop_body()
        self._headers = {}
        self._admission = None
        self._head_bytes = self._num_headers = self._stalled_head_bytes = self._num_chunks = 0

    @property
    def _is_busy(self) -> bool:
        """True while answers are not taken, or too many are owed."""
        return self._write_deadline is not None or len(self._exchanges) >= self._limits.max_pipelined

    def _steer(self) -> None:
        """Read no further while answers are not taken or too many are owed; what is refused is read to be dropped."""
        busy = self._is_busy
        if len(self._unparsed) and not busy and not self._is_waiting:
            self._is_waiting = True
            asyncio.get_running_loop().call_soon(self._parse_rest)  # not now: the parser itself may have led here
        pause = (busy or len(self._unparsed) > 0) and not self._refused
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
                self._wait_again()

    def _drop_body(self) -> None:
        self._group.unread_bytes -= len(self._body)
        self._body = b""
        if self._coming is not None:
            self._group.unread_bytes -= self._coming.num_bytes
            self._coming = None
            if self._filling is not None:
                self._filling.body = None

    def _wait(self, duration_s: float) -> None:
        self._read_deadline = time.monotonic() + duration_s

    def _wait_idle(self) -> None:
        """For another request; when we leave, only a moment."""
        self._wait(_FAREWELL_S if self._group.draining else self._limits.idle_timeout_s)

    def _wait_again(self) -> None:
        """It was we who did not read: what was waited for has its time anew."""
        if self._read_deadline is None or self._lingering:
            return
        if self._request is not None or self._in_head:
            self._wait(self._limits.body_timeout_s)
        else:
            self._wait_idle()

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > self._limits.max_header_bytes or self._num_headers > self._limits.max_headers:
            self._refuse(431, "The request's headers are too large or too many.")

    def _refuse(self, status: int, message: str) -> None:
        if not self._refused:
            self._refuse_with(self._site.refusal(status, message))

    def _refuse_with(self, response: Response) -> None:
        """Answer, and believe nothing more on this connection."""
        self._refused = True
        self._drop_body()
        self._unparsed = b""
        self._request = self._read_deadline = None  # earlier answers have their time; then it lingers
        self._in_head = False
        exchange = Turn(self, True, False)
        self._exchanges.append(exchange)
        exchange.answer(response)

    def _linger(self) -> None:
        """Close so that the answer arrives: what still comes is read and dropped, else the system would reset the connection."""
        if self._lingering:
            return
        self._lingering = self._refused = True
        self._write_deadline = None
        self._wait(self._limits.write_timeout_s if self._transport.get_write_buffer_size() else _LINGER_S)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()
