"""Heads that are remembered: bytes that were admitted once get no more by it than a parser would give them."""

import asyncio
import time

import pytest
import uvloop
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.inference.wire import known
from skyloom.inference.wire.bodies import ComingBody, FillingProtocol
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.messages import Head, Request, Response
from skyloom.inference.wire.site import Exchange
from skyloom.rooms.serving.plan import Limits
from tests.inference.wire.test_http2 import Line


class Gate:
    """Admits one token while it is good, and tells what it served."""

    def __init__(self) -> None:
        self.epoch = 0
        self.is_good = True
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self.waiting: list[tuple[Exchange, Response]] = []
        self.holds = False
        self.num_in_place = 0

    def admit(self, request: Request) -> Response | None:
        good = self.is_good and request.head.headers.get(b"authorization") == b"good"
        return None if good or request.head.target == b"/open" else Response(401, b"no")

    def serve(self, request: Request, exchange: Exchange) -> None:
        body = request.body if request.in_place is None else bytes(request.in_place)
        self.num_in_place += request.in_place is not None
        self.seen.append((request.head.method, request.head.target, body))
        response = Response(200, request.head.target + b"=" + body)
        if self.holds:
            self.waiting.append((exchange, response))
        else:
            exchange.answer(response)

    def listener(self, request: Request, exchange: object) -> None:
        return None

    def refusal(self, status: int, message: str) -> Response:
        return Response(status, message.encode())


class Caller:
    """One connection without a socket."""

    def __init__(self, group: Connections) -> None:
        self.group = group
        self.connection = group.accept()
        self.line = HalfLine()
        self.connection.connection_made(self.line)  # type: ignore[arg-type]

    def send(self, content: bytes) -> bytes:
        """As a socket gives it: to whichever protocol stands in, as much as that has room for."""
        before = len(self.line.written)
        while content:
            protocol = self.line.protocol
            if protocol is None:
                self.connection.data_received(content)
                break
            room = memoryview(protocol.get_buffer(-1))
            size = min(len(room), len(content))
            room[:size] = content[:size]
            protocol.buffer_updated(size)
            content = content[size:]
        return self.line.written[before:]


class HalfLine(Line):
    """A transport with what HTTP/1.1 asks of it besides."""

    paused = False
    protocol: FillingProtocol | None = None

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def set_protocol(self, protocol: FillingProtocol) -> None:
        self.protocol = protocol


HEAD = b"POST /a HTTP/1.1\r\nHost: here\r\nAuthorization: good\r\nContent-Length: 4\r\n\r\n"
OTHER = b"GET /open HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture
def group():
    return Connections(Gate(), Limits())


def test_token_taken_back_while_the_body_comes_is_not_remembered(group):
    caller = Caller(group)
    caller.send(HEAD)
    group.site.is_good = False
    group.site.epoch += 1
    Caller(group).send(OTHER)  # the memory learns of the new epoch
    caller.send(b"body")
    assert b" 401 " in Caller(group).send(HEAD + b"body")


def test_token_taken_back_is_refused_though_its_head_is_known(group):
    caller = Caller(group)
    assert b" 200 " in caller.send(HEAD + b"body")
    assert b" 200 " in caller.send(HEAD + b"body")
    group.site.is_good = False
    group.site.epoch += 1
    assert b" 401 " in caller.send(HEAD + b"body")


def test_heads_that_never_come_again_leave_room_for_those_that_do(group):
    caller = Caller(group)
    for number in range(1_000):
        caller.send(HEAD.replace(b"Host", b"X-Request-Id: %d\r\nHost" % number) + b"body")
    caller.send(HEAD + b"body")
    assert group.known.find(HEAD) is not None
    assert len(group.known._heads) <= 256


def test_nothing_is_served_behind_a_request_that_said_it_is_the_last(group):
    first = Caller(group)
    first.send(HEAD + b"body")
    group.site.holds = True
    first.send(HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"last")
    first.send(HEAD + b"more")
    assert [body for _, _, body in group.site.seen] == [b"body", b"last"]


