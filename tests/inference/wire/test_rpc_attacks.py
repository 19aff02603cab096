"""gRPC calls that mean harm, against a real replica process over raw frames; and what a draining replica says to those who wait."""

import gzip
import signal
import socket

import grpc
import hpack
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skyloom.inference.wire.frames import PREFACE, Flag, FrameKind, Http2Setting, Splitter, frame, settings
from skyloom.inference.wire.grpc_streams import _MAX_WATCHERS
from tests.inference.serving import TOKEN, running

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
INFER = "/inference.GRPCInferenceService/ModelInfer"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
EMPTY = b"\0\0\0\0\0"


class RawCaller:
    """An HTTP/2 client of a real replica that sends what it is told."""

    def __init__(self, port: int) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.splitter = Splitter(2**24)
        self.link.sendall(PREFACE + settings({Http2Setting.INITIAL_WINDOW_SIZE: 2**20}))

    def __enter__(self) -> "RawCaller":
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def fields(self, path: str, *more: tuple[str, str]) -> bytes:
        usual = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
        return self.encoder.encode([*usual, ("te", "trailers"), *more])

    def call(self, number: int, path: str, body: bytes, *more: tuple[str, str]) -> None:
        head = frame(FrameKind.HEADERS, Flag.END_HEADERS, number, self.fields(path, *more))
        self.link.sendall(head + frame(FrameKind.DATA, Flag.END_STREAM, number, body))

    def statuses(self, count: int) -> dict[int, str]:
        """The gRPC status of the next ``count`` streams that end."""
        ended: dict[int, str] = {}
        while len(ended) < count:
            part = self.link.recv(65_536)
            assert part, ended
            for each in self.splitter.feed(part):
                if each.kind == FrameKind.HEADERS:
                    fields = dict(self.decoder.decode(each.payload))
                    if each.flags & Flag.END_STREAM:
                        ended[each.stream] = fields["grpc-status"]
        return ended


def packed(content: bytes) -> bytes:
    made = gzip.compress(content)
    return b"\x01" + len(made).to_bytes(4, "big") + made


def test_bomb_to_a_method_that_needs_no_token_is_refused_early(served):
    with RawCaller(served[2].grpc_port) as caller:
        caller.call(1, CHECK, packed(bytes(2**24)), ("grpc-encoding", "gzip"))
        caller.call(3, CHECK, b"\0" + (2**17).to_bytes(4, "big") + bytes(2**17))
        caller.call(5, CHECK, packed(b""), ("grpc-encoding", "gzip"))
        caller.call(7, CHECK, packed(b""), ("grpc-encoding", "br"))
        assert caller.statuses(4) == {1: "8", 3: "8", 5: "0", 7: "12"}


def test_tokens_twice_wrong_or_missing_open_no_method(served):
    good, bad = ("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")
    with RawCaller(served[2].grpc_port) as caller:
        number = 1
        for path in (INFER, REFLECT, "/inference.GRPCInferenceService/ServerMetadata"):
            for shown in ((), (bad,), (good, good), (good, bad), (bad, good)):
                caller.link.sendall(
                    frame(FrameKind.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, number, caller.fields(path, *shown))
                )
                assert caller.statuses(1) == {number: "16"}
                number += 2


def test_message_of_a_hopeless_name_is_answered_within_a_clients_bounds(served):
    with RawCaller(served[2].grpc_port) as caller:
        caller.call(1, "/" + "\u00e4" * 1_500, EMPTY, ("authorization", f"Bearer {TOKEN}"))
        assert caller.statuses(1) == {1: "12"}


def test_watchers_have_a_bound_and_leave_their_places(tmp_path):
    with running(tmp_path) as (process, _, listening):
        port = listening.grpc_port
        callers = [RawCaller(port) for _ in range(_MAX_WATCHERS // 256)]
        for caller in callers:
            for number in range(1, 512, 2):
                caller.call(number, WATCH, EMPTY)
        for caller in callers:  # each is answered in order: when a ping comes back, all are in
            caller.link.sendall(frame(FrameKind.PING, 0, 0, bytes(8)))
            while not any(each.kind == FrameKind.PING for each in caller.splitter.feed(caller.link.recv(65_536))):
                pass
        with RawCaller(port) as late:
            late.call(1, WATCH, EMPTY)
            assert late.statuses(1) == {1: "8"}
        for caller in callers:
            caller.link.close()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for _ in range(50):
                try:
                    first = next(iter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
                    break
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert first.status == health_pb2.HealthCheckResponse.SERVING
        assert process.terminate() == 0


def test_drain_tells_watchers_and_does_not_wait_for_them(tmp_path):
    with running(tmp_path) as (process, _, listening):
        with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            process.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            try:
                next(watch)
                raise AssertionError("the watch goes on")
            except grpc.RpcError as error:
                assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "this replica is stopping")
        assert process.process.wait(60) == 0
