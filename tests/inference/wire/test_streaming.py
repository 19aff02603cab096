"""Answers part by part over HTTP/1.1: chunks, events, order, back-pressure, clients that leave."""

import asyncio
import time
from collections.abc import Callable

import httpx
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.wire.events import event, opening
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Streaming
from skyloom.rooms.serving.plan import Limits
from tests.inference.wire.test_known_heads import Caller, Gate

ASK = b"POST /parts HTTP/1.1\r\nHost: here\r\nAuthorization: good\r\nContent-Length: 0\r\n\r\n"
WHOLE = b"POST /whole HTTP/1.1\r\nHost: here\r\nAuthorization: good\r\nContent-Length: 0\r\n\r\n"


class Parted(Gate):
    """Keeps the exchange of every request for parts, and calls `on_ask` with it."""

    def __init__(self, on_ask: Callable[[Streaming], None] = lambda exchange: None) -> None:
        super().__init__()
        self.asked: list[Streaming] = []
        self.num_cut = 0
        self._on_ask = on_ask

    def serve(self, request: Request, exchange: Streaming) -> None:
        if request.head.target != b"/parts":
            exchange.answer(Response(200, b"whole"))
            return
        exchange.on_cut = self._cut
        self.asked.append(exchange)
        self._on_ask(exchange)

    def _cut(self) -> None:
        self.num_cut += 1


class Slow(Caller):
    """A connection whose client says itself when it takes."""

    def __init__(self, group: Connections) -> None:
        super().__init__(group)
        self.line.get_write_buffer_size = lambda: 0  # type: ignore[method-assign]

    def told(self) -> bytes:
        written, self.line.written = self.line.written, b""
        return written


@pytest.fixture
def site():
    return Parted()


@pytest.fixture
def group(site):
    return Connections(site, Limits())


def read_chunks(body: bytes) -> list[bytes]:
    """The chunks of a whole body; fails on anything that is none."""
    parts = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body.endswith(b"\r\n")
            return parts
        parts.append(body[:length])
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]


def test_parts_leave_at_once_as_chunks_and_the_connection_goes_on(site, group):
    caller = Slow(group)
    caller.send(ASK)
    (exchange,) = site.asked
    exchange.begin(Response(200, b"one", b"text/plain"))
    head, _, body = caller.told().partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    exchange.push(b"")
    exchange.push(b"two")
    exchange.finish()
    assert read_chunks(body + caller.told()) == [b"one", b"two"]
    assert caller.send(WHOLE).endswith(b"whole")
    assert site.num_cut == 0


def test_trailers_stand_behind_the_last_chunk(site, group):
    caller = Slow(group)
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    site.asked[0].finish(((b"grpc-status", b"0"),))
    assert caller.told().endswith(b"0\r\ngrpc-status: 0\r\n\r\n")


def test_answers_behind_a_stream_wait_for_its_end_and_keep_their_order(site, group):
    caller = Slow(group)
    caller.send(ASK + WHOLE + ASK + WHOLE)
    first, second = site.asked
    second.begin(Response(200, b"late"))
    first.begin(Response(200, b"early"))
    assert b"late" not in caller.told()
    first.finish()
    assert b"late" in caller.line.written
    assert caller.told().count(b"whole") == 1
    second.finish()
    assert caller.told().endswith(b"whole")


def test_http_1_0_gets_bare_parts_and_the_end_of_the_connection(site, group):
    caller = Slow(group)
    caller.send(ASK.replace(b"HTTP/1.1", b"HTTP/1.0"))
    (exchange,) = site.asked
    exchange.begin(Response(200, b"one"))
    exchange.push(b"two")
    exchange.finish(((b"grpc-status", b"0"),))
    head, _, body = caller.told().partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert body == b"onetwo"
    assert caller.send(WHOLE) == b""


def test_paused_client_is_sent_nothing_and_asked_for_when_there_is_room(site, group):
    caller = Slow(group)
    caller.send(ASK)
    (exchange,) = site.asked
    asked = []
    exchange.on_room = lambda: asked.append(exchange.num_unsent)
    exchange.begin(Response(200))
    caller.told()
    caller.connection.pause_writing()
    for _ in range(10):
        exchange.push(b"x" * 1000)
    assert caller.told() == b""
    assert exchange.num_unsent > 10_000
    caller.connection.resume_writing()
    assert caller.told().count(b"x") == 10_000
    assert asked == [0]
    exchange.finish()
    caller.connection.resume_writing()
    assert asked == [0]


