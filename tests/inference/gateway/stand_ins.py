"""Replicas and clients of a few lines, inside of the test's own loop."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from skyloom.inference.gateway.desk import RouteDesk
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.rooms.serving.plan import Limits
from skyloom.rooms.serving.routes import Backend, EndpointRoute

Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
POST = Head(b"POST", b"/v2/models/toy/infer", {b"content-type": b"application/json"})


class StandIn:
    """A replica that reads requests and does with each what the test says.

    Attributes:
        seen: bodies, in the order they came.
        heads: their heads.
    """

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.seen: list[bytes] = []
        self.heads: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._readers: list[asyncio.StreamReader] = []

    @property
    def backend(self) -> Backend:
        return Backend(replica=f"rep_{self.port}", port=self.port)

    @property
    def num_closed(self) -> int:
        """Connections that the other side has closed."""
        return sum(reader.at_eof() or reader.exception() is not None for reader in self._readers)

    async def start(self, port: int = 0) -> "StandIn":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._readers.append(reader)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.seen.append(body)
                await self.answering(body, writer)
        writer.close()

    async def kill(self) -> None:
        """Be gone, as after SIGKILL: nothing listens, and every connection is reset."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def say(writer: asyncio.StreamWriter, status: int = 200, body: bytes = b"{}", *headers: bytes) -> None:
    lines = b"".join(header + b"\r\n" for header in headers)
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (
        status,
        len(body),
        lines,
    )
    writer.write(head + body)


async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
    await say(writer, 200, body)


async def in_parts(body: bytes, writer: asyncio.StreamWriter) -> None:
    """Two parts and the end, or, when the body says so, no end."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in (b"one", b"two"):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
    if body == b"break":
        writer.transport.abort()
        raise ConnectionResetError
    writer.write(b"0\r\n\r\n")


class Caller:
    """Who waits for an answer; a `Streaming` exchange.

    Attributes:
        response: the whole answer, or its head.
        parts, trailers: what came after it.
    """

    def __init__(self) -> None:
        self.response: Response | None = None
        self.parts: list[bytes] = []
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        self.on_cut: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.is_whole = self.is_broken = False
        self.num_unsent = 0
        self._done = asyncio.Event()

    def answer(self, response: Response) -> None:
        assert self.response is None, "answered twice"
        self.response, self.is_whole = response, True
        self._done.set()

    def begin(self, response: Response) -> None:
        assert self.response is None
        self.response = response

    def push(self, part: bytes) -> None:
        self.parts.append(part)

    def finish(self, trailers=()) -> None:
        self.is_whole, self.trailers = True, trailers
        self._done.set()

    def resume(self) -> None: ...

    def break_off(self) -> None:
        self.is_broken = True
        self._done.set()

    async def wait(self, timeout_s: float = 60) -> Response:
        await asyncio.wait_for(self._done.wait(), timeout_s)
        assert self.response is not None
        return self.response

    def header(self, name: bytes) -> bytes | None:
        return dict(self.response.headers).get(name) if self.response else None


class Bench:
    """A desk, and the ticking that the process gives it."""

    def __init__(self, route: EndpointRoute, limits: Limits = Limits(), seed: int = 5) -> None:  # noqa: B008  # frozen
        self.wakes = 0
        self.desk = RouteDesk(route, limits, random.Random(seed), self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def send(self, body: bytes = b"{}", head: Head = POST, *, is_call: bool = False) -> Caller:
        caller, request = Caller(), Request(head)
        request.body, request.arrived_at = body, time.perf_counter()
        self.desk.take(request, caller, is_call=is_call)
        return caller

    async def ask(self, body: bytes = b"{}", head: Head = POST, *, is_call: bool = False) -> Caller:
        caller = self.send(body, head, is_call=is_call)
        await caller.wait()
        return caller

    def traffic(self):
        return self.desk.traffic(closes=False)


@contextlib.asynccontextmanager
async def bench(route: EndpointRoute, limits: Limits = Limits(), seed: int = 5) -> AsyncIterator[Bench]:  # noqa: B008  # frozen
    made = Bench(route, limits, seed)

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.01)
            made.desk.look()
            made.desk.sweep()

    ticking = asyncio.create_task(tick())
    try:
        yield made
        now = made.traffic()
        assert (now.held, now.in_flight) == (0, 0), "nobody may be forgotten"
        assert made.desk.is_idle
    finally:
        ticking.cancel()
        made.desk.close()
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
