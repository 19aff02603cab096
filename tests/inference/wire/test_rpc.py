"""The Open Inference Protocol over gRPC, against a real replica process."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import skyloom
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.generate import PROTO
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference.serving import TOKEN, find_prediction, oracle, toy_rows

AUTH = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture(scope="module")
def channel(served):
    _, _, listening, _ = served
    with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return GRPCInferenceServiceStub(channel)


def request(rows: np.ndarray, raw: bool = False, **changes) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="toy", **changes)
    tensor = made.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    if raw:
        made.raw_input_contents.append(rows.tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return made


def code_of(call, *arguments, **options) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as failed:
        call(*arguments, **options)
    for secret in ("Traceback", ".py", "/site-packages"):
        assert secret not in failed.value.details()
    return failed.value.code()


@pytest.mark.parametrize("raw", [False, True])
def test_infer_answers_what_onnxruntime_says(served, stub, raw):
    folder = served[3]
    for count in (1, 3, 300):
        rows = toy_rows(count, seed=count)
        answer, call = stub.ModelInfer.with_call(request(rows, raw, id="mine"), metadata=AUTH)
        output = answer.outputs[0]
        data = np.frombuffer(answer.raw_output_contents[0], "<f4")
        assert np.allclose(data.reshape(output.shape), oracle(folder / "bundle", rows), atol=1e-6)
        assert (answer.id, answer.model_name, answer.model_version) == ("mine", "toy", "1")
        prediction_id = answer.parameters["skyloom-prediction-id"].string_param
        assert ("skyloom-prediction-id", prediction_id) in call.trailing_metadata()
        assert find_prediction(folder / "requests", prediction_id).rows == count


def test_health_answers_without_a_token_and_nothing_else_does(stub):
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    for call, message in (
        (stub.ModelReady, pb.ModelReadyRequest(name="toy")),
        (stub.ServerMetadata, pb.ServerMetadataRequest()),
        (stub.ModelMetadata, pb.ModelMetadataRequest(name="toy")),
        (stub.ModelInfer, request(toy_rows(1))),
    ):
        assert code_of(call, message) is grpc.StatusCode.UNAUTHENTICATED
        for shown in ("Bearer wrong", "", TOKEN):
            assert code_of(call, message, metadata=(("authorization", shown),)) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(call, message, metadata=AUTH + AUTH) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelInfer",
        "//inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/serverlive",
        "/inference.GRPCInferenceService/ServerLive/",
        "/inference.grpcinferenceservice/ModelInfer",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/",
        "",
    ],
)
def test_every_form_of_a_method_path_needs_a_token(served, path):
    with grpc.insecure_channel(f"127.0.0.1:{served[2].grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(path)(b"", timeout=10)
        assert failed.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.INTERNAL,
        )


def test_metadata_describes_server_and_model(stub):
    assert stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=AUTH).name == "skyloom"
    model = stub.ModelMetadata(pb.ModelMetadataRequest(name="toy", version="1"), metadata=AUTH)
    assert (model.inputs[0].name, model.inputs[0].datatype, list(model.inputs[0].shape)) == ("x", "FP32", [-1, 4])
    assert stub.ModelReady(pb.ModelReadyRequest(name="toy"), metadata=AUTH).ready


def test_unknown_model_and_version_are_not_found(stub):
    for name, version in (("other", ""), ("toy", "7")):
        missing = request(toy_rows(1), model_version=version)
        missing.model_name = name
        assert code_of(stub.ModelInfer, missing, metadata=AUTH) is grpc.StatusCode.NOT_FOUND
        asked = pb.ModelMetadataRequest(name=name, version=version)
        assert code_of(stub.ModelMetadata, asked, metadata=AUTH) is grpc.StatusCode.NOT_FOUND


def _changed(raw: bool, change) -> pb.ModelInferRequest:
    made = request(toy_rows(1), raw)
    change(made)
    return made


BAD = {
    "no inputs": _changed(False, lambda r: r.ClearField("inputs")),
    "wrong name": _changed(False, lambda r: setattr(r.inputs[0], "name", "y")),
    "wrong type": _changed(False, lambda r: setattr(r.inputs[0], "datatype", "FP64")),
    "wrong field": _changed(
        False, lambda r: (r.inputs[0].contents.Clear(), r.inputs[0].contents.int_contents.extend([1] * 4))
    ),
    "too few": _changed(False, lambda r: r.inputs[0].contents.fp32_contents.pop()),
    "2^62 rows": _changed(False, lambda r: r.inputs[0].shape.__setitem__(0, 2**62)),
    "negative rows": _changed(False, lambda r: r.inputs[0].shape.__setitem__(0, -1)),
    "empty batch": _changed(False, lambda r: r.inputs[0].shape.__setitem__(0, 0)),
    "both contents": _changed(True, lambda r: r.inputs[0].contents.fp32_contents.extend([1] * 4)),
    "short raw": _changed(True, lambda r: r.raw_input_contents.__setitem__(0, b"123")),
    "two raw": _changed(True, lambda r: r.raw_input_contents.append(b"")),
    "unknown output": _changed(False, lambda r: r.outputs.add(name="nothing")),
    "long id": _changed(False, lambda r: setattr(r, "id", "a" * 1000)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_requests_are_invalid_arguments(stub, bad):
    assert code_of(stub.ModelInfer, bad, metadata=AUTH) is grpc.StatusCode.INVALID_ARGUMENT


def test_message_beyond_the_limit_is_refused_and_the_channel_lives(stub):
    large = request(toy_rows(1), raw_input_contents=[b"a" * (17 * 2**20)])
    assert code_of(stub.ModelInfer, large, metadata=AUTH) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(pb.ServerLiveRequest()).live


def test_large_metadata_is_refused_and_the_channel_lives(stub):
    huge = (*AUTH, ("x-large", "a" * 100_000))
    assert code_of(stub.ModelInfer, request(toy_rows(1)), metadata=huge) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ServerLive(pb.ServerLiveRequest()).live


def test_bytes_that_are_no_message_are_an_error_of_the_call_only(served, stub):
    with grpc.insecure_channel(f"127.0.0.1:{served[2].grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\xff\xff\xff", metadata=AUTH, timeout=10)
    assert stub.ServerLive(pb.ServerLiveRequest()).live


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64))
def test_any_bytes_as_a_message_leave_the_replica_alive(served, stub, content):
    with grpc.insecure_channel(f"127.0.0.1:{served[2].grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(content, metadata=AUTH, timeout=10)
    assert served[0].process.poll() is None


def test_generated_code_is_what_the_proto_says(tmp_path):
    source = Path(skyloom.__file__).parents[1]
    made = subprocess.run(
        [sys.executable, "-m", "skyloom.inference.wire.generate", str(tmp_path)],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for suffix in ("_pb2.py", "_pb2_grpc.py"):
        name = PROTO.replace(".proto", suffix)
        assert (tmp_path / name).read_text() == (source / name).read_text()


def test_health_service_answers_and_tells_changes(stub, channel):
    health = health_pb2_grpc.HealthStub(channel)
    states = health_pb2.HealthCheckResponse
    for service in ("", "inference.GRPCInferenceService", "toy"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == states.SERVING
    assert code_of(health.Check, health_pb2.HealthCheckRequest(service="other")) is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(watch).status == states.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_describes_the_services(stub, channel):
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nobody.proto"),
    ]
    listed, described, missing = reflection.ServerReflectionInfo(iter(asked), metadata=AUTH)
    assert "inference.GRPCInferenceService" in [service.name for service in listed.list_services_response.service]
    (content,) = described.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(content)
    assert [service.name for service in file.service] == ["GRPCInferenceService"]
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    with pytest.raises(grpc.RpcError) as refused:
        list(reflection.ServerReflectionInfo(iter(asked)))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
