"""A service of one's own behind the Open Inference Protocol: its tensor endpoint over gRPC, streams and REST, and what goes wrong there."""

import signal
import time

import grpc
import numpy as np
import pytest

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference.services.workplace import write_service
from tests.inference.serving import INFER, TOKEN, find_prediction, running

AUTH = (("authorization", f"Bearer {TOKEN}"),)
SOURCE = """
import os, time
from typing import Annotated
import numpy as np
from numpy.typing import NDArray
import skyloom
from skyloom.sdk.service import BadRequest

Rows = Annotated[NDArray[np.float32], skyloom.Tensor(-1, -1)]

class Doubling(skyloom.Service):
    @skyloom.endpoint(timeout_s=3.0)
    def double(self, rows: Rows, ids: Annotated[NDArray[np.int64], skyloom.Tensor(-1, 1)]) -> Rows:
        if 13 in rows[:, :1]:
            raise BadRequest("thirteen is not taken")
        if 14 in rows[:, :1]:
            raise RuntimeError("it broke")
        if 15 in rows[:, :1]:
            os._exit(7)
        if 16 in rows[:, :1]:
            time.sleep(3.3)
        return 2 * rows
"""


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doubling")
    (folder / "bundle").mkdir()
    manifest = write_service(folder / "bundle", SOURCE, "Doubling")
    with (
        running(folder) as (process, client, listening),
        grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel,
    ):
        yield process, client, GRPCInferenceServiceStub(channel), folder, manifest


@pytest.fixture
def stub(replica) -> GRPCInferenceServiceStub:
    return replica[2]


def request(rows: np.ndarray, **changes) -> pb.ModelInferRequest:
    ids = np.arange(len(rows)).reshape(-1, 1)
    made = pb.ModelInferRequest(model_name="toy", **changes)
    made.inputs.add(name="rows", datatype="FP32", shape=rows.shape)
    made.inputs.add(name="ids", datatype="INT64", shape=ids.shape)
    made.raw_input_contents.extend([rows.astype(np.float32).tobytes(), ids.astype(np.int64).tobytes()])
    return made


def answered(answer: pb.ModelInferResponse) -> np.ndarray:
    (output,) = answer.outputs
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(output.shape)


def failure(stub, rows: np.ndarray) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(request(rows), metadata=AUTH, timeout=20)
    assert "Traceback" not in failed.value.details() and ".py" not in failed.value.details()
    return failed.value


@pytest.mark.parametrize("shape", [(1, 4), (300, 7), (1, 0), (2, 300_000)])
def test_tensor_endpoint_answers_a_call_and_leaves_a_line_in_the_log(replica, shape) -> None:
    _, _, stub, folder, _ = replica
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    answer, call = stub.ModelInfer.with_call(request(rows, id="mine"), metadata=AUTH, timeout=20)
    np.testing.assert_array_equal(answered(answer), 2 * rows)
    assert answer.id == "mine"
    (prediction_id,) = [value for key, value in call.trailing_metadata() if key == "skyloom-prediction-id"]
    assert find_prediction(folder / "requests", prediction_id).rows == len(rows)


def test_rest_and_grpc_say_the_same_of_a_service(replica) -> None:
    _, client, stub, _, _ = replica
    described = stub.ModelMetadata(pb.ModelMetadataRequest(name="toy"), metadata=AUTH)
    told = client.get("/v2/models/toy").json()
    assert [(one.name, one.datatype, list(one.shape)) for one in described.inputs] == [
        (one["name"], one["datatype"], one["shape"]) for one in told["inputs"]
    ]
    assert described.platform == told["platform"] == "skyloom_service"
    assert stub.ModelReady(pb.ModelReadyRequest(name="toy"), metadata=AUTH).ready
    assert stub.ModelConfig(pb.ModelConfigRequest(name="toy"), metadata=AUTH).config.name == "toy"
    inputs = [
        {"name": "rows", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]},
        {"name": "ids", "datatype": "INT64", "shape": [1, 1], "data": [7]},
    ]
    assert client.post(INFER, json={"inputs": inputs}).json()["outputs"][0]["data"] == [2.0, 4.0]


def test_stream_of_calls_keeps_its_order_and_tells_failures_in_their_place(stub) -> None:
    asked = [request(np.full((1, 2), number), id=str(number)) for number in (1, 13, 2, 14, 3)]
    answers = list(stub.ModelStreamInfer(iter(asked), metadata=AUTH, timeout=20))
    assert [answer.infer_response.id for answer in answers] == ["1", "13", "2", "14", "3"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, True, False]
    assert "thirteen is not taken" in answers[1].error_message
    np.testing.assert_array_equal(answered(answers[4].infer_response), [[6, 6]])


def test_what_the_endpoint_refuses_is_an_invalid_argument_in_its_words_on_both_wires(replica) -> None:
    _, client, stub, _, _ = replica
    refused = failure(stub, np.full((1, 2), 13))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT and "thirteen is not taken" in refused.details()
    inputs = [
        {"name": "rows", "datatype": "FP32", "shape": [1, 1], "data": [13.0]},
        {"name": "ids", "datatype": "INT64", "shape": [1, 1], "data": [7]},
    ]
    answer = client.post(INFER, json={"inputs": inputs})
    assert answer.status_code == 400 and "thirteen is not taken" in answer.json()["error"]


def test_what_breaks_in_the_endpoint_is_internal_and_the_next_call_is_answered(stub) -> None:
    broken = failure(stub, np.full((1, 2), 14))
    assert broken.code() is grpc.StatusCode.INTERNAL and "it broke" in broken.details()
    assert failure(stub, np.full((1, 2), 16)).code() is grpc.StatusCode.INTERNAL  # it takes longer than it may
    np.testing.assert_array_equal(answered(stub.ModelInfer(request(np.ones((1, 1))), metadata=AUTH, timeout=20)), [[2]])


def test_process_that_dies_fails_its_call_and_comes_back(stub) -> None:
    died = failure(stub, np.full((1, 2), 15))
    assert died.code() is grpc.StatusCode.INTERNAL and "exited with code 7" in died.details()
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = stub.ModelInfer(request(np.ones((1, 1))), metadata=AUTH, timeout=20)
        except grpc.RpcError as error:  # until it is there again, nothing was begun
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
            assert time.monotonic() < deadline
        else:
            np.testing.assert_array_equal(answered(answer), [[2]])
            return


def test_service_without_tensors_says_so(tmp_path) -> None:
    (tmp_path / "bundle").mkdir()
    write_service(
        tmp_path / "bundle",
        "import skyloom\nclass Plain(skyloom.Service):\n    @skyloom.endpoint\n    def one(self) -> int:\n        return 1\n",
        "Plain",
    )
    with running(tmp_path) as (process, client, listening):
        with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            refused = failure(stub, np.ones((1, 1)))
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.RpcError) as failed:
                stub.ModelInfer(pb.ModelInferRequest(model_name="toy"), metadata=AUTH, timeout=20)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "/openapi.json" in failed.value.details()
        assert client.post("/one", json={}).json() == 1
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0


def test_deadline_that_passes_in_the_endpoint_is_told_by_the_client_and_the_next_call_is_answered(stub) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        stub.ModelInfer(request(np.full((1, 2), 16)), metadata=AUTH, timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    np.testing.assert_array_equal(answered(stub.ModelInfer(request(np.ones((1, 1))), metadata=AUTH, timeout=20)), [[2]])
