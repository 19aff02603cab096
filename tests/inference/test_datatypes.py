"""Every element type there and back, over both wires and both forms, through a model that changes nothing."""

import json

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from skyloom.inference.tensors import DTYPES
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from tests.inference.serving import INFER, TOKEN, graph, running, write_bundle

ONNX = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT16: TensorProto.INT16,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
}
EACH = pytest.mark.parametrize("datatype", list(Datatype), ids=str)


def values(datatype: Datatype) -> np.ndarray:
    dtype = DTYPES[datatype]
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    ends = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[ends.min, ends.max], [0, 1]], dtype=dtype)


def names(form: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=f"{form}{kind.value}", datatype=kind, shape=(-1, 2)) for kind in Datatype)


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """One model with an input and an output of every type."""
    folder = tmp_path_factory.mktemp("identity")
    model = graph(
        [helper.make_node("Identity", [f"in{kind.value}"], [f"out{kind.value}"]) for kind in Datatype],
        [helper.make_tensor_value_info(f"in{kind.value}", ONNX[kind], ["batch", 2]) for kind in Datatype],
        [helper.make_tensor_value_info(f"out{kind.value}", ONNX[kind], ["batch", 2]) for kind in Datatype],
    )
    write_bundle(folder / "bundle", model, Signature(inputs=names("in"), outputs=names("out")))
    with running(folder) as (_, client, listening):
        yield client, listening


def described(kind: Datatype, **more) -> dict:
    return {"name": f"in{kind.value}", "shape": [2, 2], "datatype": kind.value, **more}


@EACH
def test_json_keeps_the_smallest_and_the_largest(identity, datatype):
    client, _ = identity
    inputs = [described(kind, data=values(kind).tolist()) for kind in Datatype]
    answer = client.post(INFER, json={"inputs": inputs, "outputs": [{"name": f"out{datatype.value}"}]})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["datatype"] == datatype.value
    assert np.array(output["data"], DTYPES[datatype]).tolist() == values(datatype).ravel().tolist()


@EACH
def test_binary_keeps_every_byte(identity, datatype):
    client, _ = identity
    inputs = [described(kind, parameters={"binary_data_size": values(kind).nbytes}) for kind in Datatype]
    wanted = [{"name": f"out{datatype.value}", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": inputs, "outputs": wanted}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    content = head + b"".join(values(kind).tobytes() for kind in Datatype)
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    split = int(answer.headers["inference-header-content-length"])
    assert answer.content[split:] == values(datatype).tobytes()


@EACH
def test_json_beyond_the_type_is_refused(identity, datatype):
    client, _ = identity
    beyond = {"b": 2, "i": 2**63, "u": -1, "f": 1e999 if datatype is Datatype.FP64 else 1e300}[DTYPES[datatype].kind]
    text = "1e999" if beyond == float("inf") else json.dumps(beyond)
    inputs = [described(kind, data=values(kind).tolist()) for kind in Datatype if kind is not datatype]
    body = json.dumps({"inputs": [*inputs, described(datatype, data="HERE")]}).replace('"HERE"', f"[{text},0,0,0]")
    answer = client.post(INFER, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert f"in{datatype.value}" in answer.json()["error"] or "out of range" in answer.json()["error"]


def ask(listening, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, metadata=(("authorization", f"Bearer {TOKEN}"),))


def test_grpc_raw_keeps_every_byte(identity):
    request = pb.ModelInferRequest(model_name="toy")
    for kind in Datatype:
        request.inputs.add(name=f"in{kind.value}", datatype=kind.value, shape=[2, 2])
        request.raw_input_contents.append(values(kind).tobytes())
    answer = ask(identity[1], request)
    assert list(answer.raw_output_contents) == [values(kind).tobytes() for kind in Datatype]


FIELDS = {"b": "bool_contents", "u": "uint_contents", "i": "int_contents"}


def test_grpc_typed_contents_keep_every_value_and_fp16_needs_raw(identity):
    request = pb.ModelInferRequest(model_name="toy")
    for kind in Datatype:
        tensor = request.inputs.add(name=f"in{kind.value}", datatype=kind.value, shape=[2, 2])
        special = {Datatype.INT64: "int64_contents", Datatype.FP32: "fp32_contents", Datatype.FP64: "fp64_contents"}
        field = special.get(kind) or FIELDS.get(DTYPES[kind].kind, "fp32_contents")
        getattr(tensor.contents, field).extend(values(kind).ravel().tolist())
    with pytest.raises(grpc.RpcError, match="raw_input_contents"):
        ask(identity[1], request)


def test_metadata_names_every_type(identity):
    client, _ = identity
    described = client.get("/v2/models/toy").json()
    assert [item["datatype"] for item in described["inputs"]] == [kind.value for kind in Datatype]
