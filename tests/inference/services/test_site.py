"""A service over HTTP, as one replica."""

import json
import re
import time

import httpx
import numpy as np
import pytest

from skyloom.inference.services.frames import LENT_BYTES
from tests.inference.gateway.gateways import backend, gateway, make_route, share
from tests.inference.services.workplace import write_service
from tests.inference.serving import HEADERS, TOKEN, find_prediction, running, write_access


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replica")
    (folder / "bundle").mkdir()
    write_service(folder / "bundle")
    with running(folder) as (process, client, _):
        yield process, client, folder
        assert process.terminate() == 0, process.text()


@pytest.fixture
def client(replica) -> httpx.Client:
    return replica[1]


def test_endpoint_answers_json_and_leaves_a_line_in_the_request_log(replica) -> None:
    _, client, folder = replica
    answer = client.post("/greet", json={"name": "Ada"})
    assert (answer.status_code, answer.json()) == (200, "hello Ada")
    line = find_prediction(folder / "requests", answer.headers["skyloom-prediction-id"])
    assert line.status == 200
    assert client.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"json": {"name": 1}}, 422, "$.name"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "greet"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "greet"),
        ({"content": b"name=Ada", "headers": {"content-type": "text/plain"}}, 415, "application/json"),
        ({"json": {"name": "x"}, "headers": {"authorization": "Bearer wrong"}}, 401, "token"),
        ({"json": {"name": "x"}, "headers": {"host": "evil.example"}}, 421, "Host"),
        ({"json": {"name": "x"}, "headers": {"content-encoding": "gzip"}}, 415, "Compressed"),
    ],
)
def test_bad_calls_are_refused_in_words(client, sent, status, words) -> None:
    answer = client.post("/greet", **sent)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_wrong_verbs_and_addresses_are_refused(client) -> None:
    assert client.get("/greet").status_code == 405
    assert client.post("/nobody", json={}).status_code in (404, 405)
    assert client.post("/__init__", json={}).status_code in (404, 405)
    assert httpx.post(str(client.base_url) + "/greet", json={"name": "x"}).status_code == 401


def test_users_exception_is_told_without_its_trace(replica) -> None:
    process, client, _ = replica
    answer = client.post("/fail", json={"how": "oil"})
    assert answer.status_code == 500
    assert "it broke: oil" in answer.text and "Traceback" not in answer.text and "/" not in answer.json()["error"]
    assert "Traceback" in process.text()
    assert client.post("/fail", json={"how": "value"}).status_code == 422


def events(answer: httpx.Response) -> list[tuple[str, object]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        name = re.search(r"^event: (.*)$", block, re.M)
        content = "\n".join(re.findall(r"^data: (.*)$", block, re.M))
        found.append((name[1] if name else "", json.loads(content)))
    return found


def test_late_endpoint_is_answered_504_which_nobody_sends_again(client) -> None:
    answer = client.post("/sleep", json={"duration_s": 0.7})
    assert answer.status_code == 504 and "within 0.3 s" in answer.json()["error"]


def test_generator_answers_in_events_and_says_how_it_ended(client) -> None:
    answer = client.post("/count", json={"to": 200})
    assert answer.headers["content-type"] == "text/event-stream"
    told = events(answer)
    assert [value for name, value in told if not name] == list(range(200))
    assert told[-1][0] == "done"
    broken = events(client.post("/count", json={"to": 5, "fail_at": 2}))
    assert [value for name, value in broken if not name] == [0, 1]
    assert broken[-1][0] == "error" and "half way" in broken[-1][1]["error"]
    assert client.post("/count", json={"to": "many"}).status_code == 422


def test_client_that_leaves_a_stream_stops_its_generator(client) -> None:
    with client.stream("POST", "/count", json={"to": 10**9}) as answer:
        assert next(answer.iter_lines()) == "data: 0"
    # Its only place is free again: the endless one is over.
    assert len(events(client.post("/count", json={"to": 3}))) == 4


@pytest.mark.parametrize("size", [3, LENT_BYTES + 1])
def test_raw_bytes_come_and_go_as_they_are(client, size) -> None:
    content = bytes(range(256)) * (size // 256) + b"abc"
    answer = client.post("/echo", content=content, headers={"content-type": "application/octet-stream"})
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"


def test_openapi_describes_arguments_and_answers(client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    greet = document["paths"]["/greet"]["post"]
    assert greet["summary"] == "Say hello."
    schema = greet["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["name"] == {"type": "string"} and schema["required"] == ["name"]
    assert document["components"]["schemas"]["Review"]["properties"]["stars"] == {"type": "integer", "default": 3}
    assert "text/event-stream" in document["paths"]["/count"]["post"]["responses"]["200"]["content"]
    assert "application/octet-stream" in document["paths"]["/echo"]["post"]["requestBody"]["content"]
    assert httpx.get(str(client.base_url) + "/openapi.json").status_code == 401


def test_tensor_endpoint_is_the_open_inference_protocols_model(client) -> None:
    described = client.get("/v2/models/toy").json()
    assert described["platform"] == "skyloom_service"
    assert described["inputs"] == [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}]
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    tensor = {"name": "rows", "shape": [2, 4], "datatype": "FP32", "data": rows.ravel().tolist()}
    answer = client.post("/v2/models/toy/infer", json={"inputs": [tensor]}).json()
    assert answer["outputs"][0]["data"] == (rows * 2).ravel().tolist()


def test_metrics_count_calls(client) -> None:
    def requests() -> float:
        return float(re.search(r"^skyloom_inference_requests_total{.*} (\S+)$", client.get("/metrics").text, re.M)[1])

    before = requests()
    client.post("/greet", json={"name": "x"})
    assert requests() == before + 1


def test_dead_service_process_leaves_the_data_plane_up(replica) -> None:
    _, client, _ = replica
    answer = client.post("/fail", json={"how": "die"})
    assert answer.status_code == 500 and "exited with code 7" in answer.json()["error"]
    statuses = set()
    while (answer := client.post("/greet", json={"name": "x"})).status_code != 200:
        statuses.add(answer.status_code)
        assert answer.headers["retry-after"] and "started again" in answer.json()["error"]
    assert statuses <= {503}
    assert HEADERS


def test_words_of_a_refusal_are_the_services_own(client) -> None:
    assert client.post("/fail", json={"how": "value"}).json()["error"] == "two is not allowed"
    assert client.post("/fail", json={"how": "bad"}).json()["error"] == "not that one Change the arguments."
    answer = client.post("/nobody", json={})
    assert answer.status_code == 404 and "/greet" in answer.json()["error"]
    assert httpx.post(str(client.base_url) + "/nobody", json={}).status_code == 401  # who may not call learns no names


def test_stream_through_a_gateway_ends_in_words_within_the_lists_time_when_its_token_is_revoked(
    replica, tmp_path
) -> None:
    _, direct, folder = replica
    shown = {"authorization": "Bearer second"}
    write_access(folder / "access.json", TOKEN, "second")
    while direct.post("/greet", json={"name": "x"}, headers=shown).status_code == 401:
        time.sleep(0.02)
    write_access(tmp_path / "access.json", "second")
    route = make_route(share("rev_1", backend(direct.base_url.port)))
    with (
        gateway(tmp_path, route) as (_, client),
        client.stream("POST", "/count", json={"to": 10**9}, headers=shown) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        write_access(folder / "access.json", TOKEN)
        told = list(lines)  # or else without end
        assert "event: error" in told and "revoked or has expired" in "".join(told[-5:])