@pytest.mark.parametrize("before", [b"G", b"\r", b"\n", b"PO", b"POST /a HTTP/1.1\r\n"])
def test_known_bytes_behind_the_beginning_of_a_message_are_read_as_its_rest(group, before):
    other = Connections(Gate(), Limits())
    caller, fresh = Caller(group), Caller(other)
    caller.send(HEAD + b"body")
    fresh.send(before + HEAD + b"more")
    caller.send(before)
    caller.send(HEAD + b"more")
    assert group.site.seen[1:] == other.site.seen
    assert caller.line.written.count(b" 400 ") == fresh.line.written.count(b" 400 ")


PIECES = [
    HEAD,
    HEAD + b"body",
    HEAD + b"GET ",
    HEAD + OTHER[:4],
    b"body",
    OTHER,
    OTHER + OTHER,
    b"\r\n",
    b"\n",
    b"G",
    HEAD.replace(b"\r\n", b"\n") + b"body",
    b"\r\n" + HEAD + b"body",
    HEAD.replace(b"good", b"evil") + b"body",
    HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n",
    HEAD.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n",
    HEAD.replace(b"Content-Length: 4", b"Content-Length: 0"),
    HEAD.replace(b"Host", b"Connection: close\r\nHost") + b"last",
    HEAD.replace(b"1.1", b"1.0") + b"body",
    HEAD.replace(b": good", b":\r\n good") + b"body",
    HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    HEAD[:30],
    HEAD[30:],
]


