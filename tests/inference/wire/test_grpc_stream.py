"""The rest of the gRPC service: streams of inferences, configuration, statistics, repository, and what must not cost others anything."""

import contextlib
import queue

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.batcher import Ticket
from skyloom.inference.tensors import Contract
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.grpc_framing import framed
from skyloom.inference.wire.grpc_stream import InferStream
from skyloom.inference.wire.messages import Head, Request
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.serving.plan import ServePlan
from tests.inference.serving import TOKEN, TOY_SIGNATURE, oracle, running, small_limits, toy_rows
from tests.inference.wire.test_rpc import request

AUTH = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(f"127.0.0.1:{served[2].grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


def test_stream_answers_every_request_in_its_order(served, stub):
    rows = [toy_rows(1 + n % 3, seed=n) for n in range(600)]
    asked = (request(one, raw=True, id=str(n)) for n, one in enumerate(rows))
    answers = list(stub.ModelStreamInfer(asked, metadata=AUTH, timeout=60))
    assert [answer.error_message for answer in answers] == [""] * 600
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(600)]
    scores = [np.frombuffer(answer.infer_response.raw_output_contents[0], "<f4").reshape(-1, 3) for answer in answers]
    assert np.allclose(np.concatenate(scores), oracle(served[3] / "bundle", np.concatenate(rows)), atol=1e-6)


def test_stream_says_what_is_wrong_with_one_request_and_goes_on(stub):
    wrong = request(toy_rows(1), raw=True, id="wrong")
    wrong.inputs[0].shape[1] = 5
    other = request(toy_rows(1), raw=True, id="other")
    other.model_name = "other"
    late = request(toy_rows(1), raw=True, id="late")
    late.parameters["timeout"].string_param = "soon"
    right = request(toy_rows(1), raw=True, id="right")
    right.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = list(stub.ModelStreamInfer(iter([wrong, other, late, right]), metadata=AUTH, timeout=60))
    assert [answer.infer_response.id for answer in answers] == ["wrong", "other", "late", "right"]
    assert "'x'" in answers[0].error_message
    assert "'other'" in answers[1].error_message
    assert "timeout" in answers[2].error_message
    assert answers[3].error_message == ""
    assert answers[3].infer_response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_stream_takes_compressed_messages(stub, compression):
    asked = iter([request(toy_rows(50), raw=True)] * 3)
    answers = list(stub.ModelStreamInfer(asked, metadata=AUTH, timeout=60, compression=compression))
    assert [list(answer.infer_response.outputs[0].shape) for answer in answers] == [[50, 3]] * 3


class Held:
    """A data plane that answers when it is told to, and an exchange whose client reads when it likes."""

    num_unsent = 0

    def __init__(self) -> None:
        self.plan = ServePlan(
            project="p",
            endpoint="e",
            revision="r",
            replica="rep",
            model="toy",
            model_version="1",
            bundle="b",
            access_file="a",
            log_folder="l",
            port_folder="p",
        )
        self.contract = Contract(TOY_SIGNATURE, 4096)
        self.traffic = self
        self.waiting: list[Ticket] = []
        self.pushed: list[bytes] = []
        self.ended = None
        self.resumed = self.num_over = 0
        head = Head(b"POST", b"/", {})
        over = lambda _: setattr(self, "num_over", self.num_over + 1)  # noqa: E731
        self.stream = InferStream(self, Request(head), self, over, Beside())

    def check_model(self, name: str, version: str) -> None: ...

    def answered(self, status: int, duration_s: float) -> None: ...

    def infer(self, call, on_done, timeout_s) -> Ticket:
        self.waiting.append(Ticket(call, 0.0, on_done))
        return self.waiting[-1]

    def begin(self, response) -> None: ...

    def push(self, part: bytes) -> None:
        self.pushed.append(part)

    def finish(self, trailers) -> None:
        self.ended = dict(trailers)[b"grpc-status"]

    def resume(self) -> None:
        self.resumed += 1

    def answer(self, ticket: Ticket) -> None:
        ticket.outputs = [np.zeros((ticket.call.rows, 3), np.float32)]
        ticket.on_done(ticket)

    def ids(self) -> list[str]:
        return [pb.ModelStreamInferResponse.FromString(part[5:]).infer_response.id for part in self.pushed]


def message(number: int) -> bytes:
    return framed(request(toy_rows(1), raw=True, id=str(number)))


def test_stream_begins_only_so_many_and_goes_on_in_order_as_they_are_answered():
    held = Held()
    for number in range(1_000):
        held.stream.heard(message(number))
    assert len(held.waiting) == 256
    assert not held.stream.wants_more
    assert held.stream.num_kept > 0
    held.answer(held.waiting[1])  # the second waits for the first
    assert held.pushed == []
    for place in [0, *range(2, 1_000)]:
        held.answer(held.waiting[place])
    assert held.ids() == [str(number) for number in range(1_000)]
    assert held.stream.wants_more
    assert held.stream.num_kept == 0
    assert held.resumed > 0
    held.stream.heard_all()
    assert (held.ended, held.num_over) == (b"0", 1)