def test_client_that_takes_nothing_is_cut_and_whoever_pushes_hears_of_it(site):
    group = Connections(site, Limits(write_timeout_s=5))
    caller = Slow(group)
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    caller.connection.pause_writing()
    caller.connection.cut_if_late(time.monotonic() + 4)
    assert not caller.line.aborted
    caller.connection.cut_if_late(time.monotonic() + 6)
    assert caller.line.aborted
    caller.connection.connection_lost(None)
    assert site.num_cut == 1
    site.asked[0].push(b"more")  # whoever did not listen harms nobody
    site.asked[0].finish()


def test_push_without_end_is_cut_off_before_memory_grows(site, group):
    caller = Slow(group)
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    caller.connection.pause_writing()
    for _ in range(17):
        site.asked[0].push(bytes(2**20))
    assert caller.line.aborted


def test_client_that_leaves_during_a_stream_cancels_it(site, group):
    caller = Slow(group)
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    caller.connection.eof_received()
    assert caller.line.aborted


def test_second_answer_of_any_form_is_dropped(site, group):
    caller = Slow(group)
    caller.send(ASK)
    (exchange,) = site.asked
    exchange.begin(Response(200, b"one"))
    exchange.answer(Response(500, b"never"))
    exchange.begin(Response(500, b"never"))
    exchange.finish()
    exchange.finish()
    exchange.push(b"never")
    assert b"never" not in caller.told()


def test_stream_that_ends_while_draining_is_the_last(site, group):
    caller = Slow(group)
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    group.drain()
    assert not caller.line.closed
    site.asked[0].finish()
    assert caller.send(WHOLE) == b""


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10), st.lists(st.booleans(), max_size=20))
def test_any_parts_arrive_whole_however_the_client_takes_them(parts, pauses):
    site = Parted()
    caller = Slow(Connections(site, Limits()))
    caller.send(ASK)
    site.asked[0].begin(Response(200))
    for index, part in enumerate(parts):
        if index < len(pauses):
            (caller.connection.pause_writing if pauses[index] else caller.connection.resume_writing)()
        site.asked[0].push(part)
    site.asked[0].finish()
    caller.connection.resume_writing()
    assert read_chunks(caller.told().partition(b"\r\n\r\n")[2]) == parts


@given(st.binary(max_size=200))
def test_event_holds_any_content_and_is_one(content):
    made = event(content, "token")
    assert made.endswith(b"\n\n")
    assert made.count(b"\n\n") == 1
    lines = made.removesuffix(b"\n\n").split(b"\n")
    assert lines[0] == b"event: token"
    read = b"\n".join(line.removeprefix(b"data: ") for line in lines[1:])
    assert read == content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def served(site: Parted, talk: Callable[[int], object]) -> object:
    """Run ``talk`` with the port of a real listener."""

    async def main() -> object:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Connections(site, Limits()).accept, "127.0.0.1", 0)
        try:
            return await asyncio.to_thread(talk, server.sockets[0].getsockname()[1])
        finally:
            server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def test_sixty_megabytes_reach_a_real_client_through_a_bounded_buffer():
    most, seen = 2**20, []

    def serve(exchange: Streaming) -> None:
        left = iter(range(60))

        def fill() -> None:
            while exchange.num_unsent <= most:
                if next(left, None) is None:
                    exchange.finish()
                    return
                exchange.push(bytes(2**20))
                seen.append(exchange.num_unsent)

        exchange.on_room = fill
        exchange.begin(opening())
        fill()

    def talk(port: int) -> int:
        with httpx.stream(
            "POST", f"http://127.0.0.1:{port}/parts", headers={"authorization": "good"}, trust_env=False, timeout=20
        ) as answer:
            return sum(len(part) for part in answer.iter_bytes())

    site = Parted(serve)
    assert served(site, talk) == 60 * 2**20
    assert max(seen) < 3 * most
    assert site.num_cut == 0
