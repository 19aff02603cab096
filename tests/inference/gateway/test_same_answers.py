"""A client cannot tell whether a gateway stands before a model: the same request, the same answer, on every protocol."""

import contextlib
import gzip
import json
import re

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.inference.gateway.gateways import backend, gateway, make_route, share
from tests.inference.services.test_openai import SOURCE
from tests.inference.services.workplace import write_service
from tests.inference.serving import HEADERS, INFER, TOKEN, body, running, toy_rows

JSON = {"content-type": "application/json"}
ROWS = toy_rows(3)
_HEAD = json.dumps(
    {
        "inputs": [{"name": "x", "shape": [3, 4], "datatype": "FP32", "parameters": {"binary_data_size": ROWS.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
).encode()
_BINARY = {"inference-header-content-length": str(len(_HEAD)), "content-type": "application/octet-stream"}
_SAY = {"model": "toy", "messages": [{"role": "user", "content": "one two three"}]}
_BOOM = {"model": "toy", "messages": [{"role": "user", "content": "one boom"}]}


def told(value: object) -> bytes:
    return json.dumps(value).encode()


MODEL_TABLE = {
    "server": ("GET", "/v2", {}, b""),
    "metadata": ("GET", "/v2/models/toy", {}, b""),
    "version": ("GET", "/v2/models/toy/versions/1", {}, b""),
    "config": ("GET", "/v2/models/toy/config", {}, b""),
    "ready": ("GET", "/v2/models/toy/ready", {}, b""),
    "openapi": ("GET", "/openapi.json", {}, b""),
    "index": ("POST", "/v2/repository/index", JSON, b"{}"),
    "models of openai": ("GET", "/v1/models", {}, b""),
    "infer": ("POST", INFER, JSON, told(body(ROWS, id="mine"))),
    "infer, own id": ("POST", INFER, {**JSON, "x-request-id": "abc"}, told(body(ROWS))),
    "infer, zipped": ("POST", INFER, {**JSON, "content-encoding": "gzip"}, gzip.compress(told(body(ROWS)), mtime=0)),
    "infer, answer zipped": ("POST", INFER, {**JSON, "accept-encoding": "gzip"}, told(body(toy_rows(500)))),
    "infer, binary": ("POST", INFER, _BINARY, _HEAD + ROWS.tobytes()),
    "infer, binary and short": ("POST", INFER, _BINARY, _HEAD + ROWS.tobytes()[:-1]),
    "invocations": ("POST", "/invocations", JSON, told({"inputs": ROWS.tolist()})),
    "invocations, csv": ("POST", "/invocations", {"content-type": "text/csv"}, b"a,b,c,d\n1,2,3,4\n"),
    "predict": ("POST", "/predict", JSON, told(ROWS.tolist())),
    "generate": ("POST", "/v2/models/toy/generate", JSON, told({"text_input": "a"})),
    "torn": ("POST", INFER, JSON, b"{"),
    "another shape": ("POST", INFER, JSON, told(body(ROWS[:, :2]))),
    "another model": ("POST", "/v2/models/other/infer", JSON, told(body(ROWS))),
    "another place": ("GET", "/v2/nowhere?a=%20b", {}, b""),
    "another method": ("GET", INFER, {}, b""),
    "another type": ("POST", INFER, {"content-type": "image/png"}, b"x"),
    "a stranger": ("POST", INFER, {**JSON, "authorization": "Bearer nobody"}, told(body(ROWS))),
}
SERVICE_TABLE = {
    "models": ("GET", "/v1/models", {}, b""),
    "openapi": ("GET", "/openapi.json", {}, b""),
    "chat": ("POST", "/v1/chat/completions", JSON, told(_SAY)),
    "chat, in parts": ("POST", "/v1/chat/completions", JSON, told({**_SAY, "stream": True})),
    "chat, fails": ("POST", "/v1/chat/completions", JSON, told(_BOOM)),
    "chat, fails in the middle": ("POST", "/v1/chat/completions", JSON, told({**_BOOM, "stream": True})),
    "chat, another model": ("POST", "/v1/chat/completions", JSON, told({**_SAY, "model": "gpt"})),
    "completions": ("POST", "/v1/completions", JSON, told({"model": "toy", "prompt": "upon"})),
    "embeddings": ("POST", "/v1/embeddings", JSON, told({"model": "toy", "input": ["a", "bc"]})),
    "own method": ("POST", "/embed", JSON, told({"texts": ["a"]})),
    "own method, in parts": ("POST", "/complete", JSON, told({"prompt": "upon"})),
    "own method, refused": ("POST", "/embed", JSON, told({"texts": 3})),
}
# Ids of requests and predictions, and moments.
_CHANGING = re.compile(rb"pred_\w+|(?<=\"id\":\")[\w.-]+|(?<=\"created\":)\d+|(?<=_ns\":)\d+")
_OWN_HEADERS = {"x-request-id", "date", "content-length", "keep-alive", "connection"}


@contextlib.contextmanager
def both(folder):
    """Clients of a replica that stands alone, and of one behind a gateway; with the addresses of their gRPC."""
    with running(folder) as (_, alone, direct), running(folder, "rep_2", private=True) as (_, _, private):
        route = make_route(share("rev_1", backend(private.rest_port)))
        with gateway(folder, route) as (_, fronted):
            yield (alone, f"127.0.0.1:{direct.grpc_port}"), (fronted, f"127.0.0.1:{route.grpc_port}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with both(tmp_path_factory.mktemp("model")) as made:
        yield made


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parrot")
    (folder / "bundle").mkdir()
    write_service(folder / "bundle", SOURCE, "Parrot")
    with both(folder) as made:
        yield made


def answered(client: httpx.Client, method: str, path: str, headers: dict[str, str], content: bytes):
    answer = client.request(method, path, headers={"accept-encoding": "identity", **headers}, content=content)
    kept = {name: value for name, value in answer.headers.items() if name not in _OWN_HEADERS}
    kept = {name: _CHANGING.sub(b"*", value.encode()) for name, value in kept.items()}
    return answer.status_code, kept, _CHANGING.sub(b"*", answer.content)


@pytest.mark.parametrize("name", MODEL_TABLE)
def test_model_answers_the_same_with_and_without_a_gateway(model, name):
    (alone, _), (fronted, _) = model
    assert answered(fronted, *MODEL_TABLE[name]) == answered(alone, *MODEL_TABLE[name])


@pytest.mark.parametrize("name", SERVICE_TABLE)
def test_service_answers_the_same_with_and_without_a_gateway(service, name):
    (alone, _), (fronted, _) = service
    assert answered(fronted, *SERVICE_TABLE[name]) == answered(alone, *SERVICE_TABLE[name])


def infer_request(name: str = "x") -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="toy", id="mine", raw_input_contents=[ROWS.tobytes()])
    made.inputs.add(name=name, datatype="FP32", shape=ROWS.shape)
    return made


def scrubbed(message) -> str:
    return re.sub(r"pred_\w+|_ns: \d+", "*", str(message))


GRPC_TABLE = {
    "live": lambda stub, auth: stub.ServerLive(pb.ServerLiveRequest()),
    "server": lambda stub, auth: stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=auth),
    "metadata": lambda stub, auth: stub.ModelMetadata(pb.ModelMetadataRequest(name="toy"), metadata=auth),
    "config": lambda stub, auth: stub.ModelConfig(pb.ModelConfigRequest(name="toy"), metadata=auth),
    "infer": lambda stub, auth: stub.ModelInfer(infer_request(), metadata=auth),
    "refused": lambda stub, auth: stub.ModelInfer(infer_request("y"), metadata=auth),
    "a stranger": lambda stub, auth: stub.ModelInfer(infer_request()),
    "another model": lambda stub, auth: stub.ModelReady(pb.ModelReadyRequest(name="other"), metadata=auth),
    "stream": lambda stub, auth: list(
        stub.ModelStreamInfer(iter([infer_request(), infer_request("y"), infer_request()]), metadata=auth)
    ),
}


@pytest.mark.parametrize("name", GRPC_TABLE)
def test_grpc_answers_the_same_with_and_without_a_gateway(model, name):
    def called(address: str) -> tuple[str, str]:
        with grpc.insecure_channel(address) as channel:
            try:
                answer = GRPC_TABLE[name](GRPCInferenceServiceStub(channel), [("authorization", f"Bearer {TOKEN}")])
            except grpc.RpcError as error:
                return error.code().name, scrubbed(error.details())
        return "OK", scrubbed(answer)

    (_, alone), (_, fronted) = model
    assert called(fronted) == called(alone)


def test_reflection_answers_the_same_with_and_without_a_gateway(model):
    asked = reflection_pb2.ServerReflectionRequest(list_services="")

    def listed(address: str) -> str:
        with grpc.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            auth = [("authorization", HEADERS["authorization"])]
            return str(list(stub.ServerReflectionInfo(iter([asked]), metadata=auth)))

    (_, alone), (_, fronted) = model
    assert listed(fronted) == listed(alone) != "[]"
