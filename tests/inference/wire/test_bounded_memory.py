"""Clients that send without end, or never read, against a real replica: it stays small, and answers everybody else."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.frames import Flag, FrameKind, Http2Setting, frame, settings, window_update
from skyloom.inference.wire.grpc_framing import framed
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from tests.inference.serving import INFER, TOKEN, graph, running, small_limits, write_bundle
from tests.inference.wire.test_http import AUTH, HOST, dial
from tests.inference.wire.test_rpc_attacks import RawCaller

MB = 2**20
WIDTH = 8_192
LIMITS = small_limits(max_body_bytes=4 * MB, max_unread_bytes=16 * MB, max_queue_bytes=16 * MB)
# Bodies, answers and queued tensors have 16 MiB each; then what is on its way through model, sockets and allocator.
MOST_GROWTH = 80 * MB
HEAD = b"POST " + INFER.encode() + b" HTTP/1.1\r\n" + HOST + AUTH + b"Content-Type: application/json\r\n"
ROWS = 64
ONE = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
SMALL = json.dumps({"inputs": [ONE]}).encode()
# 2 MB of answer for 1 kB of request.
MANY = {"name": "x", "shape": [ROWS, 4], "datatype": "FP32", "data": [0.5] * (4 * ROWS)}
LARGE = json.dumps({"inputs": [MANY], "parameters": {"binary_data_output": True}}).encode()


class Watched:
    """A replica, and how much it has grown."""

    def __init__(self, pid: int, client: httpx.Client, rest_port: int, grpc_port: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.client = client
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self._before = self._bytes("VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here

    def _bytes(self, name: str) -> int:
        (line,) = [line for line in self._status.read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1]) * 1024

    def num_answered(self) -> int:
        """Inferences that were answered in any way."""
        lines = self.client.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith("skyloom_inference_requests_total{")]
        return int(float(line.split()[-1]))

    def wait_answered(self, count: int) -> None:
        """Until so many inferences have been answered, or given up."""
        deadline = time.monotonic() + 60
        while self.num_answered() < count:
            assert time.monotonic() < deadline, self.num_answered()
            time.sleep(0.01)

    def check(self) -> None:
        """Others are answered, and the peak is what the bounds allow."""
        answer = self.client.post(INFER, content=SMALL, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text[:200]
        growth = self._bytes("VmHWM") - self._before
        assert growth < MOST_GROWTH, f"{growth / MB:.0f} MiB"


@pytest.fixture(scope="module")
def replica(tmp_path_factory) -> Iterator[tuple]:
    folder = tmp_path_factory.mktemp("wide")
    weight = numpy_helper.from_array(np.ones((4, WIDTH), np.float32), "W")
    model = graph(
        [helper.make_node("MatMul", ["x", "W"], ["wide"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["batch", WIDTH])],
        [weight],
    )
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
        outputs=(TensorSpec(name="wide", datatype=Datatype.FP32, shape=(-1, WIDTH)),),
    )
    write_bundle(folder / "bundle", model, signature)
    with running(folder, limits=LIMITS) as (process, client, listening):
        for _ in range(3):  # what is allocated once is there
            client.post(INFER, content=LARGE, headers={"content-type": "application/json"})
        yield process, client, listening
        assert process.process.poll() is None and "Traceback" not in process.text(), process.text()


@pytest.fixture
def watched(replica) -> Watched:
    process, client, listening = replica
    return Watched(process.process.pid, client, listening.rest_port, listening.grpc_port)


def send_all(link: socket.socket, content: bytes, times: int) -> int:
    """Send until it is all out, the other side ends it, or it takes no more; how often that was."""
    for number in range(times):
        try:
            link.sendall(content)
        except (ConnectionError, TimeoutError):
            return number
    return times


def test_five_gigabytes_are_refused_by_their_length_and_cut_where_they_have_none(watched):
    with dial(watched.rest_port) as link:
        link.sendall(HEAD + b"Content-Length: 5368709120\r\n\r\n" + bytes(1_000))
        assert link.recv(65_536).startswith(b"HTTP/1.1 413")
    part = bytes(MB)
    with dial(watched.rest_port) as link:
        link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert send_all(link, b"%x\r\n" % len(part) + part + b"\r\n", 5 * 1_024) < 200
    watched.check()


def test_deep_json_and_bodies_in_crumbs_are_refused(watched):
    deep = b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    for headers, content in (
        (b"Content-Length: %d" % len(deep), deep),
        (b"Transfer-Encoding: chunked", b"6\r\n      \r\n" * 200_000),
    ):
        with dial(watched.rest_port) as link:
            send_all(link, HEAD + headers + b"\r\n\r\n" + content, 1)
            assert link.recv(65_536).startswith(b"HTTP/1.1 400")
    watched.check()


def test_slow_senders_hold_no_more_than_their_bound_and_lock_nobody_out(watched):
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(dial(watched.rest_port)) for _ in range(40)]
        for link in links:
            send_all(link, HEAD + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_000_000, 1)
        watched.check()
        refused = 0
        for link in links:
            link.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                refused += link.recv(65_536).startswith(b"HTTP/1.1 429")
        assert refused


def test_clients_that_never_read_hold_no_more_than_their_bound(watched):
    asked = HEAD + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            before = watched.num_answered()
            link = stack.enter_context(dial(watched.rest_port))
            link.sendall(asked + asked)
            watched.wait_answered(before + 1)
        watched.check()


def call_content() -> bytes:
    asked = pb.ModelInferRequest(model_name="toy")
    asked.inputs.add(name="x", datatype="FP32", shape=[ROWS, 4])
    asked.raw_input_contents.append(bytes(16 * ROWS))
    return framed(asked)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_grpc_clients_that_never_read_hold_no_more_than_their_bound(watched, method):
    path, token = f"/inference.GRPCInferenceService/{method}", ("authorization", f"Bearer {TOKEN}")
    content, ends = call_content(), Flag.END_STREAM if method == "ModelInfer" else 0
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            before = watched.num_answered()
            caller = stack.enter_context(RawCaller(watched.grpc_port))
            caller.link.sendall(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
            for number in (1, 3, 5, 7):
                head = frame(FrameKind.HEADERS, Flag.END_HEADERS, number, caller.fields(path, token))
                caller.link.sendall(head + frame(FrameKind.DATA, ends, number, content))
            watched.wait_answered(before + 4)
        watched.check()


def test_grpc_windows_opened_later_bring_what_was_held(watched):
    with RawCaller(watched.grpc_port) as caller:
        caller.link.sendall(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
        caller.call(
            1, "/inference.GRPCInferenceService/ModelInfer", call_content(), ("authorization", f"Bearer {TOKEN}")
        )
        caller.link.sendall(settings({Http2Setting.INITIAL_WINDOW_SIZE: 2**22}) + window_update(0, 2**22))
        assert caller.statuses(1) == {1: "0"}
    watched.check()
