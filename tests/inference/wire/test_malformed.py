"""Every malformed tensor and header, over every protocol: a 4xx (or its gRPC word) that names the field, and nothing of our insides.

`-s` prints the slowest answer.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from onnx import TensorProto, helper

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from tests.inference.serving import INFER, TOKEN, graph, running, write_bundle
from tests.inference.wire.test_http import AUTH, HOST, dial, read_all

KINDS = {
    "x": (Datatype.FP32, TensorProto.FLOAT, 4, [1.0, 2.0, 3.0, 4.0]),
    "n": (Datatype.INT64, TensorProto.INT64, 2, [1, 2]),
    "t": (Datatype.BYTES, TensorProto.STRING, 1, ["a"]),
    "b": (Datatype.BOOL, TensorProto.BOOL, 1, [True]),
    "u": (Datatype.UINT8, TensorProto.UINT8, 1, [7]),
    "h": (Datatype.FP16, TensorProto.FLOAT16, 2, [1.0, 2.0]),  # last: it has no typed contents
}
SECRETS = ("Traceback", ".py", "site-packages", "0x7f")


class Server(NamedTuple):
    """One replica, and how long each answer took."""

    client: httpx.Client
    stub: GRPCInferenceServiceStub
    port: int
    took: dict[str, float]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kinds")
    outputs = [f"o_{name}" for name in KINDS]
    model = graph(
        [helper.make_node("Identity", [name], [f"o_{name}"]) for name in KINDS],
        [helper.make_tensor_value_info(name, kind, ["batch", size]) for name, (_, kind, size, _) in KINDS.items()],
        [
            helper.make_tensor_value_info(f"o_{name}", kind, ["batch", size])
            for name, (_, kind, size, _) in KINDS.items()
        ],
    )
    inputs = tuple(TensorSpec(name=name, datatype=kind, shape=(-1, size)) for name, (kind, _, size, _) in KINDS.items())
    signature = Signature(
        inputs=inputs,
        outputs=tuple(
            TensorSpec(name=name, datatype=spec.datatype, shape=spec.shape)
            for name, spec in zip(outputs, inputs, strict=True)
        ),
    )
    write_bundle(folder / "bundle", model, signature)
    with running(folder) as (process, client, listening):
        with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
            made = Server(client, GRPCInferenceServiceStub(channel), listening.rest_port, {})
            yield made
        assert process.process.poll() is None and "Traceback" not in process.text(), process.text()
        slowest = max(made.took, key=lambda name: made.took[name])
        print(
            f"\n{len(made.took)} malformed requests; the slowest answer: {slowest}, {made.took[slowest] * 1e3:.1f} ms"
        )


def timed(server: Server, name: str, ask: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = ask()
    server.took[name] = time.perf_counter() - began
    return answer


def check(answer: httpx.Response, words: tuple[str, ...], status: int = 400) -> None:
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert any(word in error for word in words), error
    assert not any(secret in error for secret in SECRETS), error


def post(server: Server, name: str, content: bytes, path: str = INFER, **headers: str) -> httpx.Response:
    shown = {"content-type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return timed(server, name, lambda: server.client.post(path, content=content, headers=shown))


# -- tensors in JSON ------------------------------------------------------------------------------------------------------------


def tensors(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """All inputs; ``changes`` are to one, None takes a field away."""
    made = []
    for name, (kind, _, size, data) in KINDS.items():
        one = {"name": name, "shape": [1, size], "datatype": kind.value, "data": data, **changes.get(name, {})}
        made.append({key: value for key, value in one.items() if value is not None})
    return made


def asked(more: dict[str, Any] | None = None, **changes: dict[str, Any]) -> bytes:
    return json.dumps({"inputs": tensors(**changes), **(more or {})}).encode()


JSON = {
    "no inputs": (b"{}", "inputs"),
    "empty inputs": (b'{"inputs": []}', "inputs"),
    "inputs no list": (b'{"inputs": 7}', "inputs"),
    "input no object": (b'{"inputs": [7]}', "inputs[0]"),
    "no name": (asked(x={"name": None}), "name"),
    "name a number": (asked(x={"name": 7}), "name"),
    "name unknown": (asked(x={"name": "y"}), "'y'"),
    "name too long": (asked(x={"name": "y" * 1_000}), "name"),
    "name of another": (asked(x={"name": "n"}), "'n'"),
    "input twice": (json.dumps({"inputs": [*tensors(), *tensors()]}).encode(), "'x'"),
    "input missing": (json.dumps({"inputs": tensors()[1:]}).encode(), "'x'"),
    "no shape": (asked(x={"shape": None}), "shape"),
    "shape a text": (asked(x={"shape": "1,4"}), "shape"),
    "shape a fraction": (asked(x={"shape": [1.5, 4]}), "shape"),
    "shape empty": (asked(x={"shape": []}), "'x'"),
    "shape of other rank": (asked(x={"shape": [1, 4, 1]}), "'x'"),
    "shape of 99 axes": (asked(x={"shape": [1] * 99}), "shape"),
    "shape negative": (asked(x={"shape": [-1, 4]}), "'x'"),
    "shape with no rows": (asked(x={"shape": [0, 4], "data": []}), "'x'"),
    "shape beyond 64 bits": (asked(x={"shape": [2**64, 4]}), "'x'"),
    "shape beyond 5000 digits": (asked(x={"shape": ["A"]}).replace(b'["A"]', b"[" + b"9" * 5_000 + b"]"), "shape"),
    "shape that wraps around": (asked(x={"shape": [2**62, 4]}), "'x'"),
    "rows that differ": (asked(x={"shape": [2, 4], "data": [1.0] * 8}), "'n'"),
    "too many rows": (asked(x={"shape": [5_000, 4], "data": [0.0] * 20_000}), "'x'"),
    "no datatype": (asked(x={"datatype": None}), "datatype"),
    "datatype a number": (asked(x={"datatype": 7}), "datatype"),
    "datatype of another": (asked(x={"datatype": "FP64"}), "'x'"),
    "datatype unknown": (asked(x={"datatype": "FLOAT"}), "'x'"),
    "no data": (asked(x={"data": None}), "'x'"),
    "data a text": (asked(x={"data": "1234"}), "'x'"),
    "data an object": (asked(x={"data": {"0": 1}}), "'x'"),
    "data of nulls": (asked(x={"data": [None] * 4}), "'x'"),
    "data of texts": (asked(x={"data": ["1"] * 4}), "'x'"),
    "data too short": (asked(x={"data": [1.0] * 3}), "'x'"),
    "data too long": (asked(x={"data": [1.0] * 5}), "'x'"),
    "data empty": (asked(x={"data": []}), "'x'"),
    "data nested otherwise": (asked(x={"data": [[1.0, 2.0], [3.0, 4.0]]}), "'x'"),
    "data nested deeper": (asked(x={"data": [[[1.0, 2.0, 3.0, 4.0]]]}), "'x'"),
    "data ragged": (asked(x={"data": [[1.0, 2.0, 3.0], 4.0]}), "'x'"),
    "data of ten thousand levels": (
        asked(x={"data": ["A"]}).replace(b'["A"]', b"[" * 10_000 + b"]" * 10_000),
        "recursion",
    ),
    "FP32 too large": (asked(x={"data": [1e39, 0, 0, 0]}), "'x'"),
    "FP16 too large": (asked(h={"data": [7e4, 0]}), "'h'"),
    "FP32 of 5000 digits": (asked(x={"data": ["A"]}).replace(b'["A"]', b"[" + b"9" * 5_000 + b",0,0,0]"), "'x'"),
    "INT64 too large": (asked(n={"data": [2**63, 0]}), "'n'"),
    "INT64 too small": (asked(n={"data": [-(2**63) - 1, 0]}), "'n'"),
    "INT64 a fraction": (asked(n={"data": [1.5, 0]}), "'n'"),
    "UINT8 too large": (asked(u={"data": [256]}), "'u'"),
    "UINT8 negative": (asked(u={"data": [-1]}), "'u'"),
    "BOOL a number": (asked(b={"data": [1]}), "'b'"),
    "BYTES a number": (asked(t={"data": [1]}), "'t'"),
    "BYTES too many": (asked(t={"data": ["a", "b"]}), "'t'"),
    "BYTES no base64": (asked(t={"data": ["%"], "parameters": {"content_type": "base64"}}), "'t'"),
    "BYTES half a character": (asked(t={"data": ["A"]}).replace(b'"A"', b'"\xff"'), "'t'"),
    "parameters no object": (asked(x={"parameters": 7}), "parameters"),
    "id a number": (asked({"id": 7}), "id"),
    "id too long": (asked({"id": "a" * 201}), "id"),
    "timeout a text": (asked({"parameters": {"timeout": "soon"}}), "timeout"),
    "timeout negative": (asked({"parameters": {"timeout": -1}}), "timeout"),
    "timeout of 400 digits": (asked({"parameters": {"timeout": 10**400}}), "timeout"),
    "outputs no list": (asked({"outputs": "o_x"}), "outputs"),
    "output without a name": (asked({"outputs": [{}]}), "name"),
    "output unknown": (asked({"outputs": [{"name": "q"}]}), "'q'"),
    "output twice": (asked({"outputs": [{"name": "o_x"}, {"name": "o_x"}]}), "'o_x'"),
    "output in shared memory": (
        asked({"outputs": [{"name": "o_x", "parameters": {"shared_memory_region": "r"}}]}),
        "'o_x'",
    ),
    "NaN": (asked(x={"data": [float("nan")] * 4}), "byte"),
    "half of it": (asked()[:-40], "truncated"),
}


@pytest.mark.parametrize("name", JSON)
def test_malformed_json_tensors_are_refused_by_their_field(server, name):
    content, word = JSON[name]
    check(post(server, name, content), (word,))


# -- the binary extension -------------------------------------------------------------------------------------------------------


def mixed(x: dict[str, Any], tail: bytes) -> tuple[bytes, bytes]:
    return asked(x={"data": None, **x}), tail


SIZE = "binary_data_size"
BINARY = {
    "bytes too few": (*mixed({"parameters": {SIZE: 16}}, bytes(15)), None, "'x'"),
    "bytes too many": (*mixed({"parameters": {SIZE: 16}}, bytes(17)), None, "last tensor"),
    "size of another shape": (*mixed({"parameters": {SIZE: 12}}, bytes(12)), None, "'x'"),
    "size negative": (*mixed({"parameters": {SIZE: -1}}, bytes(16)), None, "'x'"),
    "size a text": (*mixed({"parameters": {SIZE: "16"}}, bytes(16)), None, "'x'"),
    "size true": (*mixed({"parameters": {SIZE: True}}, bytes(16)), None, "'x'"),
    "size beyond 64 bits": (*mixed({"parameters": {SIZE: 2**70}}, bytes(16)), None, "'x'"),
    "size beside data": (*mixed({"data": [0.0] * 4, "parameters": {SIZE: 16}}, bytes(16)), None, "'x'"),
    "size without bytes": (*mixed({"parameters": {SIZE: 16}}, b""), None, "'x'"),
    "BOOL of 2": (asked(b={"data": None, "parameters": {SIZE: 1}}), b"\2", None, "'b'"),
    "BYTES cut off": (asked(t={"data": None, "parameters": {SIZE: 5}}), b"\2\0\0\0a", None, "'t'"),
    "BYTES too long": (asked(t={"data": None, "parameters": {SIZE: 5}}), b"\xff\xff\xff\xffa", None, "'t'"),
    "BYTES no text": (asked(t={"data": None, "parameters": {SIZE: 5}}), b"\1\0\0\0\xff", None, "'t'"),
    "header length too large": (asked(), b"", "99999", "Inference-Header-Content-Length"),
    "header length negative": (asked(), b"", "-1", "Inference-Header-Content-Length"),
    "header length a text": (asked(), b"", "all", "Inference-Header-Content-Length"),
    "header length of 15 digits": (asked(), b"", "9" * 15, "Inference-Header-Content-Length"),
    "header length too small": (asked(), b"", "10", "truncated"),
}


@pytest.mark.parametrize("name", BINARY)
def test_malformed_binary_tensors_are_refused_by_their_field(server, name):
    head, tail, length, word = BINARY[name]
    answer = post(server, name, head + tail, inference_header_content_length=length or str(len(head)))
    check(answer, (word,))


# -- gRPC -----------------------------------------------------------------------------------------------------------------------

CONTENTS = {
    "x": "fp32_contents",
    "n": "int64_contents",
    "t": "bytes_contents",
    "b": "bool_contents",
    "u": "uint_contents",
}
RAW = {"x": bytes(16), "n": bytes(16), "t": b"\1\0\0\0a", "b": b"\1", "u": b"\1", "h": bytes(4)}


def message(change: Callable[[Any], object]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="toy")
    for name, (kind, _, size, _) in KINDS.items():
        made.inputs.add(name=name, datatype=kind.value, shape=[1, size])
        made.raw_input_contents.append(RAW[name])
    change(made)
    return made


def typed(change: Callable[[Any], object]) -> pb.ModelInferRequest:
    """All inputs but FP16 in typed contents; it has none."""

    def fill(made: Any) -> None:
        del made.raw_input_contents[:]
        for tensor in made.inputs:
            if tensor.name in CONTENTS:
                data = [b"a"] if tensor.name == "t" else KINDS[tensor.name][3]
                getattr(tensor.contents, CONTENTS[tensor.name]).extend(data)
        change(made)

    return message(fill)


def change(**values: Any) -> Callable[[Any], None]:
    """Set fields of the first input; shapes and lists as a whole."""

    def apply(made: Any) -> None:
        for name, value in values.items():
            if name == "shape":
                del made.inputs[0].shape[:]
                made.inputs[0].shape.extend(value)
            else:
                setattr(made.inputs[0], name, value)

    return apply


def raw(place: int, content: bytes) -> Callable[[Any], None]:
    return lambda made: made.raw_input_contents.__setitem__(place, content)


GRPC = {
    "no inputs": (pb.ModelInferRequest(model_name="toy"), "'x'"),
    "name unknown": (message(change(name="y")), "'y'"),
    "name empty": (message(change(name="")), "''"),
    "name of another": (message(change(name="n")), "'n'"),
    "datatype of another": (message(change(datatype="FP64")), "'x'"),
    "datatype empty": (message(change(datatype="")), "'x'"),
    "shape empty": (message(change(shape=[])), "'x'"),
    "shape of other rank": (message(change(shape=[1, 2, 2])), "'x'"),
    "shape negative": (message(change(shape=[-1, 4])), "'x'"),
    "shape with no rows": (message(change(shape=[0, 4])), "'x'"),
    "shape of the largest number": (message(change(shape=[2**63 - 1, 4])), "'x'"),
    "shape of ten thousand axes": (message(change(shape=[1] * 10_000)), "'x'"),
    "rows that differ": (message(lambda m: (change(shape=[2, 4])(m), raw(0, bytes(32))(m))), "'n'"),
    "input missing": (message(lambda m: (m.inputs.pop(), m.raw_input_contents.pop())), "'h'"),
    "raw too few": (message(lambda m: m.raw_input_contents.pop()), "raw_input_contents"),
    "raw too many": (message(lambda m: m.raw_input_contents.append(b"")), "raw_input_contents"),
    "raw too short": (message(raw(0, bytes(15))), "'x'"),
    "raw empty": (message(raw(0, b"")), "'x'"),
    "raw BOOL of 2": (message(raw(3, b"\2")), "'b'"),
    "raw BYTES cut off": (message(raw(2, b"\2\0\0\0a")), "'t'"),
    "raw BYTES no text": (message(raw(2, b"\1\0\0\0\xff")), "'t'"),
    "raw and typed": (message(lambda m: m.inputs[0].contents.fp32_contents.append(1.0)), "'x'"),
    "typed FP16": (typed(lambda m: None), "'h'"),
    "typed too short": (typed(lambda m: m.inputs[0].contents.fp32_contents.pop()), "'x'"),
    "typed as another": (typed(lambda m: m.inputs[0].contents.int_contents.append(1)), "'x'"),
    "typed UINT8 too large": (typed(lambda m: m.inputs[4].contents.uint_contents.__setitem__(0, 256)), "'u'"),
    "typed BYTES no text": (typed(lambda m: m.inputs[2].contents.bytes_contents.__setitem__(0, b"\xff")), "'t'"),
    "id too long": (message(lambda m: setattr(m, "id", "a" * 201)), "id"),
    "output unknown": (message(lambda m: m.outputs.add(name="q")), "'q'"),
    "output twice": (message(lambda m: (m.outputs.add(name="o_x"), m.outputs.add(name="o_x"))), "'o_x'"),
    "timeout a text": (message(lambda m: setattr(m.parameters["timeout"], "string_param", "1")), "timeout"),
    "timeout negative": (message(lambda m: setattr(m.parameters["timeout"], "int64_param", -1)), "timeout"),
}


@pytest.mark.parametrize("name", GRPC)
def test_malformed_messages_are_invalid_arguments_that_name_the_field(server, name):
    content, word = GRPC[name]
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with pytest.raises(grpc.RpcError) as failed:
        timed(server, f"gRPC {name}", lambda: server.stub.ModelInfer(content, metadata=metadata, timeout=20))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT, failed.value.details()
    assert word in failed.value.details()
    assert not any(secret in failed.value.details() for secret in SECRETS)


# -- rows -----------------------------------------------------------------------------------------------------------------------

ROW = {"x": [1.0, 2.0, 3.0, 4.0], "n": [1, 2], "t": "a", "h": [1.0, 2.0], "b": True, "u": 7}


def row(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**ROW, **changes}.items() if value is not None}


ROWS = {
    "field missing": (row(x=None), "'x'"),
    "field unknown": (row(y=1), "'y'"),
    "text for numbers": (row(x="a"), "'x'"),
    "nulls": (row(x=[None] * 4), "'x'"),
    "too short": (row(x=[1.0]), "'x'"),
    "too long": (row(x=[1.0] * 5), "'x'"),
    "too deep": (row(x=[[[1.0]]]), "'x'"),
    "too large": (row(x=[1e39, 0, 0, 0]), "'x'"),
    "INT64 too large": (row(n=[2**63, 0]), "'n'"),
    "INT64 a fraction": (row(n=[0.5, 0]), "'n'"),
    "UINT8 too large": (row(u=256), "'u'"),
    "BOOL a number": (row(b=1), "'b'"),
    "BYTES a number": (row(t=1), "'t'"),
}


@pytest.mark.parametrize("name", ROWS)
def test_malformed_rows_are_refused_by_their_field_in_every_form(server, name):
    given, word = ROWS[name]
    forms = {
        "/predict": [given, [given, given], {"rows": [given]}],
        "/invocations": [
            {"instances": [given]},
            {"dataframe_records": [given]},
            {"dataframe_split": {"columns": list(given), "data": [list(given.values())]}},
            {"inputs": {name: [value] for name, value in given.items()}},
        ],
        "/v2/models/toy/generate": [given],
        "/v2/models/toy/generate_stream": [given],
    }
    for path, contents in forms.items():
        for place, content in enumerate(contents):
            check(post(server, f"{path} {place} {name}", json.dumps(content).encode(), path), (word,))


FORMS = {
    "predict: a number": ("/predict", b"7", "row"),
    "predict: no rows": ("/predict", b"[]", "rows"),
    "predict: rows no list": ("/predict", b'{"rows": 7}', "rows"),
    "predict: a row that is none": ("/predict", b"[7]", "row"),
    "invocations: no form": ("/invocations", b"{}", "dataframe_split"),
    "invocations: two forms": ("/invocations", b'{"inputs": [], "instances": []}', "dataframe_split"),
    "invocations: params": ("/invocations", b'{"inputs": [1], "params": {"a": 1}}', "params"),
    "invocations: split without data": ("/invocations", b'{"dataframe_split": {"columns": ["x"]}}', "data"),
    "invocations: columns twice": (
        "/invocations",
        b'{"dataframe_split": {"columns": ["x", "x"], "data": []}}',
        "columns",
    ),
    "invocations: ragged": ("/invocations", b'{"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}}', "data"),
    "invocations: lengths differ": ("/invocations", b'{"inputs": {"x": [1], "n": [1, 2]}}', "inputs"),
    "generate: id a number": ("/v2/models/toy/generate", b'{"id": 7}', "'id'"),
    "generate: id too long": ("/v2/models/toy/generate", json.dumps({**ROW, "id": "a" * 201}).encode(), "'id'"),
    "generate: parameters no object": ("/v2/models/toy/generate", b'{"parameters": 7}', "'parameters'"),
    "load: no object": ("/v2/repository/models/toy/load", b"[]", "object"),
}


@pytest.mark.parametrize("name", FORMS)
def test_malformed_forms_are_refused_by_their_field(server, name):
    path, content, word = FORMS[name]
    check(post(server, name, content, path), (word,))


# -- headers --------------------------------------------------------------------------------------------------------------------

TYPE = b"Content-Type: application/json"
HEADERS = {
    "content type": (415, b"Content-Type", [b"Content-Type: text/plain"]),
    "content type twice": (400, b"content-type", [TYPE, TYPE]),
    "content encoding": (415, b"Content-Encoding", [TYPE, b"Content-Encoding: br"]),
    "content encoding that lies": (400, b"Content-Encoding", [TYPE, b"Content-Encoding: gzip"]),
    "token twice": (400, b"authorization", [TYPE, AUTH.strip()]),
    "host twice": (400, b"host", [TYPE, HOST.strip()]),
    "expectation": (417, b"expectation", [TYPE, b"Expect: more"]),
    "transfer encoding": (400, b"transfer encoding", [TYPE, b"Transfer-Encoding: gzip, chunked"]),
    "too large": (431, b"headers", [TYPE, b"X: " + b"a" * 20_000]),
    "too many": (431, b"headers", [TYPE, *[b"X-%d: 1" % number for number in range(99)]]),
    "length twice": (400, b"content-length", [TYPE, b"Content-Length: 2"]),
    "binary length twice": (
        400,
        b"inference-header-content-length",
        [TYPE, *[b"Inference-Header-Content-Length: 2"] * 2],
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_headers_are_refused_by_their_name(server, name):
    status, word, lines = HEADERS[name]
    chunked = any(line.startswith(b"Transfer") for line in lines)
    sized = lines if chunked else [*lines, b"Content-Length: 2"]
    head = b"POST " + INFER.encode() + b" HTTP/1.1\r\n" + HOST + AUTH + b"".join(line + b"\r\n" for line in sized)

    def ask() -> bytes:
        with dial(server.port) as link:
            link.sendall(head + b"\r\n{}")
            link.shutdown(socket.SHUT_WR)
            return read_all(link)

    answer = timed(server, f"header {name}", ask)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert word in answer
