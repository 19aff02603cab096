"""Heads that are remembered: bytes that were admitted once get no more by it than a parser would give them."""

import time

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.inference.wire import known
from skyloom.inference.wire.bodies import ComingBody
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

    def admit(self, request: Request) -> Response | None:
        good = self.is_good and request.head.headers.get(b"authorization") == b"good"
        return None if good or request.head.target == b"/open" else Response(401, b"no")

    def serve(self, request: Request, exchange: Exchange) -> None:
        self.seen.append((request.head.method, request.head.target, request.body))
        response = Response(200, request.head.target + b"=" + request.body)
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
        self.connection = group.accept()
        self.line = HalfLine()
        self.connection.connection_made(self.line)  # type: ignore[arg-type]

    def send(self, content: bytes) -> bytes:
        before = len(self.line.written)
        self.connection.data_received(content)
        return self.line.written[before:]


class HalfLine(Line):
    """A transport with what HTTP/1.1 asks of it besides."""

    paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...


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
