"""Streams of messages: each asked by itself, in order, bounded, and over when it should be."""

import asyncio
import time

from skyloom.inference.gateway.relay import Relay
from skyloom.inference.wire.messages import Head
from tests.inference.gateway.gateways import make_route, share
from tests.inference.gateway.stand_ins import Bench, Caller, StandIn, bench, say, until
from tests.inference.gateway.test_desk import Gated, looped

HEAD = Head(b"POST", b"/inference.GRPCInferenceService/ModelStreamInfer", {b"content-type": b"application/grpc"})


def message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


def relayed(made: Bench, over: list[Relay] | None = None) -> tuple[Relay, Caller]:
    caller = Caller()
    gone = [] if over is None else over
    return Relay(made.desk, HEAD, caller, 100, time.perf_counter, gone.append), caller


async def called(body, writer):
    await say(writer, 200, body, b"grpc-status: 0")


async def called_in_parts(body, writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in (body, body):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
    writer.write(b"0\r\ngrpc-status: %b\r\n\r\n" % (b"3" if b"bad" in body else b"0"))


@looped
async def test_messages_in_any_cut_are_asked_and_answered_in_order():
    replica = await StandIn(called).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made)
        for byte in b"".join(message(b"%d" % number) for number in range(10)):
            relay.heard(bytes((byte,)))
        relay.heard_all()
        await caller.wait()
        assert caller.parts == [message(b"%d" % number) for number in range(10)]
        assert sorted(replica.seen) == caller.parts
        assert caller.trailers == ((b"grpc-status", b"0"),)
    await replica.kill()


@looped
async def test_answers_in_parts_are_one_answer_and_a_bad_status_ends_the_stream():
    replica, over = await StandIn(called_in_parts).start(), []
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made, over)
        relay.heard(message(b"a") + message(b"bad") + message(b"never"))
        await caller.wait()
        assert caller.parts == [message(b"a")] * 2 + [message(b"bad")] * 2
        assert dict(caller.trailers)[b"grpc-status"] == b"3" and over == [relay]
        assert made.traffic().in_flight == 0, "what was asked after it is waited for no more"
    await replica.kill()


@looped
async def test_message_that_is_too_long_or_cut_off_is_refused():
    async with bench(make_route(share("rev_1"))) as made:
        for content in (b"\0\0\0\1\0", b"\2\0\0\0\0", b"\0\0\0"):
            relay, caller = relayed(made)
            relay.heard(content)
            relay.heard_all()
            await caller.wait()
            assert dict(caller.trailers)[b"grpc-status"] == b"3"
        assert made.traffic().arrived == 0


@looped
async def test_sender_that_is_too_fast_has_to_wait_and_one_that_leaves_is_forgotten():
    gated, over = Gated(), []
    replica = await StandIn(gated).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made, over)
        relay.heard(b"".join(message(b"x") for _ in range(23)))
        assert relay.wants_more
        relay.heard(b"".join(message(b"x") for _ in range(15)))
        assert not relay.wants_more and relay.num_kept == 30 * 6, "eight are asked at a time"
        await until(lambda: len(replica.seen) == 8)
        caller.on_cut()
        assert (over, relay.num_kept, made.traffic().in_flight) == ([relay], 0, 0)
        relay.heard(message(b"x"))
        await asyncio.sleep(0)
        assert made.traffic().in_flight == 0
    await replica.kill()


@looped
async def test_answers_that_come_early_wait_for_their_turn_and_hold_up_the_asking():
    """The first message is answered last. What comes before it is kept, and once that is much, no more is asked."""
    first, large = asyncio.Event(), message(b"l" * 200_000)

    async def answering(body, writer):
        if body == message(b"first"):
            await first.wait()
            await say(writer, 200, body, b"grpc-status: 0")
        else:
            await say(writer, 200, large, b"grpc-status: 0")

    replica = await StandIn(answering).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made)
        relay.heard(message(b"first") + message(b"x") * 14)
        relay.heard_all()
        await until(lambda: relay.num_kept > 7 * len(large))
        assert len(replica.seen) == 8 and caller.parts == []
        first.set()
        await caller.wait()
        assert caller.parts == [message(b"first"), *[large] * 14]
        assert caller.trailers == ((b"grpc-status", b"0"),)
    await replica.kill()


@looped
async def test_parts_of_a_later_answer_are_kept_and_go_on_when_it_is_their_turn():
    first, part = asyncio.Event(), b"p" * 100_000

    async def answering(body, writer):
        if body == message(b"first"):
            await first.wait()
            await say(writer, 200, body, b"grpc-status: 0")
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(40):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        writer.write(b"0\r\ngrpc-status: 0\r\n\r\n")

    replica = await StandIn(answering).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made)
        relay.heard(message(b"first") + message(b"parts"))
        relay.heard_all()
        await until(lambda: relay.num_kept > 2**18)
        await asyncio.sleep(0.05)
        assert relay.num_kept < 2**21, "its replica waits"
        first.set()
        await caller.wait()
        assert b"".join(caller.parts) == message(b"first") + part * 40
    await replica.kill()


@looped
async def test_stopped_stream_finishes_what_was_asked():
    replica = await StandIn(called).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        relay, caller = relayed(made)
        relay.heard(b"".join(message(b"%d" % number) for number in range(12)))
        relay.stop()
        await caller.wait()
        assert (
            caller.parts == [message(b"%d" % number) for number in range(8)]
            and dict(caller.trailers)[b"grpc-status"] == b"14"
        )
    await replica.kill()