def test_stream_is_not_read_while_its_client_does_not_read():
    held = Held()
    held.num_unsent = 2**23
    held.stream.heard(message(0) * 10)
    held.stream.heard_all()
    assert held.waiting == []
    assert held.ended is None
    held.num_unsent = 0
    held.on_room()
    for ticket in list(held.waiting):
        held.answer(ticket)
    assert len(held.pushed) == 10
    assert held.ended == b"0"


def test_stream_that_is_cut_cancels_what_waits():
    held = Held()
    held.stream.heard(message(0) * 3)
    held.on_cut()
    assert [ticket.cancelled for ticket in held.waiting] == [True] * 3
    held.answer(held.waiting[0])  # too late, and no harm
    assert held.num_over == 1


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"\x02\0\0\0\0", b"3"), (b"\0\xff\xff\xff\xff", b"3"), (b"\0\0\0", b"3"), (b"", b"0"), (message(1)[:-1], b"3")],
)
def test_stream_of_broken_messages_ends_with_its_status(content, status):
    held = Held()
    held.stream.heard(content)
    held.stream.heard_all()
    assert held.ended == status


@given(st.lists(st.integers(0, 300), max_size=12))
def test_stream_cut_anywhere_is_read_the_same(sizes):
    held = Held()
    whole = b"".join(message(number) for number in range(5))
    for size in sizes:
        held.stream.heard(whole[:size])
        whole = whole[size:]
    held.stream.heard(whole)
    for ticket in held.waiting:
        held.answer(ticket)
    assert held.ids() == ["0", "1", "2", "3", "4"]


def test_stream_needs_a_token(stub):
    with pytest.raises(grpc.RpcError) as refused:
        next(stub.ModelStreamInfer(iter([request(toy_rows(1), raw=True)])))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_drain_ends_open_streams_when_they_are_answered(tmp_path):
    with contextlib.ExitStack() as stack:
        process, _, listening = stack.enter_context(running(tmp_path, limits=small_limits(drain_s=120.0)))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}"))
        asked: queue.Queue = queue.Queue()
        asked.put(request(toy_rows(1), raw=True))
        call = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(asked.get, None), metadata=AUTH)
        assert next(call).error_message == ""
        reflection = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        questions: queue.Queue = queue.Queue()
        questions.put(b"\x3a\x00")  # list_services
        talk = reflection(iter(questions.get, None), metadata=AUTH)
        assert b"GRPCInferenceService" in next(talk)
        assert process.terminate(60) == 0  # long before drain_s
        for ended in (call, talk):
            with pytest.raises(grpc.RpcError) as refused:
                next(ended)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        asked.put(None)
        questions.put(None)


def test_config_and_statistics_say_what_rest_says(served, stub):
    _, client, _, _ = served
    config = stub.ModelConfig(pb.ModelConfigRequest(name="toy"), metadata=AUTH).config
    told = client.get("/v2/models/toy/config").json()
    assert (config.name, config.platform, config.max_batch_size) == (
        told["name"],
        told["platform"],
        told["max_batch_size"],
    )
    assert (config.input[0].data_type, list(config.input[0].dims)) == (pb.TYPE_FP32, [4])
    assert list(config.version_policy.specific.versions) == [1]
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=AUTH).model_stats
    (rest,) = client.get("/v2/models/stats").json()["model_stats"]
    assert counted.inference_count == rest["inference_count"] > 0
    assert counted.inference_stats.queue.ns == rest["inference_stats"]["queue"]["ns"]
    assert len(counted.batch_stats) == len(rest["batch_stats"])


def test_repository_and_settings_are_told_and_stay(stub):
    (model,) = stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=AUTH).models
    assert (model.name, model.version, model.state) == ("toy", "1", "READY")
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="toy"), metadata=AUTH)
    assert stub.TraceSetting(pb.TraceSettingRequest(), metadata=AUTH).settings["trace_level"].value == ["OFF"]
    assert stub.LogSettings(pb.LogSettingsRequest(), metadata=AUTH).settings["log_error"].bool_param
    assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), metadata=AUTH).regions
    changed = pb.TraceSettingRequest()
    changed.settings["trace_level"].value.append("TIMESTAMPS")
    for method, message in (
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="toy")),
        (stub.TraceSetting, changed),
        (stub.SystemSharedMemoryRegister, pb.SystemSharedMemoryRegisterRequest(name="a", key="/b", byte_size=8)),
        (stub.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="a", raw_handle=b"b")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            method(message, metadata=AUTH)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="other"), metadata=AUTH)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_forms_of_outputs_that_are_not_offered_are_refused(stub):
    asked = request(toy_rows(1), raw=True)
    asked.outputs.add(name="scores").parameters["classification"].int64_param = 2
    with pytest.raises(grpc.RpcError, match="classification") as refused:
        stub.ModelInfer(asked, metadata=AUTH)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_every_method_but_health_needs_a_token(served, stub):
    for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name:
        if name in ("ServerLive", "ServerReady", "ModelStreamInfer"):
            continue
        with pytest.raises(grpc.RpcError) as refused:
            getattr(stub, name)(getattr(pb, f"{name}Request")())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


def test_health_over_http_takes_no_body(served):
    _, client, _, _ = served
    with httpx.Client(base_url=client.base_url, trust_env=False, verify=False) as stranger:
        assert stranger.request("GET", "/v2/health/live", content=b"x" * 100).status_code == 413
        assert stranger.get("/v2/health/live").status_code == 200
