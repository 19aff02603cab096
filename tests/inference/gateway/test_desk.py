"""One endpoint's requests among replicas that come, go, fail and stay silent. All inside of one loop."""

import asyncio
import functools

import msgspec
import pytest

from skyloom.inference.wire.messages import Head
from skyloom.rooms.serving.routes import Shadow
from tests.inference.gateway.gateways import backend, make_route, share
from tests.inference.gateway.stand_ins import POST, StandIn, bench, echo, in_parts, say, until
from tests.inference.serving import free_port, small_limits


def looped(test):
    """Run an async test on a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def reset(kills=None):
    """Answer nothing: reset the connection."""

    async def answering(body, writer):
        if kills is None or body in kills:
            writer.transport.abort()
            raise ConnectionResetError
        await echo(body, writer)

    return answering


def status_only(status: int, body: bytes = b"{}"):
    async def answering(_, writer):
        await say(writer, status, body)

    return answering


class Gated:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, body, writer):
        await self.open.wait()
        await echo(body, writer)


@looped
async def test_answer_is_the_replicas_own_and_has_a_request_id():
    async def answering(body, writer):
        await say(
            writer, 200, body, b"skyloom-prediction-id: pred_1", b"connection: keep-alive", b"x-request-id: theirs"
        )

    replica = await StandIn(answering).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        first, second = await made.ask(b"one"), await made.ask(b"two")
        assert (first.response.status, first.response.body, second.response.body) == (200, b"one", b"two")
        assert first.header(b"skyloom-prediction-id") == b"pred_1" and first.header(b"connection") is None
        assert first.header(b"x-request-id") not in (None, b"theirs", second.header(b"x-request-id"))
        head = POST._replace(headers={**POST.headers, b"x-request-id": b"mine", b"authorization": b"Bearer t"})
        third = await made.ask(b"three", head)
        assert third.header(b"x-request-id") == b"mine"
        assert b"x-request-id: mine\r\n" in replica.heads[-1] and b"authorization: Bearer t\r\n" in replica.heads[-1]
        told = made.traffic()
        assert (told.arrived, told.revisions["rev_1"].requests) == (3, 3)
    await replica.kill()


@looped
async def test_requests_wait_in_their_order_and_go_when_a_replica_appears():
    replica = await StandIn(echo).start()
    route = make_route(share("rev_1"), max_in_flight=1)
    async with bench(route) as made:
        callers = [made.send(b"%d" % number) for number in range(20)]
        await until(lambda: made.traffic().oldest_held_s > 0.02)
        told = made.traffic()
        assert (told.held, told.in_flight, made.wakes) == (20, 0, 20)
        made.desk.update(msgspec.structs.replace(route, shares=(share("rev_1", replica.backend),)))
        assert [(await caller.wait()).status for caller in callers] == [200] * 20
        assert replica.seen == [b"%d" % number for number in range(20)]
        assert made.traffic().queue_delay_s > 0.01
    await replica.kill()


@looped
async def test_who_is_one_too_many_gets_429_and_who_waits_too_long_503_with_retry_after():
    async with bench(make_route(share("rev_1"), max_held=2, hold_s=0.1)) as made:
        waiting, extra = [made.send(), made.send()], made.send()
        assert (extra.response.status, extra.header(b"retry-after")) == (429, b"1")
        assert b"too_many_held" in extra.response.body
        for caller in waiting:
            assert ((await caller.wait()).status, caller.header(b"retry-after")) == (503, b"1")
        assert made.traffic().revisions["rev_1"].server_errors == 2


@looped
async def test_bytes_that_wait_are_bounded_too():
    route = make_route(share("rev_1"), hold_s=0.05)
    async with bench(route, small_limits(max_queue_bytes=10_000)) as made:
        waiting = [made.send(b"x" * 4_000), made.send(b"x" * 4_000)]
        assert made.send(b"x" * 4_000).response.status == 429
        small = made.send(b"x" * 1_000)
        assert small.response is None
        await asyncio.gather(*(caller.wait() for caller in (*waiting, small)))


@looped
async def test_client_that_leaves_leaves_the_queue_and_its_replica_is_told():
    gated = Gated()
    replica = await StandIn(gated).start()
    route = make_route(share("rev_1", replica.backend), max_in_flight=1)
    async with bench(route) as made:
        running, waiting, last = (made.send(name) for name in (b"running", b"waiting", b"last"))
        await until(lambda: replica.seen == [b"running"])
        assert (made.traffic().held, made.traffic().in_flight) == (2, 1)
        waiting.on_cut()
        assert made.traffic().held == 1
        running.on_cut()  # the next one goes on a connection of its own
        await until(lambda: replica.num_closed == 1)
        gated.open.set()
        assert (await last.wait()).body == b"last"
        assert replica.seen == [b"running", b"last"]
        assert running.response is waiting.response is None
    await replica.kill()


@looped
async def test_answer_that_nobody_waited_for_counts_with_the_time_it_took_at_least():
    gated = Gated()
    replica = await StandIn(gated).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = made.send(b"slow")
        await until(lambda: replica.seen == [b"slow"])
        caller.on_cut()
        (seen,) = made.traffic().revisions.values()
        assert (seen.requests, seen.client_errors, seen.server_errors) == (1, 1, 0)
        assert sum(seen.latency.counts.values()) == 1
    await replica.kill()


@looped
async def test_small_one_does_not_overtake_a_large_one_that_waits():
    gated = Gated()
    replica = await StandIn(gated).start()
    async with bench(make_route(share("rev_1", replica.backend)), small_limits(max_queue_bytes=10_000)) as made:
        callers = [made.send(b"x" * 6_000), made.send(b"y" * 6_000), made.send(b"z")]
        await until(lambda: len(replica.seen) == 1)
        assert made.traffic().held == 2, "the large one does not fit beside the first, and the small one came later"
        gated.open.set()
        await asyncio.gather(*(caller.wait() for caller in callers))
        assert [body[:1] for body in replica.seen] == [b"x", b"y", b"z"]
    await replica.kill()


@looped
async def test_replica_gets_no_more_than_its_part_and_busy_ones_make_wait_then_429():
    gated = Gated()
    replica = await StandIn(gated).start()
    async with bench(make_route(share("rev_1", replica.backend), max_in_flight=3, hold_s=0.1)) as made:
        callers = [made.send(b"%d" % number) for number in range(5)]
        await until(lambda: len(replica.seen) == 3)
        for caller in callers[3:]:
            assert (await caller.wait()).status == 429
            assert b"all_busy" in caller.response.body and caller.header(b"retry-after") == b"1"
        assert len(replica.seen) == 3
        gated.open.set()
        for caller in callers[:3]:
            assert (await caller.wait()).status == 200
    await replica.kill()


@looped
async def test_lost_request_is_sent_to_another_replica():
    bad, good = await StandIn(reset()).start(), await StandIn(echo).start()
    async with bench(make_route(share("rev_1", bad.backend, good.backend))) as made:
        for number in range(10):
            assert (await made.ask(b"%d" % number)).response.body == b"%d" % number
        assert sorted(good.seen) == sorted(b"%d" % number for number in range(10))
        assert len(bad.seen) == 5, "five in a row leave it out"
    await bad.kill()
    await good.kill()


@looped
async def test_lost_request_to_somebodys_own_endpoint_is_not_sent_again():
    bad, good = await StandIn(reset()).start(), await StandIn(echo).start()
    async with bench(make_route(share("rev_1", bad.backend, good.backend))) as made:
        head = POST._replace(target=b"/pay")
        statuses = [(await made.ask(b"%d" % number, head)).response.status for number in range(4)]
        assert sorted(bad.seen + good.seen) == sorted(b"%d" % number for number in range(4)), "each was sent once"
        assert sorted(set(statuses)) == [200, 503]
    await bad.kill()
    await good.kill()


@looped
async def test_draining_replica_is_passed_over():
    async def draining(_, writer):
        await say(writer, 503, b'{"code":"replica_draining"}', b"retry-after: 1", b"connection: close")

    leaves, stays = await StandIn(draining).start(), await StandIn(echo).start()
    async with bench(make_route(share("rev_1", leaves.backend, stays.backend))) as made:
        assert [(await made.ask()).response.status for _ in range(20)] == [200] * 20
        assert len(leaves.seen) < 5, "it rests"
    await leaves.kill()
    await stays.kill()


@looped
async def test_error_of_the_model_is_passed_on_and_not_tried_again():
    replica = await StandIn(status_only(500, b'{"error":"mine"}')).start()
    other = await StandIn(status_only(500, b'{"error":"mine"}')).start()
    async with bench(make_route(share("rev_1", replica.backend, other.backend))) as made:
        caller = await made.ask()
        assert (caller.response.status, caller.response.body) == (500, b'{"error":"mine"}')
        assert len(replica.seen) + len(other.seen) == 1
    await replica.kill()
    await other.kill()


@looped
async def test_retries_end_with_their_budget_and_with_their_number():
    replicas = [await StandIn(reset()).start() for _ in range(4)]
    async with bench(make_route(share("rev_1", *(each.backend for each in replicas)))) as made:
        callers = [await made.ask() for _ in range(60)]
        assert {caller.response.status for caller in callers} == {503}
        num_sent = sum(len(each.seen) for each in replicas)
        assert 60 < num_sent <= 60 + 10 + 60 * 0.2 + 1
        assert b"replica_lost" in callers[-1].response.body
    for each in replicas:
        await each.kill()


@looped
async def test_one_request_is_sent_three_times_at_most():
    replicas = [await StandIn(reset(kills=(b"bad",))).start() for _ in range(5)]
    async with bench(make_route(share("rev_1", *(each.backend for each in replicas)))) as made:
        for _ in range(50):
            await made.ask(b"good")
        assert (await made.ask(b"bad")).response.status == 503
        assert [each.seen.count(b"bad") for each in replicas].count(1) == 3
        assert sum(each.seen.count(b"bad") for each in replicas) == 3
    for each in replicas:
        await each.kill()


@looped
async def test_lone_replica_that_dies_and_is_replaced_loses_nothing():
    gated = Gated()
    first, second = await StandIn(gated).start(), await StandIn(echo).start()
    route = make_route(share("rev_1", first.backend), max_in_flight=4)
    async with bench(route) as made:
        callers = [made.send(b"%d" % number) for number in range(8)]
        await until(lambda: len(first.seen) == 4)
        await first.kill()
        await until(lambda: made.traffic().held == 8 and made.traffic().in_flight == 0)
        made.desk.update(msgspec.structs.replace(route, shares=(share("rev_1", second.backend),)))
        for caller in callers:
            assert (await caller.wait()).status == 200
        assert sorted(second.seen) == [b"%d" % number for number in range(8)]


@looped
async def test_replica_that_is_not_there_yet_is_waited_for():
    port = free_port()
    async with bench(make_route(share("rev_1", backend(port)))) as made:
        caller = made.send(b"early")
        await until(lambda: made.traffic().held == 1)
        replica = await StandIn(echo).start(port)
        assert (await caller.wait()).body == b"early"
    await replica.kill()


@looped
async def test_connections_that_never_came_about_are_no_tries():
    async def answering(body, writer):
        await (echo if len(replica.seen) == 3 else reset())(body, writer)

    replica = await StandIn(answering).start()
    route = make_route(share("rev_1", *(backend(free_port(), f"rep_{n}") for n in range(3))))
    async with bench(route) as made:
        caller = made.send(b"one")
        await until(lambda: made.traffic().held == 1)  # all three were tried
        made.desk.update(msgspec.structs.replace(route, shares=(share("rev_1", replica.backend),)))
        assert (await caller.wait()).status == 200
    await replica.kill()


@looped
async def test_silent_replica_is_given_up():
    replica = await StandIn(Gated()).start()
    async with bench(make_route(share("rev_1", replica.backend)), small_limits(timeout_s=0.02)) as made:
        caller = await made.ask()
        assert caller.response.status == 503 and b"replica_silent" in caller.response.body
    await replica.kill()


@looped
async def test_replica_that_left_the_table_finishes_what_it_has():
    gated = Gated()
    old, new = await StandIn(gated).start(), await StandIn(echo).start()
    route = make_route(share("rev_1", old.backend))
    async with bench(route) as made:
        caller = made.send(b"old")
        await until(lambda: old.seen == [b"old"])
        made.desk.update(msgspec.structs.replace(route, shares=(share("rev_2", new.backend, number=2),)))
        assert (await made.ask(b"new")).response.body == b"new"
        gated.open.set()
        assert (await caller.wait()).body == b"old"
        assert new.seen == [b"new"]
    await old.kill()
    await new.kill()


@looped
async def test_those_who_wait_follow_the_table():
    new = await StandIn(echo).start()
    route = make_route(share("rev_1"))
    async with bench(route) as made:
        callers = [made.send(b"%d" % number) for number in range(5)]
        shares = (share("rev_1", weight=0.0), share("rev_2", new.backend, number=2))
        made.desk.update(msgspec.structs.replace(route, shares=shares))
        assert [(await caller.wait()).status for caller in callers] == [200] * 5
        assert new.seen == [b"%d" % number for number in range(5)]
    await new.kill()


@looped
async def test_weights_hold_over_many_requests():
    replicas = [await StandIn(echo).start() for _ in range(2)]
    shares = [
        share(f"rev_{n}", each.backend, weight=w, number=n + 1)
        for n, (each, w) in enumerate(zip(replicas, (9, 1), strict=True))
    ]
    async with bench(make_route(*shares)) as made:
        callers = [made.send() for _ in range(600)]
        await asyncio.gather(*(caller.wait() for caller in callers))
        assert abs(len(replicas[1].seen) - 60) < 4 * (600 * 0.1 * 0.9) ** 0.5
    for each in replicas:
        await each.kill()


@looped
async def test_shadow_sees_copies_and_nobody_waits_for_it():
    main, hung = await StandIn(echo).start(), await StandIn(Gated()).start()
    shares = (share("rev_1", main.backend), share("rev_2", hung.backend, weight=0.0, number=2))
    route = make_route(*shares, shadows=(Shadow(revision="rev_2"), Shadow(revision="rev_9")))
    async with bench(route) as made:
        for number in range(200):
            assert (await made.ask(b"%d" % number)).response.status == 200
        await until(lambda: len(hung.seen) == 64)
        assert made.traffic().in_flight == 0, "copies are counted apart"
        await hung.kill()
        await until(lambda: made.traffic().shadows["rev_2"].requests > 0)
        told = made.traffic()
        assert told.revisions["rev_1"].server_errors == 0
        assert told.shadows["rev_2"].requests == told.shadows["rev_2"].server_errors == 64
    await main.kill()


@looped
async def test_shadow_answers_are_thrown_away():
    main, copy = await StandIn(echo).start(), await StandIn(status_only(500)).start()
    shares = (share("rev_1", main.backend), share("rev_2", copy.backend, weight=0.0, number=2))
    async with bench(make_route(*shares, shadows=(Shadow(revision="rev_2", fraction=0.5),))) as made:
        for number in range(100):
            assert (await made.ask(b"%d" % number)).response.body == b"%d" % number
        await until(lambda: made.traffic().shadows["rev_2"].requests == len(copy.seen))
        assert 25 < len(copy.seen) < 75 and set(copy.seen) <= set(main.seen)
        assert (await made.ask(b"", Head(b"GET", b"/v2", {}))).response.status == 200
        assert b"" not in copy.seen
    await main.kill()
    await copy.kill()


@looped
async def test_parts_are_passed_on_as_they_come_and_a_broken_end_is_no_end():
    replica = await StandIn(in_parts).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = await made.ask()
        assert (caller.response.status, caller.response.content_type) == (200, b"text/event-stream")
        assert b"".join(caller.parts) == b"onetwo" and caller.is_whole
        broken = await made.ask(b"break")
        assert b"".join(broken.parts) == b"onetwo" and broken.is_broken and not broken.is_whole
        assert len(replica.seen) == 2, "what was begun is not sent again"
    await replica.kill()


@looped
async def test_slow_reader_of_parts_holds_up_its_replica_and_no_memory():
    async def endless(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(400):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    replica = await StandIn(endless).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = made.send()
        caller.num_unsent = 2**20
        await until(lambda: bool(caller.parts))
        seen = -1
        while seen != len(caller.parts):  # until nothing more comes
            seen = len(caller.parts)
            await asyncio.sleep(0.05)
        assert sum(map(len, caller.parts)) < 2**21
        caller.num_unsent = 0
        caller.on_room()
        await caller.wait()
        assert sum(map(len, caller.parts)) == 400 * 65_536
    await replica.kill()


@looped
async def test_long_answer_is_passed_on_in_parts_and_a_slow_reader_of_it_costs_little():
    async def long(body: bytes, writer: asyncio.StreamWriter) -> None:
        await say(writer, 200, b"x" * 2**24, b"inference-header-content-length: 7")
        await writer.drain()

    replica = await StandIn(long).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = made.send()
        caller.num_unsent = 2**30  # it takes nothing
        await until(lambda: len(caller.parts) > 0)
        await asyncio.sleep(0.05)
        assert sum(map(len, caller.parts)) < 2**20 and not caller.is_whole
        assert caller.header(b"inference-header-content-length") == b"7" and caller.header(b"content-length") is None
        caller.num_unsent = 0
        caller.on_room()
        await caller.wait()
        assert b"".join(caller.parts) == b"x" * 2**24
    await replica.kill()


@looped
async def test_call_has_its_status_behind_the_message_and_its_deadline_is_kept():
    async def called(body, writer):
        await say(writer, 200, b"\x00\x00\x00\x00\x01x", b"grpc-status: 0", b"skyloom-prediction-id: pred_1")

    replica = await StandIn(called).start()
    head = Head(b"POST", b"/inference.GRPCInferenceService/ModelInfer", {b"content-type": b"application/grpc"})
    late = head._replace(headers={**head.headers, b"grpc-timeout": b"50m"})
    route = make_route(share("rev_1", replica.backend))
    async with bench(route) as made:
        answer = (await made.ask(b"q", head, is_call=True)).response
        assert dict(answer.trailers) == {b"grpc-status": b"0", b"skyloom-prediction-id": b"pred_1"}
        made.desk.update(msgspec.structs.replace(route, shares=(share("rev_1"),)))
        caller = await made.ask(b"q", late, is_call=True)
        assert caller.header(b"grpc-status") == b"4", "its deadline, not our patience"
    await replica.kill()


@looped
async def test_answer_without_a_grpc_status_is_unavailable_or_internal():
    replica = await StandIn(status_only(431)).start()
    head = Head(b"POST", b"/a/b", {b"content-type": b"application/grpc"})
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = await made.ask(b"q", head, is_call=True)
        assert (caller.response.status, caller.header(b"grpc-status")) == (200, b"8")
    await replica.kill()


@looped
async def test_calls_answer_that_is_too_large_is_refused_and_its_connection_closed():
    async def large(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1_600):
            writer.write(b"x" * 65_536)
            await writer.drain()

    replica = await StandIn(large).start()
    async with bench(make_route(share("rev_1", replica.backend))) as made:
        caller = await made.ask(is_call=True)
        assert caller.header(b"grpc-status") == b"13" and b"too large" in caller.header(b"grpc-message")
    await replica.kill()


@pytest.mark.parametrize(
    "noise", [b"\x00\x01\x02", b"HTTP/1.1 99999 X\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"]
)
@looped
async def test_replica_that_does_not_speak_http_is_as_good_as_lost(noise):
    async def answering(_, writer):
        writer.write(noise)

    bad, good = await StandIn(answering).start(), await StandIn(echo).start()
    async with bench(make_route(share("rev_1", bad.backend, good.backend))) as made:
        assert [(await made.ask()).response.status for _ in range(6)] == [200] * 6
    await bad.kill()
    await good.kill()


@looped
async def test_closed_desk_answers_those_who_wait():
    async with bench(make_route(share("rev_1"))) as made:
        waiting = made.send()
        made.desk.close()
        assert (await waiting.wait()).status == 503 and b"gateway_draining" in waiting.response.body
        assert made.send().response.status == 503
