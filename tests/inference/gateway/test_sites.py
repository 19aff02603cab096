"""Who may pass: guards before anything may wait, in the words of both protocols. Heads only; no socket."""

import asyncio
import contextlib

import msgspec
import pytest

from skyloom.inference.access import AccessList
from skyloom.inference.gateway.sites import GateCalls, GateRest, RouteGate
from skyloom.inference.gateway.watching import is_known_service
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.messages import Head, Request
from skyloom.rooms.serving.plan import Limits
from tests.inference.gateway.gateways import make_route, share
from tests.inference.gateway.stand_ins import Bench, Caller, StandIn, in_parts
from tests.inference.serving import TOKEN, write_access

AUTH = {b"authorization": b"Bearer " + TOKEN.encode()}
REST = {b"host": b"localhost:80", b"content-type": b"application/json", **AUTH}
CALL = {b"content-type": b"application/grpc", **AUTH}
STREAM = b"/inference.GRPCInferenceService/ModelStreamInfer"
INFER, MODEL_INFER = b"/v2/models/toy/infer", b"/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def gate(tmp_path):
    write_access(tmp_path / "access.json", TOKEN)
    return RouteGate(Bench(make_route(share("rev_1"))).desk, AccessList(tmp_path / "access.json"))


@pytest.mark.parametrize(
    ("method", "target", "change", "status"),
    [
        (b"POST", INFER, {b"host": b"evil.example"}, 421),
        (b"POST", INFER, {b"host": b"localhost:x"}, 421),
        (b"POST", INFER, {b"host": None}, 421),
        (b"POST", INFER, {b"authorization": None}, 401),
        (b"POST", INFER, {b"authorization": b"Bearer wrong"}, 401),
        (b"GET", b"/metrics", {b"authorization": None}, 401),
        (b"GET", b"/v2/health/ready", {b"host": b"evil.example"}, 421),
        (b"POST", b"/v2/health/ready", {b"authorization": None}, 405),
        (b"HEAD", INFER, {}, 405),
        (b"DELETE", INFER, {}, 405),
        (b"CONNECT", INFER, {}, 405),
        (b"POST", INFER, {b"content-type": b"application/grpc"}, 415),
        (b"POST", INFER, {b"x-a": b"\x01"}, 400),
        (b"POST", b"*", {}, 400),
    ],
)
def test_what_may_not_pass_is_refused_before_it_may_wait(gate, method, target, change, status):
    headers = {name: value for name, value in {**REST, **change}.items() if value is not None}
    refusal = GateRest(gate).admit(Request(Head(method, target, headers)))
    assert refusal is not None and refusal.status == status
    told = msgspec.json.decode(refusal.body)
    assert told["error"] and told["code"] and told["category"]
    assert gate.desk.traffic(closes=False).arrived == 0


@pytest.mark.parametrize(
    ("method", "target", "change", "code"),
    [
        (b"POST", MODEL_INFER, {b"authorization": None}, b"16"),
        (b"POST", b"/grpc.health.v1.Health/check", {b"authorization": None}, b"16"),
        (b"POST", MODEL_INFER, {b"transfer-encoding:chunked": b""}, b"3"),
        (b"POST", MODEL_INFER, {b"x-a": b"\x01"}, b"3"),
        (b"POST", b"/a b", {}, b"3"),
        (b"GET", MODEL_INFER, {}, None),
        (b"POST", MODEL_INFER, {b"content-type": b"application/json"}, None),
    ],
)
def test_calls_that_may_not_pass_are_refused_in_grpcs_words(gate, method, target, change, code):
    headers = {name: value for name, value in {**CALL, **change}.items() if value is not None}
    refusal = GateCalls(gate, 4_096).admit(Request(Head(method, target, headers)))
    assert refusal is not None and dict(refusal.headers).get(b"grpc-status") == code
    assert refusal.status == (200 if code else 415)
    assert gate.desk.traffic(closes=False).arrived == 0


def test_request_that_waits_is_refused_when_its_token_is_taken_back_and_wakes_nobody(gate, tmp_path):
    other = b"Bearer other-token"
    write_access(tmp_path / "access.json", TOKEN, "other-token")
    gate.access.refresh()
    stays, call, asked = Caller(), Caller(), Caller()
    GateRest(gate).serve(Request(Head(b"POST", INFER, {**REST, b"authorization": other})), stays)
    GateRest(gate).serve(Request(Head(b"POST", INFER, REST)), asked)
    GateCalls(gate, 4_096).serve(Request(Head(b"POST", MODEL_INFER, CALL)), call)
    gate.look()
    assert gate.desk.num_held == 3
    write_access(tmp_path / "access.json", "other-token")
    gate.access.refresh()
    gate.look()
    assert asked.response.status == 401 and b"token_refused" in asked.response.body
    assert dict(call.response.headers)[b"grpc-status"] == b"16"
    told = gate.desk.traffic(closes=False)
    assert (stays.response, gate.desk.num_held, told.held) == (None, 1, 1)


