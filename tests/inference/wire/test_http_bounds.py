"""HTTP/1.1: what a client that asks much, takes nothing or sends crumbs may cost."""

import asyncio
import gc
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.inference.wire import known
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.messages import Response
from skyloom.rooms.serving.plan import Limits
from tests.inference.wire.test_known_heads import Caller, Gate

HEAD = b"Host: here\r\nAuthorization: good\r\n"
ASK = b"GET /large HTTP/1.1\r\n" + HEAD + b"\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Large(Gate):
    """Answers at once, and much."""

    def serve(self, request, exchange) -> None:
        self.seen.append((request.head.method, request.head.target, request.body))
        exchange.answer(Response(200, bytes(50_000)))


class Full(Caller):
    """A connection whose system takes 64 KiB and no more until it is told."""

    def __init__(self, group: Connections) -> None:
        super().__init__(group)
        self.held = self.num_answers = 0

        def keep(content: bytes) -> None:
            self.num_answers += content.count(b"HTTP/1.1 200")
            self.held += len(content)
            if self.held > 2**16:
                self.connection.pause_writing()

        self.line.write = keep  # type: ignore[method-assign]

    def take(self) -> None:
        self.held = 0
        self.connection.resume_writing()


def test_many_requests_in_one_read_are_answered_only_as_far_as_they_are_taken():
    async def play() -> tuple[int, int]:
        site = Large()
        caller = Full(Connections(site, Limits()))
        caller.connection.data_received(ASK * 3_000)
        first = len(site.seen)
        while len(site.seen) < 3_000:
            caller.take()
            await asyncio.sleep(0)
        return first, caller.num_answers

    first, answered = asyncio.run(play())
    assert first < 1_024 // len(ASK) + 2
    assert answered == 3_000


def test_connection_that_is_over_is_let_go_of_without_a_search_for_garbage():
    async def play() -> "weakref.ref[object]":
        caller = Caller(Connections(Large(), Limits()))
        caller.send(ASK)
        caller.connection.connection_lost(None)
        return weakref.ref(caller.connection)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(play())() is None
    finally:
        gc.enable()


def test_body_in_crumbs_is_refused_and_one_in_small_chunks_is_not():
    async def play(content: bytes) -> tuple[bytes, list]:
        site = Gate()
        caller = Caller(Connections(site, Limits()))
        caller.send(CHUNKED + content)
        while caller.connection._unparsed:
            await asyncio.sleep(0)
        return caller.line.written[:12], [body for _, _, body in site.seen]

    crumb = b"6\r\nabcdef\r\n"
    assert asyncio.run(play(crumb * 100_000)) == (b"HTTP/1.1 400", [])
    _, bodies = asyncio.run(play(crumb * 900 + b"0\r\n\r\n"))
    assert bodies == [b"abcdef" * 900]
    _, bodies = asyncio.run(play((b"40\r\n" + bytes(64) + b"\r\n") * 4_000 + b"0\r\n\r\n"))
    assert bodies == [bytes(256_000)]