@tried(max_examples=300)
@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(b"".join), max_size=6), st.booleans())
def test_group_that_remembers_answers_what_one_that_does_not_answers(chunks, holds):
    answers = []
    for most in (2_048, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(known, "_MAX_KNOWN_BYTES", most)
            group = Connections(Gate(), Limits())
            Caller(group).send(HEAD + b"body")
            Caller(group).send(OTHER)
            group.site.holds = holds
            caller = Caller(group)
            for chunk in chunks:
                caller.send(chunk)
            for exchange, response in group.site.waiting:
                exchange.answer(response)
            answers.append((caller.line.written, group.site.seen))
            caller.connection.connection_lost(None)
            assert group.unread_bytes == 0
    assert answers[0] == answers[1]


@given(st.binary(min_size=1, max_size=20_000), st.lists(st.integers(1, 9_000), max_size=40), st.binary(max_size=30))
def test_body_in_any_parts_is_the_same_body_and_what_follows_is_left(body, sizes, behind):
    coming, sent, rest = ComingBody(Head(b"POST", b"/", {}), len(body)), body + behind, b""
    for size in [*sizes, len(sent)]:
        if coming.is_whole:
            break
        rest = coming.take(sent[:size])
        sent = sent[size:]
    assert coming.joined() == body
    assert rest + sent == behind


def test_body_in_many_small_parts_is_few_objects():
    coming = ComingBody(Head(b"POST", b"/", {}), 100_000)
    for _ in range(100_000):
        coming.take(b"x")
    assert coming.is_whole
    assert len(coming._parts) <= 2


def test_bodies_behind_known_heads_have_the_bounds_of_all_bodies():
    group = Connections(Gate(), Limits(max_unread_bytes=1_024, max_body_bytes=1_024))
    head = HEAD.replace(b"4\r\n", b"1000\r\n")
    first, second = Caller(group), Caller(group)
    first.send(head + bytes(1_000))
    first.send(head + bytes(600))
    assert group.unread_bytes == 600
    assert b" 429 " in second.send(head + bytes(600))
    first.connection.cut_if_late(time.monotonic() + 1e6)
    assert b" 408 " in first.line.written
    assert group.unread_bytes == 0
    assert len(group.site.seen) == 1


# -- bodies that lie in place -----------------------------------------------------------------------------------------------

SIZE = 200_000
BODY = bytes(range(250)) * (SIZE // 250)
LARGE = HEAD.replace(b"Content-Length: 4", b"Content-Length: %d" % SIZE)


def placed(head: Head, size: int) -> memoryview | None:
    return memoryview(bytearray(size)) if head.target == b"/a" else None


@tried(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=3), st.lists(st.integers(1, SIZE), max_size=5))
def test_body_in_place_is_the_same_wherever_it_is_cut(requests, sizes):
    async def send() -> Caller:
        caller = Caller(Connections(Gate(), Limits(), placed))
        caller.send(LARGE + BODY)
        sent = b"".join([LARGE + BODY if is_large else HEAD + b"body" for is_large in requests])
        for size in [*sizes, len(sent)]:
            caller.send(sent[:size])
            sent = sent[size:]
            while caller.line.paused:
                await asyncio.sleep(0)
        return caller

    caller = asyncio.run(send())
    assert [body for _, _, body in caller.group.site.seen[1:]] == [BODY if large else b"body" for large in requests]
    assert caller.line.written.count(b"HTTP/1.1 200") == 1 + len(requests)
    assert caller.group.unread_bytes == 0


def test_body_in_place_takes_its_room_only_when_a_part_of_it_is_there():
    rooms: list[int] = []

    def place(head: Head, size: int) -> memoryview:
        rooms.append(size)
        return memoryview(bytearray(size))

    group = Connections(Gate(), Limits(), place)
    caller = Caller(group)
    caller.send(LARGE + BODY)
    caller.send(LARGE + BODY[:10_000])
    assert rooms == []
    caller.send(BODY[10_000:20_000])
    assert rooms == [SIZE]
    caller.send(BODY[20_000:])
    assert group.site.num_in_place == 1
    assert group.site.seen[1] == group.site.seen[0]


def test_body_in_place_has_the_bounds_of_all_bodies_and_nothing_behind_a_refusal_is_believed():
    group = Connections(Gate(), Limits(max_unread_bytes=SIZE, max_body_bytes=SIZE), placed)
    first, second = Caller(group), Caller(group)
    first.send(LARGE + BODY)
    first.send(LARGE + BODY[:150_000])
    assert b" 429 " in second.send(LARGE + BODY[:60_000])
    assert second.send(BODY[60_000:] + LARGE + BODY) == b""
    first.connection.cut_if_late(time.monotonic() + 1e6)
    assert b" 408 " in first.line.written
    assert first.send(BODY[150_000:] + HEAD + b"body") == b""
    assert group.unread_bytes == 0
    assert len(group.site.seen) == 1


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_body_in_place_over_a_socket_is_what_was_sent_and_so_is_what_follows(new_loop):
    async def asked() -> tuple[Gate, bytes]:
        group = Connections(Gate(), Limits(), placed)
        server = await asyncio.get_running_loop().create_server(group.accept, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        answers = b""
        for content, size in ((LARGE + BODY, SIZE), (LARGE + BODY, SIZE), (HEAD + b"body", 4), (LARGE + BODY, SIZE)):
            writer.write(content[:50_000])
            await asyncio.sleep(0)
            while size == SIZE and not group.unread_bytes:
                await asyncio.sleep(0.001)
            writer.write(content[50_000:])
            answers += await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(size + 3)
        writer.write(LARGE + BODY[: SIZE // 2])
        await writer.drain()
        while not group.unread_bytes:
            await asyncio.sleep(0.001)
        writer.close()
        while group.open:
            await asyncio.sleep(0.001)
        assert group.unread_bytes == 0
        server.close()
        return group.site, answers

    with asyncio.Runner(loop_factory=new_loop) as runner:
        site, answers = runner.run(asked())
    assert [body for _, _, body in site.seen] == [BODY, BODY, b"body", BODY]
    assert site.num_in_place == 2
    assert answers.count(b"HTTP/1.1 200") == 4