def test_let_in_is_who_shows_a_token_and_health_is_free(gate):
    rest, calls = GateRest(gate), GateCalls(gate, 4_096)
    for method, target in ((b"POST", INFER), (b"GET", b"/v2"), (b"GET", b"/metrics")):
        assert rest.admit(Request(Head(method, target, REST))) is None
    assert rest.admit(Request(Head(b"GET", b"/v2/health/live", {b"host": b"[::1]:80"}))) is None
    assert calls.admit(Request(Head(b"POST", MODEL_INFER, CALL))) is None
    assert (
        calls.admit(Request(Head(b"POST", b"/grpc.health.v1.Health/Check", {b"content-type": b"application/grpc"})))
        is None
    )


def asked(calls: GateCalls, target: bytes, body: bytes = b"\0\0\0\0\0") -> Caller:
    request, caller = Request(Head(b"POST", target, CALL)), Caller()
    request.body = body
    calls.serve(request, caller)
    return caller


def test_health_is_the_gateways_own_and_wakes_nobody(gate):
    calls, rest = GateCalls(gate, 4_096), GateRest(gate)
    check = asked(calls, b"/grpc.health.v1.Health/Check")
    assert check.response.body == b"\0\0\0\0\x02\x08\x01" and dict(check.response.trailers)[b"grpc-status"] == b"0"
    unknown = asked(calls, b"/grpc.health.v1.Health/Check", b"\0\0\0\0\x05\x0a\x03abc")
    assert unknown.header(b"grpc-status") == b"5"
    watcher, left = asked(calls, b"/grpc.health.v1.Health/Watch"), asked(calls, b"/grpc.health.v1.Health/Watch")
    left.on_cut()
    ready = Caller()
    rest.serve(Request(Head(b"GET", b"/v2/health/ready", REST)), ready)
    assert ready.response.status == 200
    gate.is_draining = True
    calls.drain()
    assert watcher.parts == [b"\0\0\0\0\x02\x08\x02"] and watcher.is_whole and not left.is_whole
    again = Caller()
    rest.serve(Request(Head(b"GET", b"/v2/health/ready", REST)), again)
    assert again.response.status == 503
    assert asked(calls, b"/inference.GRPCInferenceService/ServerReady").header(b"grpc-status") == b"14"
    assert gate.desk.traffic(closes=False).arrived == 0


@pytest.mark.parametrize(
    ("message", "known"),
    [
        (b"", True),
        (b"\x0a\x00", True),
        (b"\x0a\x03toy", True),
        (b"\x0a\x22inference.GRPCInferenceService", False),
        (b"\x0a\x1einference.GRPCInferenceService", True),
        (b"\x0a\x03abc", False),
        (b"\x0a", False),
        (b"\x12\x03toy", False),
        (b"\x0a\xff" + b"a" * 300, False),
    ],
)
def test_service_of_a_health_question_is_read_without_protobuf(message, known):
    assert is_known_service(b"\0\0\0\0" + bytes((len(message) & 0xFF,)) + message, "toy") is known


def test_parts_reach_a_client_of_http_and_a_broken_end_is_no_end(gate):
    async def talk(port: int, content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v2/x HTTP/1.1\r\nhost: localhost\r\nauthorization: %b\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (AUTH[b"authorization"], len(content)) + content)
        got = await reader.readuntil(b"two\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError):
            got += await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        return got

    async def run() -> tuple[bytes, bytes]:
        replica = await StandIn(in_parts).start()
        gate.desk.update(make_route(share("rev_1", replica.backend)))
        connections = Connections(GateRest(gate), Limits())
        server = await asyncio.get_running_loop().create_server(connections.accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        answers = await talk(port, b"all"), await talk(port, b"break")
        server.close()
        await replica.kill()
        return answers

    whole, broken = asyncio.run(asyncio.wait_for(run(), 20))
    for answer in (whole, broken):
        assert (
            b"transfer-encoding: chunked" in answer and b"text/event-stream" in answer and b"x-request-id: " in answer
        )
        assert b"3\r\none\r\n3\r\ntwo\r\n" in answer
    assert whole.endswith(b"0\r\n\r\n") and not broken.endswith(b"0\r\n\r\n")


def test_stream_whose_token_is_taken_back_ends_with_what_it_asked_and_others_go_on(tmp_path):
    path = tmp_path / "access.json"
    write_access(path, TOKEN, "other")

    async def play() -> tuple[Caller, Caller, int]:
        gate = RouteGate(Bench(make_route(share("rev_1"))).desk, AccessList(path))
        calls, callers = GateCalls(gate, 1_000), (Caller(), Caller())
        for caller, token in zip(callers, (TOKEN, "other"), strict=True):
            head = Head(b"POST", STREAM, {**CALL, b"authorization": b"Bearer " + token.encode()})
            talk = calls.listener(Request(head), caller)
            talk.heard(b"\0\0\0\0\1a")  # it waits: there is no replica
        calls.look()
        before = gate.desk.num_held
        write_access(path, "other")
        gate.access.refresh()
        calls.look()
        return (*callers, before - gate.desk.num_held)

    ended, other, given_up = asyncio.run(play())
    assert (dict(ended.trailers)[b"grpc-status"], given_up) == (b"16", 1)
    assert not other.is_whole


def test_another_list_of_tokens_makes_the_epoch_grow(gate, tmp_path):
    write_access(tmp_path / "other.json", "another")
    before = gate.epoch
    gate.access.version = 50
    middle = gate.epoch
    gate.update(AccessList(tmp_path / "other.json"))
    assert before < middle < gate.epoch
    assert GateRest(gate).admit(Request(Head(b"POST", INFER, REST))).status == 401