def test_small_bodies_come_in_while_large_ones_hold_all_the_room():
    site = Gate()
    group = Connections(site, Limits(max_unread_bytes=2**20))
    beginning = b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Length: 800000\r\n\r\n" + bytes(700_000)
    holding, other, small = Caller(group), Caller(group), Caller(group)
    holding.send(beginning)
    assert b" 429 " in other.send(beginning)
    holding.send(b"x")
    other.connection.connection_lost(None)
    group.unread_bytes += 2**20  # as if more were coming in elsewhere
    said = small.send(b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\nab")
    said += small.send(b"cde")
    assert b" 200 " in said and site.seen[-1][2] == b"abcde"


def test_answer_that_is_owed_before_a_refusal_has_its_time():
    site = Gate()
    site.holds = True
    group = Connections(site, Limits(header_timeout_s=1.0))
    caller = Caller(group)
    caller.send(b"GET /one HTTP/1.1\r\n" + HEAD + b"\r\n")
    caller.send(b"GET /two HTTP/1.1\r\n" + HEAD + b"Content-Length: x\r\n\r\n")
    caller.connection.cut_if_late(time.monotonic() + 5.0)
    assert not caller.line.closed
    exchange, response = site.waiting[0]
    exchange.answer(response)
    assert b"/one=" in caller.line.written and b" 400 " in caller.line.written


def test_answer_in_parts_that_begins_when_its_client_has_left_keeps_nothing():
    site = Gate()
    site.holds = True
    caller = Caller(Connections(site, Limits()))
    caller.send(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
    ((turn, _),) = site.waiting
    caller.connection.connection_lost(None)
    turn.begin(Response(200))
    turn.push(bytes(2**20))
    assert turn.num_unsent == 0
    turn.finish()
    assert not caller.line.written


def idle_caller(**limits: float) -> Caller:
    group = Connections(Gate(), Limits(**limits))
    caller = Caller(group)
    caller.send(b"GET /x HTTP/1.1\r\n" + HEAD + b"\r\n")
    return caller


def test_idle_connection_that_does_not_take_the_last_bytes_is_cut_in_the_end():
    caller = idle_caller(idle_timeout_s=1.0, write_timeout_s=5.0)
    now = time.monotonic()
    caller.connection.cut_if_late(now + 2.0)
    assert caller.line.closed and not caller.line.aborted
    caller.connection.cut_if_late(now + 4.0)
    assert not caller.line.aborted, "it has its time"
    caller.connection.cut_if_late(now + 8.0)
    assert caller.line.aborted


def test_refusal_that_a_client_takes_slowly_has_its_time_while_we_leave():
    caller = idle_caller(write_timeout_s=20.0)
    caller.line.get_write_buffer_size = lambda: 1_000  # type: ignore[method-assign]
    caller.send(b"GET /x HTTP/1.1\r\nHost\r\n\r\n")
    assert b" 400 " in caller.line.written
    caller.group.drain()
    caller.connection.cut_if_late(time.monotonic() + 10.0)
    assert not caller.line.aborted
    caller.connection.cut_if_late(time.monotonic() + 21.0)
    assert caller.line.aborted


def test_idle_client_that_took_its_answer_late_is_let_go_in_a_moment_while_we_leave():
    caller = idle_caller()
    caller.connection.pause_writing()
    caller.group.drain()
    caller.connection.resume_writing()
    caller.connection.cut_if_late(time.monotonic() + 2.0)
    assert caller.line.closed


def test_client_that_comes_while_we_leave_is_let_go_in_a_moment():
    caller = idle_caller()
    caller.group.drain()
    late = Caller(caller.group)
    late.connection.cut_if_late(time.monotonic() + 2.0)
    assert late.line.closed


@pytest.mark.parametrize("count", [600])
def test_heads_that_differ_each_time_keep_out_none_that_come_again(count):
    group = Connections(Gate(), Limits())
    caller = Caller(group)
    for number in range(count):
        caller.send(b"GET /x HTTP/1.1\r\n" + HEAD + b"traceparent: %d\r\n\r\n" % number)
    again = b"GET /again HTTP/1.1\r\n" + HEAD + b"\r\n"
    caller.send(again)
    assert group.known.find(again) is not None
    assert len(group.known._heads) <= known._MAX_KNOWN


SIZES = st.sampled_from([0, 4, 1_000, 5_000, 20_000, 98_307])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=5), st.lists(st.integers(1, 70_000), max_size=12))
def test_bodies_are_the_same_however_their_bytes_are_cut(asked, sizes):
    bodies = [bytes(range(256)) * (size // 256 + 1) for size, _ in asked]
    bodies = [body[:size] for body, (size, _) in zip(bodies, asked, strict=True)]
    stream = b"".join(
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if is_chunked and body
        else b"POST /x HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for body, (_, is_chunked) in zip(bodies, asked, strict=True)
    )

    async def play() -> list[bytes]:
        site = Gate()
        caller = Caller(Connections(site, Limits()))
        left = stream
        for size in [*sizes, len(stream)]:
            while caller.line.paused:  # the system keeps what is not read
                await asyncio.sleep(0)
            part, left = left[:size], left[size:]
            if part:
                caller.connection.data_received(part)
        while caller.line.paused:
            await asyncio.sleep(0)
        return [body for _, _, body in site.seen]

    assert asyncio.run(play()) == bodies
