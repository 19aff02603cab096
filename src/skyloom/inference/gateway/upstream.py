"""Kept connections to one replica's private port: HTTP/1.1, one request at a time on each, answers read by httptools."""

import asyncio
import time
from typing import NamedTuple, Protocol, cast

import httptools

from skyloom.inference.gateway.passage import Passage
from skyloom.inference.gateway.trouble import Trouble
from skyloom.inference.wire.messages import Fields
from skyloom.rooms.serving.routes import Backend

_CONNECT_S = 2.0
_IDLE_S = 50.0  # a replica closes after 75; who closes first never meets a connection that closes under a request
_JOIN_BYTES = 2**16
_WHOLE_BYTES = (
    2**22
)  # a longer answer is passed on in parts, so that what the gateway holds does not grow with it; gRPC's stay whole
_MAX_HEADERS, _MAX_HEADER_BYTES = 100, 2**16


class Reply(NamedTuple):
    """A replica's answer. Names of ``fields`` are lower-case; ``body`` is empty when it comes part by part."""

    status: int
    fields: Fields
    body: bytes = b""


class Receiver(Protocol):
    """Who hears what becomes of a request. Exactly one of `replied`, `ended` and `broke` is called last."""

    def replied(self, passage: Passage, reply: Reply) -> None:
        """A whole answer."""
        ...

    def began(self, passage: Passage, reply: Reply) -> None:
        """The head of an answer whose parts follow."""
        ...

    def heard(self, passage: Passage, part: bytes) -> bool:
        """A part; False: read no further for now, see `ReplicaLinks.resume`."""
        ...

    def ended(self, passage: Passage, trailers: Fields) -> None:
        """The last part was heard."""
        ...

    def broke(self, passage: Passage, trouble: Trouble) -> None:
        """There is no answer, or no more of it."""
        ...


