"""The Open Inference Protocol over HTTP, against a real replica process."""

import json
import struct

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.inference.serving import HEADERS, INFER, body, find_prediction, oracle, toy_rows

JSON = {**HEADERS, "content-type": "application/json"}


def tensor(**changes) -> dict:
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}]}


def test_infer_json_answers_what_onnxruntime_says(served):
    _, client, _, folder = served
    for count in (1, 2, 7, 300):
        rows = toy_rows(count, seed=count)
        answer = client.post(INFER, json=body(rows, id="mine"))
        assert answer.status_code == 200, answer.text
        output = answer.json()["outputs"][0]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [count, 3])
        assert np.allclose(np.reshape(output["data"], output["shape"]), oracle(folder / "bundle", rows), atol=1e-6)
        assert answer.json()["id"] == "mine"
        assert answer.json()["model_name"] == "toy"
        assert answer.json()["parameters"]["skyloom-prediction-id"] == answer.headers["skyloom-prediction-id"]


def test_infer_nested_data_and_version_address_answer_the_same(served):
    _, client, _, folder = served
    rows = toy_rows(3)
    answer = client.post("/v2/models/toy/versions/1/infer", json=tensor(shape=[3, 4], data=rows.tolist()))
    assert np.allclose(
        np.reshape(answer.json()["outputs"][0]["data"], (3, 3)), oracle(folder / "bundle", rows), atol=1e-6
    )


def test_infer_without_an_id_is_named_by_its_prediction(served):
    _, client, _, _ = served
    answer = client.post(INFER, json=body(toy_rows(1)))
    assert answer.json()["id"] == answer.headers["skyloom-prediction-id"]


def test_infer_large_binary_tensor_in_pieces_answers_the_same_on_one_connection(served):
    _, client, _, folder = served
    rows = toy_rows(4_096)
    tensor = {"name": "x", "shape": [4_096, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}
    content = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"content-length": f"{len(content) + rows.nbytes}", "content-type": "application/octet-stream"}
    headers["inference-header-content-length"] = str(len(content))
    wanted = oracle(folder / "bundle", rows)
    for size in (2**17, 20_000, 5_000, 1_000, len(content)):
        sent = content + rows.tobytes()
        pieces = (sent[start : start + size] for start in range(0, len(sent), size))
        answer = client.post(INFER, content=pieces, headers=headers)
        found = answer.content[int(answer.headers["inference-header-content-length"]) :]
        assert np.allclose(np.frombuffer(found, np.float32).reshape(wanted.shape), wanted, atol=1e-6)


def test_infer_binary_tensors_both_ways(served):
    _, client, _, folder = served
    rows = toy_rows(5)
    head = {
        "inputs": [{"name": "x", "shape": [5, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
    content = json.dumps(head).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(content))}
    answer = client.post(INFER, content=content + rows.tobytes(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    split = int(answer.headers["inference-header-content-length"])
    described = json.loads(answer.content[:split])["outputs"][0]
    assert described["parameters"]["binary_data_size"] == 60
    scores = np.frombuffer(answer.content[split:], "<f4").reshape(described["shape"])
    assert np.allclose(scores, oracle(folder / "bundle", rows), atol=1e-6)


def test_infer_binary_nan_is_answered_as_null(served):
    _, client, _, _ = served
    head = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}
    content = json.dumps(head).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(content))}
    answer = client.post(INFER, content=content + struct.pack("<4f", 1, float("nan"), 3, float("inf")), headers=headers)
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [None, None, None]


def test_infer_answer_is_in_the_request_log_under_its_id(served):
    _, client, _, folder = served
    answer = client.post(INFER, json=body(toy_rows(2), id="client's own"))
    logged = find_prediction(folder / "requests", answer.headers["skyloom-prediction-id"])
    assert (logged.revision, logged.rows, logged.status, logged.client_id) == ("rev_1", 2, 200, "client's own")
    assert json.loads(bytes(logged.outputs)) == answer.json()["outputs"]


def test_health_answers_without_a_token_and_nothing_else_does(served):
    _, client, _, _ = served
    with httpx.Client(base_url=client.base_url, trust_env=False, verify=False) as stranger:
        assert stranger.get("/v2/health/live").json() == {"live": True}
        assert stranger.get("/v2/health/ready").json() == {"ready": True}
        for path in ("/v2", "/v2/models/toy", "/v2/models/toy/ready", "/metrics", "/", "/v2/models/other", "/../etc"):
            assert stranger.get(path).status_code == 401, path
        refused = stranger.post(INFER, json=body(toy_rows(1)))
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer wrong", "Basic test-token", "test-token", "Bearer test-token x", "Bearer " + "a" * 8000],
)
def test_wrong_tokens_are_refused(served, value):
    _, client, _, _ = served
    assert client.get("/v2", headers={"authorization": value}).status_code == 401


