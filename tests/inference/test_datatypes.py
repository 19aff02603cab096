"""Every element type there and back, over both wires and both forms, through a model that changes nothing."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from skyloom.inference.elements import from_bfloat16, raw_bytes, read_strings, to_bfloat16, write_strings
from skyloom.inference.tensors import DTYPES
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from tests.inference.serving import INFER, TOKEN, graph, running, write_bundle

ONNX = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.UINT16: TensorProto.UINT16,
    Datatype.UINT32: TensorProto.UINT32,
    Datatype.UINT64: TensorProto.UINT64,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT16: TensorProto.INT16,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
    Datatype.BF16: TensorProto.BFLOAT16,
    Datatype.BYTES: TensorProto.STRING,
}
# ONNX Runtime's Python cannot take strings and give BF16 in one model.
NUMBERS = [kind for kind in Datatype if kind is not Datatype.BYTES]
EACH = pytest.mark.parametrize("datatype", list(Datatype), ids=str)


def values(datatype: Datatype) -> np.ndarray:
    """The smallest and the largest; of BF16 its bits."""
    dtype = DTYPES[datatype]
    if datatype is Datatype.BYTES:
        return np.array([["", "a\x00b"], ["é", "日本" * 40]], dtype=object)
    if datatype is Datatype.BF16:
        return np.array([[0xFF7F, 0x7F7F], [0, 0x3F80]], dtype=dtype)
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    ends = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[ends.min, ends.max], [0, 1]], dtype=dtype)


def names(form: str, kinds: Sequence[Datatype]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=f"{form}{kind.value}", datatype=kind, shape=(-1, 2)) for kind in kinds)


@contextlib.contextmanager
def serving(folder: Path, kinds: Sequence[Datatype]):
    """One model with an input and an output of each type."""
    model = graph(
        [helper.make_node("Identity", [f"in{kind.value}"], [f"out{kind.value}"]) for kind in kinds],
        [helper.make_tensor_value_info(f"in{kind.value}", ONNX[kind], ["batch", 2]) for kind in kinds],
        [helper.make_tensor_value_info(f"out{kind.value}", ONNX[kind], ["batch", 2]) for kind in kinds],
    )
    write_bundle(folder / "bundle", model, Signature(inputs=names("in", kinds), outputs=names("out", kinds)))
    with running(folder) as (_, client, listening):
        yield client, listening


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("numbers"), NUMBERS) as served:
        yield served


@pytest.fixture(scope="module")
def strings(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("strings"), [Datatype.BYTES]) as served:
        yield served


@pytest.fixture
def asked(request, datatype):
    """The replica that knows a type, and the types that it asks for."""
    name = "strings" if datatype is Datatype.BYTES else "numbers"
    return *request.getfixturevalue(name), [datatype] if datatype is Datatype.BYTES else NUMBERS


def in_json(datatype: Datatype) -> list:
    found = values(datatype)
    return (from_bfloat16(found) if datatype is Datatype.BF16 else found).tolist()


def in_bytes(datatype: Datatype) -> bytes:
    return raw_bytes(datatype, values(datatype))


def described(kind: Datatype, **more) -> dict:
    return {"name": f"in{kind.value}", "shape": [2, 2], "datatype": kind.value, **more}


@EACH
def test_json_keeps_the_smallest_and_the_largest(asked, datatype):
    client, _, kinds = asked
    inputs = [described(kind, data=in_json(kind)) for kind in kinds]
    answer = client.post(INFER, json={"inputs": inputs, "outputs": [{"name": f"out{datatype.value}"}]})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["datatype"] == datatype.value
    assert output["data"] == np.array(in_json(datatype), dtype=object).ravel().tolist()


@EACH
def test_binary_keeps_every_byte(asked, datatype):
    client, _, kinds = asked
    inputs = [described(kind, parameters={"binary_data_size": len(in_bytes(kind))}) for kind in kinds]
    wanted = [{"name": f"out{datatype.value}", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": inputs, "outputs": wanted}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    content = head + b"".join(in_bytes(kind) for kind in kinds)
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    split = int(answer.headers["inference-header-content-length"])
    assert answer.content[split:] == in_bytes(datatype)


@EACH
def test_json_beyond_the_type_is_refused(asked, datatype):
    client, _, kinds = asked
    beyond = {"b": 2, "i": 2**63, "u": -1, "O": 0, "f": 1e999 if datatype is Datatype.FP64 else 1e300}[
        DTYPES[datatype].kind
    ]
    if datatype is Datatype.BF16:
        beyond = 3.4e38
    text = "1e999" if beyond == float("inf") else json.dumps(beyond)
    inputs = [described(kind, data=in_json(kind)) for kind in kinds if kind is not datatype]
    body = json.dumps({"inputs": [*inputs, described(datatype, data="HERE")]}).replace('"HERE"', f"[{text},0,0,0]")
    answer = client.post(INFER, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert f"in{datatype.value}" in answer.json()["error"] or "out of range" in answer.json()["error"]


def ask(listening, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, metadata=(("authorization", f"Bearer {TOKEN}"),))


def raw(kinds: Sequence[Datatype], **contents: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="toy")
    for kind in kinds:
        request.inputs.add(name=f"in{kind.value}", datatype=kind.value, shape=[2, 2])
        request.raw_input_contents.append(contents.get(kind.value, in_bytes(kind)))
    return request


@EACH
def test_grpc_raw_keeps_every_byte(asked, datatype):
    _, listening, kinds = asked
    answer = ask(listening, raw(kinds))
    assert answer.raw_output_contents[kinds.index(datatype)] == in_bytes(datatype)


FIELDS = {
    Datatype.INT64: "int64_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BOOL: "bool_contents",
    Datatype.BYTES: "bytes_contents",
}


def typed(kinds: Sequence[Datatype]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="toy")
    for kind in kinds:
        tensor = request.inputs.add(name=f"in{kind.value}", datatype=kind.value, shape=[2, 2])
        field = FIELDS.get(kind, "uint_contents" if DTYPES[kind].kind == "u" else "int_contents")
        content = values(kind).ravel().tolist()
        getattr(tensor.contents, field).extend([one.encode() for one in content] if kind is Datatype.BYTES else content)
    return request


def test_grpc_typed_strings_are_answered_raw(strings):
    assert list(ask(strings[1], typed([Datatype.BYTES])).raw_output_contents) == [in_bytes(Datatype.BYTES)]


def test_grpc_typed_contents_keep_every_value(tmp_path):
    kinds = [kind for kind in NUMBERS if kind not in (Datatype.FP16, Datatype.BF16)]
    with serving(tmp_path, kinds) as (_, listening):
        answer = ask(listening, typed(kinds))
    assert list(answer.raw_output_contents) == [in_bytes(kind) for kind in kinds]
    assert all(not output.HasField("contents") for output in answer.outputs)


@pytest.mark.parametrize("brief", [Datatype.FP16, Datatype.BF16])
def test_grpc_brief_floats_need_raw_bytes(numbers, brief):
    request = pb.ModelInferRequest(model_name="toy")
    tensor = request.inputs.add(name=f"in{brief.value}", datatype=brief.value, shape=[2, 2])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    with pytest.raises(grpc.RpcError, match="raw_input_contents"):
        ask(numbers[1], request)


def test_base64_says_what_is_no_text_and_the_model_refuses_it(strings):
    client, _ = strings
    for text, status in (("YQ==", 200), ("/w==", 400), ("a", 400), ("é", 400)):
        tensor = described(Datatype.BYTES, data=[text] * 4, parameters={"content_type": "base64"})
        answer = client.post(INFER, json={"inputs": [tensor]})
        assert answer.status_code == status, answer.text
        assert "inBYTES" in answer.text or answer.json()["outputs"][0]["data"] == ["a"] * 4


@pytest.mark.parametrize(
    "data", [[["a", "b"], ["c"]], [["a"], ["b", "c", "d"]], ["a"], [1, 2, 3, 4], None, [["a", None]]]
)
def test_strings_in_json_that_do_not_fit_are_refused_by_their_name(strings, data):
    client, _ = strings
    answer = client.post(INFER, json={"inputs": [described(Datatype.BYTES, data=data)]})
    assert answer.status_code == 400
    assert "inBYTES" in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x00",
        b"\xff\xff\xff\xff" * 4,
        b"\x00\x00\x00\x00" * 5,
        b"\x01\x00\x00\x00" * 4,
        b"\x01\x00\x00\x00\xff" * 4,
    ],
)
def test_strings_that_are_none_are_refused_by_their_name(strings, content):
    with pytest.raises(grpc.RpcError, match="inBYTES") as refused:
        ask(strings[1], raw([Datatype.BYTES], BYTES=content))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_names_every_type(numbers):
    client, _ = numbers
    described = client.get("/v2/models/toy").json()
    assert [item["datatype"] for item in described["inputs"]] == [kind.value for kind in NUMBERS]


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1.00390625, 0x3F80),
        (1.01171875, 0x3F82),
        (3.4e38, 0x7F80),
        (float("inf"), 0x7F80),
    ],
)
def test_bfloat16_rounds_to_the_nearest_ties_to_even(number, bits):
    assert to_bfloat16(np.array([number], np.float32)).tolist() == [bits]


def test_bfloat16_keeps_what_is_no_number():
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32)))).all()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.lists(st.integers(-1, 3) | st.just(2**40), max_size=3))
def test_any_bytes_as_strings_are_answered_or_refused_by_their_name(strings, content, shape):
    tensor = described(Datatype.BYTES, shape=shape, parameters={"binary_data_size": len(content)})
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = strings[0].post(INFER, content=head + content, headers=headers)
    assert answer.status_code == 200 or (answer.status_code == 400 and "inBYTES" in answer.json()["error"]), answer.text


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_strings_are_read_as_they_were_written(elements):
    tensor = np.array([*elements, None], dtype=object)[:-1]
    written = write_strings(tensor)
    assert read_strings(written, len(elements)) == elements
    assert read_strings(written, len(elements) + 1) is None
    assert read_strings(written + b"x", len(elements)) is None
