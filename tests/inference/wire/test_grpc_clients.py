"""Real clients of gRPC and HTTP/2, and one that behaves as Go's: many calls, large messages, deadlines, settings that change."""

import re
import shutil
import subprocess
import time

import grpc
import numpy as np
import pytest

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.frames import Flag, FrameKind, Http2Setting, frame, settings, window_update
from skyloom.inference.wire.grpc_framing import framed
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference.serving import TOKEN, running, toy_rows, write_access
from tests.inference.wire.test_rpc import AUTH, request
from tests.inference.wire.test_rpc_attacks import INFER, RawCaller

SHOWN = ("authorization", f"Bearer {TOKEN}")
LARGE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
STREAM = INFER.replace("ModelInfer", "ModelStreamInfer")


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(f"127.0.0.1:{served[2].grpc_port}", options=LARGE) as channel:
        yield GRPCInferenceServiceStub(channel)


def test_thousand_calls_at_once_on_one_connection_are_all_answered(stub):
    rows = toy_rows(2)
    calls = [
        stub.ModelInfer.future(request(rows, raw=True, id=str(n)), metadata=AUTH, timeout=60) for n in range(1_000)
    ]
    assert [call.result().id for call in calls] == [str(number) for number in range(1_000)]


def test_message_of_ten_megabytes_is_taken_and_one_beyond_the_bound_is_not(stub):
    asked = request(toy_rows(1), raw=True)
    asked.parameters["note"].string_param = "n" * 10_000_000
    assert stub.ModelInfer(asked, metadata=AUTH, timeout=60).outputs[0].shape == [1, 3]
    asked.parameters["note"].string_param = "n" * 17_000_000
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(asked, metadata=AUTH, timeout=60)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert list(stub.ModelInfer(request(toy_rows(1)), metadata=AUTH, timeout=60).outputs[0].shape) == [1, 3]


def test_deadlines_are_obeyed_and_broken_ones_are_named(served):
    content = framed(request(toy_rows(1), raw=True))
    # Nobody waits before it, so even the shortest is answered: who has left does not hear it.
    written = {
        "1n": "0",
        "99999999H": "0",
        "5S": "0",
        "1": "3",
        "S": "3",
        "-1S": "3",
        "123456789S": "3",
        "1x": "3",
        "": "3",
    }
    with RawCaller(served[2].grpc_port) as caller:
        for place, (value, status) in enumerate(written.items()):
            caller.call(2 * place + 1, INFER, content, SHOWN, ("grpc-timeout", value))
            assert caller.statuses(1) == {2 * place + 1: status}, value


def test_metadata_as_large_as_it_may_be_is_read_and_more_is_refused(served):
    content = framed(request(toy_rows(1), raw=True))
    with RawCaller(served[2].grpc_port) as caller:
        caller.call(1, INFER, content, SHOWN, ("x-note", "a" * 15_000))
        caller.call(3, INFER, content, SHOWN, ("x-note", "a" * 16_500))
        caller.call(5, INFER, content, SHOWN)
        assert caller.statuses(3) == {1: "0", 3: "8", 5: "0"}


def test_window_that_opens_by_settings_and_updates_brings_the_answer_in_order(served):
    """As Go's client does: a ping between the parts of a message, settings in the middle of an answer, windows in small steps."""
    rows = toy_rows(4_000)
    content = framed(request(rows, raw=True))
    head = Flag.END_HEADERS
    with RawCaller(served[2].grpc_port) as caller:
        link = caller.link
        link.sendall(settings({Http2Setting.INITIAL_WINDOW_SIZE: 0}))
        link.sendall(frame(FrameKind.HEADERS, head, 1, caller.fields(INFER, SHOWN)))
        for start in range(0, len(content), 16_384):
            last = start + 16_384 >= len(content)
            link.sendall(frame(FrameKind.PING, 0, 0, b"12345678"))
            link.sendall(frame(FrameKind.DATA, Flag.END_STREAM if last else 0, 1, content[start : start + 16_384]))
        for size in (1_000, 500, 0, 20_000):  # less than was sent already: the window becomes negative
            link.sendall(settings({Http2Setting.INITIAL_WINDOW_SIZE: size, Http2Setting.MAX_FRAME_SIZE: 2**14}))
        link.sendall(window_update(1, 7_000) + window_update(0, 100_000))
        got, status, pings = b"", "", 0
        while not status:
            part = link.recv(65_536)
            assert part
            for each in caller.splitter.feed(part):
                pings += each.kind == FrameKind.PING and each.flags & Flag.ACK
                if each.kind == FrameKind.DATA:
                    got += each.payload
                    link.sendall(window_update(1, len(each.payload)) + window_update(0, len(each.payload)))
                elif each.kind == FrameKind.HEADERS:
                    fields = dict(caller.decoder.decode(each.payload))
                    status = fields.get("grpc-status", "")
    answer = pb.ModelInferResponse.FromString(got[5:])
    assert (status, list(answer.outputs[0].shape)) == ("0", [4_000, 3])
    assert len(np.frombuffer(answer.raw_output_contents[0], np.float32)) == 12_000
    assert pings == len(range(0, len(content), 16_384))


def test_open_stream_ends_when_its_token_is_taken_back(tmp_path):
    with running(tmp_path) as (_, _, listening), RawCaller(listening.grpc_port) as caller:
        caller.link.sendall(frame(FrameKind.HEADERS, Flag.END_HEADERS, 1, caller.fields(STREAM, SHOWN)))
        caller.link.sendall(frame(FrameKind.DATA, 0, 1, framed(request(toy_rows(1), raw=True))))
        write_access(tmp_path / "access.json", "another")
        began = time.monotonic()
        assert caller.statuses(1) == {1: "16"}
        assert time.monotonic() - began < 20  # the socket's own patience


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.parametrize("streams", [1, 1_000])
def test_h2load_gets_every_answer(served, tmp_path, streams):
    body = tmp_path / "body"
    body.write_bytes(framed(request(toy_rows(1), raw=True)))
    url = f"http://127.0.0.1:{served[2].grpc_port}{INFER}"
    headers = ["content-type: application/grpc", "te: trailers", f"{SHOWN[0]}: {SHOWN[1]}"]
    words = ["h2load", "-n2000", "-c2", f"-m{streams}", "-d", str(body)]
    said = subprocess.run(
        [*words, *[word for header in headers for word in ("-H", header)], url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert re.search(r"2000 succeeded, 0 failed, 0 errored", said), said
    assert "2000 2xx" in said