def test_metadata_describes_server_and_model(served):
    _, client, _, _ = served
    assert client.get("/v2").json()["name"] == "skyloom"
    for path in ("/v2/models/toy", "/v2/models/toy/versions/1"):
        described = client.get(path).json()
        assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert described["versions"] == ["1"]
    assert client.get("/v2/models/toy/ready").json() == {"name": "toy", "ready": True}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/other",
        "/v2/models/toy/versions/2",
        "/v2/models/other/ready",
        "/v3",
        "/v2/models",
        "/v2/models//ready",
    ],
)
def test_unknown_addresses_and_models_are_404(served, path):
    _, client, _, _ = served
    assert client.get(path).status_code == 404


def test_unknown_model_of_an_inference_is_404_and_named(served):
    _, client, _, _ = served
    answer = client.post("/v2/models/nobody/infer", json=body(toy_rows(1)))
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]
    assert answer.json()["code"] == "model_unknown"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_on_infer_are_4xx(served, method):
    _, client, _, _ = served
    assert 400 <= client.request(method, INFER).status_code < 500


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/x-pickle", ""]
)
def test_content_types_that_a_web_page_could_send_are_415(served, kind):
    _, client, _, _ = served
    answer = client.post(INFER, content=json.dumps(body(toy_rows(1))), headers={"content-type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "exi"])
def test_compressions_that_are_not_known_are_415(served, encoding):
    _, client, _, _ = served
    assert client.post(INFER, content=b"x", headers={**JSON, "content-encoding": encoding}).status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost:x", ""])
def test_foreign_host_headers_are_refused(served, host):
    _, client, _, _ = served
    assert client.get("/v2/health/live", headers={"host": host}).status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:80", "[::1]", "LOCALHOST"])
def test_loopback_host_headers_are_taken(served, host):
    _, client, _, _ = served
    assert client.get("/v2/health/live", headers={"host": host}).status_code == 200


BAD_BODIES = {
    "empty": b"",
    "no json": b"{",
    "not utf-8": b'{"inputs": "\xff\xfe"}',
    "a list": b"[]",
    "null": b"null",
    "no inputs": b"{}",
    "empty inputs": b'{"inputs": []}',
    "deep": b"[" * 100_000,
    "nan": b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,2,3]}]}',
    "huge number": b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e999,1,2,3]}]}',
    "beyond float32": json.dumps(tensor(data=[1e300, 1, 2, 3])).encode(),
    "strings": json.dumps(tensor(data=["1", "2", "3", "4"])).encode(),
    "nulls": json.dumps(tensor(data=[None, 1, 2, 3])).encode(),
    "booleans": json.dumps(tensor(data=[True, 1, 2, 3])).encode(),
    "an object": json.dumps(tensor(data={"a": 1})).encode(),
    "ragged": json.dumps(tensor(shape=[2, 4], data=[[1, 2, 3, 4], [1]])).encode(),
    "wrongly nested": json.dumps(tensor(shape=[2, 4], data=[[1, 2], [3, 4], [5, 6], [7, 8]])).encode(),
    "too few": json.dumps(tensor(data=[1, 2, 3])).encode(),
    "too many": json.dumps(tensor(data=[1] * 5)).encode(),
    "no data": json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32"}]}).encode(),
    "wrong name": json.dumps(tensor(name="y")).encode(),
    "wrong type": json.dumps(tensor(datatype="FP64")).encode(),
    "bytes": json.dumps(tensor(datatype="BYTES")).encode(),
    "unknown type": json.dumps(tensor(datatype="pickle")).encode(),
    "wrong width": json.dumps(tensor(shape=[1, 5], data=[1] * 5)).encode(),
    "wrong rank": json.dumps(tensor(shape=[4])).encode(),
    "empty batch": json.dumps(tensor(shape=[0, 4], data=[])).encode(),
    "negative rows": json.dumps(tensor(shape=[-1, 4])).encode(),
    "2^63 rows": json.dumps(tensor(shape=[2**63, 4])).encode(),
    "2^63 columns": json.dumps(tensor(shape=[1, 2**63])).encode(),
    "2^600 rows": json.dumps(tensor(shape=[2**600, 4])).encode(),
    "too many rows": json.dumps(tensor(shape=[4097, 4], data=[0] * 4 * 4097)).encode(),
    "many axes": json.dumps(tensor(shape=[1] * 40)).encode(),
    "twice": json.dumps({"inputs": tensor()["inputs"] * 2}).encode(),
    "unknown output": json.dumps({**tensor(), "outputs": [{"name": "nothing"}]}).encode(),
    "output twice": json.dumps({**tensor(), "outputs": [{"name": "scores"}, {"name": "scores"}]}).encode(),
    "binary size without bytes": json.dumps(tensor(parameters={"binary_data_size": 16})).encode(),
    "negative binary size": json.dumps(tensor(parameters={"binary_data_size": -1})).encode(),
    "binary size as text": json.dumps(tensor(parameters={"binary_data_size": "16"})).encode(),
    "long id": json.dumps({**tensor(), "id": "a" * 1000}).encode(),
}