class ReplicaLinks:
    """The connections to one replica.

    Args:
        silence_s: a replica that says nothing for so long while it owes an answer is given up.
        max_answer_bytes: of an answer that is held until it is whole.
    """

    def __init__(self, backend: Backend, receiver: Receiver, silence_s: float, max_answer_bytes: int) -> None:
        self.backend = backend
        self.receiver = receiver
        self.silence_s = silence_s
        self.max_answer_bytes = max_answer_bytes
        name = f"[{backend.host}]" if ":" in backend.host else backend.host
        self.host = f"{name}:{backend.port}".encode()
        self.is_closed = False
        self._idle: list[UpstreamConnection] = []
        self._busy: dict[Passage, UpstreamConnection] = {}
        self._dialling: dict[Passage, asyncio.Task[None]] = {}

    @property
    def is_busy(self) -> bool:
        """True while it owes an answer."""
        return bool(self._busy or self._dialling)

    def send(self, passage: Passage, head: bytes) -> None:
        """Send a request on a connection that is free, or on a new one. The receiver hears the rest."""
        if self._idle:
            connection = self._idle.pop()
            self._busy[passage] = connection
            connection.send(passage, head)
        else:
            self._dialling[passage] = asyncio.get_running_loop().create_task(self._dial(passage, head))

    def cancel(self, passage: Passage) -> None:
        """Nobody waits for this one: its connection is closed, so that the replica hears of it. The receiver hears nothing."""
        dialling = self._dialling.pop(passage, None)
        if dialling is not None:
            dialling.cancel()
        connection = self._busy.pop(passage, None)
        if connection is not None:
            connection.drop()

    def resume(self, passage: Passage) -> None:
        """Read on."""
        connection = self._busy.get(passage)
        if connection is not None:
            connection.resume()

    def sweep(self, now: float) -> None:
        """Close what has been idle for long; give up what says nothing. Called about once a second."""
        for connection in [one for one in self._idle if now - one.last_at > _IDLE_S]:
            self._idle.remove(connection)
            connection.drop()
        for connection in [one for one in self._busy.values() if now - one.last_at > self.silence_s]:
            connection.give_up(Trouble.SILENT)

    def close(self) -> None:
        """Open no more; connections close when their request is answered."""
        self.is_closed = True
        for connection in self._idle:
            connection.drop()
        self._idle.clear()

    def free(self, connection: "UpstreamConnection", passage: Passage, *, keep: bool) -> None:
        """A connection has done its request."""
        self._busy.pop(passage, None)
        if keep and not self.is_closed:
            self._idle.append(connection)
        else:
            connection.drop()

    def lost(self, connection: "UpstreamConnection") -> None:
        """A connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def _dial(self, passage: Passage, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self), self.backend.host, self.backend.port
                )
        except (OSError, TimeoutError):
            if self._dialling.pop(passage, None) is not None:
                self.receiver.broke(passage, Trouble.UNREACHED)
            return
        if self._dialling.pop(passage, None) is None:  # it was cancelled while the connection came
            connection.drop()
            return
        self._busy[passage] = connection
        connection.send(passage, head)


class UpstreamConnection(asyncio.Protocol):
    """One connection. It has one request, or none.

    Attributes:
        last_at: when it last heard or sent something.
    """

    def __init__(self, pool: ReplicaLinks) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._passage: Passage | None = None
        self._fields: list[tuple[bytes, bytes]] = []
        self._num_bytes = self._head_bytes = self._num_head_fields = self._status = 0
        self._body: list[bytes] = []
        self._streams = False
        self._paused = False
        self._trouble: Trouble | None = None
        self._gone = False
        self.last_at = time.perf_counter()

    def send(self, passage: Passage, head: bytes) -> None:
        """Send a request."""
        self._passage = passage
        self.last_at = time.perf_counter()
        if self._gone:  # it closed in the same turn of the loop
            self._break(Trouble.LOST)
            return
        body = passage.request.body
        if len(body) <= _JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def drop(self) -> None:
        """Close at once, and say nothing."""
        self._passage = None
        self._transport.abort()

    def give_up(self, trouble: Trouble) -> None:
        """Close, and say why."""
        self._break(trouble)
        self._transport.abort()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._gone:
            self._paused = False
            self.last_at = time.perf_counter()
            self._transport.resume_reading()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.last_at = time.perf_counter()
        if self._passage is None:  # nobody asked
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._trouble = Trouble.LOST
        if self._trouble is not None:
            self.give_up(self._trouble)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._pool.lost(self)
        self._break(Trouble.LOST)

    # -- httptools ----------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._fields, self._body = [], []
        self._num_bytes = self._head_bytes = 0
        self._streams = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if len(self._fields) >= _MAX_HEADERS or self._head_bytes > _MAX_HEADER_BYTES:
            self._trouble = Trouble.LOST
        else:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200 or self._trouble is not None or self._passage is None:
            return
        self._num_head_fields = len(self._fields)  # what comes later are trailers
        self._streams = any(name == b"transfer-encoding" for name, _ in self._fields) or self._is_long(self._passage)
        if self._streams:
            self._pool.receiver.began(self._passage, Reply(self._status, tuple(self._fields)))

    def _is_long(self, passage: Passage) -> bool:
        length = next((value for name, value in self._fields if name == b"content-length"), b"")
        return not passage.is_call and length.isdigit() and int(length) > _WHOLE_BYTES

    def on_body(self, body: bytes) -> None:
        if self._trouble is not None or self._passage is None:
            return
        if self._streams:
            if not self._pool.receiver.heard(self._passage, body) and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            return
        self._num_bytes += len(body)
        if self._num_bytes > self._pool.max_answer_bytes:
            self._trouble = Trouble.TOO_LARGE
            self._body = []
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        passage = self._passage
        if self._status < 200 or self._trouble is not None or passage is None:
            return
        self._passage = None
        keep = self._parser.should_keep_alive()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self.resume()
        receiver, streams, reply = self._pool.receiver, self._streams, Reply(self._status, tuple(self._fields), body)
        self._pool.free(self, passage, keep=keep)
        if streams:
            receiver.ended(passage, tuple(self._fields[self._num_head_fields :]))
        else:
            receiver.replied(passage, reply)

    def _break(self, trouble: Trouble) -> None:
        passage, self._passage = self._passage, None
        if passage is not None:
            self._pool.free(self, passage, keep=False)
            self._pool.receiver.broke(passage, trouble)