@pytest.mark.parametrize("content", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_bodies_get_400_with_words_and_no_insides(served, content):
    _, client, _, folder = served
    answer = client.post(INFER, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    for secret in ("Traceback", ".py", str(folder), "/site-packages"):
        assert secret not in answer.text


@pytest.mark.parametrize("length", ["-1", "x", "999999999999999999", "5", str(10**11)])
def test_wrong_binary_header_lengths_are_400(served, length):
    _, client, _, _ = served
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
    assert client.post(INFER, content=json.dumps(tensor()).encode(), headers=headers).status_code == 400


def test_body_beyond_the_limit_is_413(served):
    _, client, _, _ = served
    answer = client.post(INFER, content=b" " * (16 * 2**20 + 1), headers=JSON)
    assert answer.status_code == 413


def test_metrics_count_what_happened(served):
    _, client, _, _ = served
    before = metric(client, "skyloom_inference_requests_total")
    client.post(INFER, json=body(toy_rows(3)))
    client.post(INFER, content=b"{", headers=JSON)
    assert metric(client, "skyloom_inference_requests_total") == before + 2
    assert metric(client, "skyloom_inference_duration_seconds_count") == before + 2
    assert metric(client, "skyloom_inference_client_errors_total") > 0
    assert metric(client, "skyloom_inference_server_errors_total") == 0


def metric(client, name) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name + "{"))
    return float(line.rsplit(" ", 1)[1])


NUMBERS = st.one_of(
    st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans(), st.lists(st.floats(), max_size=3)
)
VALUES = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", ""]) | VALUES,
        "shape": st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**63, 2**64, -(2**63)]), max_size=4) | VALUES,
        "datatype": st.sampled_from(["FP32", "FP16", "BOOL", "INT64", "BYTES"]) | VALUES,
        "data": st.lists(st.floats(), max_size=12) | VALUES,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "a"]), VALUES, max_size=2) | VALUES,
    },
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(TENSORS, max_size=3) | VALUES,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["scores", "z"])}), max_size=2) | VALUES,
        "id": st.text(max_size=10) | VALUES,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_output", "b"]), VALUES, max_size=2),
    },
)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(REQUESTS | VALUES)
def test_any_json_is_answered_without_a_server_error(served, value):
    _, client, _, _ = served
    answer = client.post(INFER, content=json.dumps(value).encode(), headers=JSON)
    assert answer.status_code in (200, 400), answer.text
    msgspec.json.decode(answer.content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_with_a_binary_header_are_answered_without_a_server_error(served, tail, length):
    _, client, _, _ = served
    content = json.dumps(tensor(parameters={"binary_data_size": 16})).encode() + tail
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
    assert client.post(INFER, content=content, headers=headers).status_code in (200, 400)
