"""The protocol's extensions over HTTP: configuration, statistics, repository, generate, compression."""

import functools
import gzip
import json
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.wire.messages import Response
from skyloom.inference.wire.packing import packed, unpacked, unpacked_at_once
from tests.inference.serving import INFER, body, oracle, toy_rows

MODEL = "/v2/models/toy"


def test_config_says_the_shapes_without_the_batch(served):
    _, client, _, _ = served
    for path in (f"{MODEL}/config", f"{MODEL}/versions/1/config"):
        told = client.get(path).json()
        assert told["name"] == "toy"
        assert told["max_batch_size"] == 4096
        assert told["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]
        assert told["version_policy"] == {"specific": {"versions": [1]}}


def statistics(client: httpx.Client) -> dict:
    (told,) = client.get("/v2/models/stats").json()["model_stats"]
    assert [told] == client.get(f"{MODEL}/versions/1/stats").json()["model_stats"]
    return told


def test_statistics_count_requests_rows_and_batches_and_their_parts_make_the_whole(served):
    _, client, _, _ = served
    before = statistics(client)
    for rows in (1, 5, 5):
        client.post(INFER, json=body(toy_rows(rows)))
    client.post(INFER, json={"inputs": []})
    after = statistics(client)
    assert after["inference_count"] - before["inference_count"] == 11
    assert after["execution_count"] - before["execution_count"] == 3
    spent, earlier = after["inference_stats"], before["inference_stats"]
    assert all(
        spent[part]["count"] - earlier[part]["count"] == 3
        for part in ("success", "queue", "compute_input", "compute_infer", "compute_output")
    )
    parts = sum(
        spent[part]["ns"] - earlier[part]["ns"]
        for part in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    whole = spent["success"]["ns"] - earlier["success"]["ns"]
    assert 0 < parts <= whole + 10
    assert parts > whole * 0.99
    assert {"batch_size": 5, "count": 2} in [
        {"batch_size": size["batch_size"], "count": size["compute_infer"]["count"]} for size in after["batch_stats"]
    ]
    assert abs(after["last_inference"] / 1e3 - time.time()) < 60


def test_repository_holds_one_model_which_nobody_can_change(served):
    _, client, _, _ = served
    wanted = [{"name": "toy", "version": "1", "state": "READY", "reason": ""}]
    assert client.post("/v2/repository/index").json() == wanted
    assert client.post("/v2/repository/index", json={"ready": True}).json() == wanted
    assert client.post("/v2/repository/models/toy/load").json() == {}
    refused = client.post("/v2/repository/models/toy/load", json={"parameters": {"config": "{}"}})
    assert (refused.status_code, refused.json()["code"]) == (403, "replica_is_fixed")
    refused = client.post("/v2/repository/models/toy/unload")
    assert refused.status_code == 403
    assert "skyloom endpoint stop" in refused.json()["error"]
    for verb in ("load", "unload"):
        assert client.post(f"/v2/repository/models/other/{verb}").status_code == 404
    assert client.post(INFER, json=body(toy_rows(1))).status_code == 200


def test_settings_are_told_truly_and_stay(served):
    _, client, _, _ = served
    for path in ("/v2/trace/setting", f"{MODEL}/trace/setting"):
        told = client.get(path).json()
        assert told["trace_level"] == ["OFF"]
        assert client.post(path, json={"trace_level": ["OFF"], "trace_rate": None}).json() == told
        refused = client.post(path, json={"trace_level": ["TIMESTAMPS"]})
        assert refused.status_code == 403
        assert "trace_level" in refused.json()["error"]
    assert client.post("/v2/logging", json={"log_verbose_level": 9}).status_code == 403
    assert client.post("/v2/logging", content=b"[").status_code == 400


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_clients_cannot_name_memory(served, kind):
    _, client, _, _ = served
    start = f"/v2/{kind}sharedmemory"
    assert client.get(f"{start}/status").json() == []
    refused = client.post(f"{start}/region/mine/register", json={"key": "/mine", "offset": 0, "byte_size": 64})
    assert (refused.status_code, refused.json()["code"]) == (403, "shared_memory_refused")


def test_generate_takes_and_gives_plain_fields(served):
    _, client, _, folder = served
    row = toy_rows(1)
    answer = client.post(f"{MODEL}/generate", json={"x": row[0].tolist(), "id": "mine"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["model_name"], told["model_version"], told["id"]) == ("toy", "1", "mine")
    assert np.allclose(told["scores"], oracle(folder / "bundle", row)[0], atol=1e-6)


def test_generate_stream_is_one_event_of_the_same(served):
    _, client, _, _ = served
    fields = {"x": [1, 2, 3, 4], "id": "mine", "parameters": {"timeout": 5_000_000}}
    with client.stream("POST", f"{MODEL}/versions/1/generate_stream", json=fields) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        (line,) = [line for line in answer.iter_lines() if line]
    assert json.loads(line.removeprefix("data: ")) == client.post(f"{MODEL}/generate", json=fields).json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"x": 1},
        {"x": "1"},
        {"x": [1, 2, 3]},
        {"x": [1, 2, 3, None]},
        {"x": [[1, 2, 3, 4]]},
        {"x": [1, 2, 3, 4], "y": 1},
        {"x": [1, 2, 3, 4], "id": 7},
        {"x": [1, 2, 3, 4], "parameters": []},
        {"x": [1, 2, 3, 4], "parameters": {"timeout": "soon"}},
        [],
        "x",
    ],
)
def test_generate_refuses_what_does_not_fit_by_its_name(served, fields):
    _, client, _, _ = served
    answer = client.post(f"{MODEL}/generate", json=fields)
    assert answer.status_code == 400
    assert any(name in answer.json()["error"] for name in ("'x'", "'y'", "'id'", "'parameters'", "'timeout'", "object"))


@pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
def test_forms_of_outputs_that_are_not_offered_are_refused(served, name):
    _, client, _, _ = served
    answer = client.post(INFER, json=body(toy_rows(1), outputs=[{"name": "scores", "parameters": {name: 1}}]))
    assert answer.status_code == 400
    assert name in answer.json()["error"]


def test_timeout_of_a_request_that_is_no_number_is_refused(served):
    _, client, _, _ = served
    for value in ("1", -1, 1.5, True):
        answer = client.post(INFER, json=body(toy_rows(1), parameters={"timeout": value}))
        assert answer.status_code == 400
        assert "timeout" in answer.json()["error"]
    assert client.post(INFER, json=body(toy_rows(1), parameters={"timeout": 10**12, "mine": [1]})).status_code == 200


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_requests_and_answers_say_the_same(served, name, pack):
    _, client, _, _ = served
    rows = toy_rows(1000)
    content = json.dumps(body(rows)).encode()
    headers = {"content-type": "application/json", "content-encoding": name, "accept-encoding": f"{name};q=0.5, br"}
    answer = client.post(INFER, content=pack(content), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-encoding"] == name
    plain = client.post(INFER, content=content, headers={"content-type": "application/json", "accept-encoding": ""})
    assert "content-encoding" not in plain.headers
    assert answer.json()["outputs"] == plain.json()["outputs"]


def test_compressed_binary_tensors_are_cut_where_the_plain_ones_are(served):
    _, client, _, _ = served
    rows = toy_rows(5)
    described = {"name": "x", "shape": [5, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}
    head = json.dumps({"inputs": [described]}).encode()
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(head))}
    answer = client.post(INFER, content=gzip.compress(head + rows.tobytes()), headers=headers)
    assert answer.status_code == 200, answer.text


def test_large_compressed_requests_are_unpacked_beside_the_loop_and_answered(served):
    _, client, _, _ = served
    content = json.dumps(body(toy_rows(3))).encode()
    headers = {"content-type": "application/json", "content-encoding": "deflate"}
    answer = client.post(INFER, content=zlib.compress(content + b" " * 2**22), headers=headers)
    assert answer.status_code == 200, answer.text
    broken = client.post(INFER, content=zlib.compress(content + b" " * 2**22)[:-9], headers=headers)
    assert broken.status_code == 400


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 2**21])
def test_what_is_large_is_not_unpacked_at_once(size):
    content = bytes(size)
    made = unpacked_at_once(gzip.compress(content), b"gzip", 2**21)
    assert made == (content if size <= 2**20 else None)


BOMB_BYTES = 200 * 2**20


@functools.cache
def bomb() -> bytes:
    return gzip.compress(bytes(BOMB_BYTES), 9)


def lying_bomb() -> bytes:
    return bomb()[:-4] + (100).to_bytes(4, "little")


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (bomb, 413),
        (lying_bomb, 413),
        (zlib.compress(bytes(2**25)), 400),
        (gzip.compress(bytes(100))[:-9], 400),
        (gzip.compress(bytes(100)) * 2, 400),
        (b"{}", 400),
        (b"", 400),
    ],
    ids=["bomb", "lying bomb", "another form", "torn", "two", "plain", "nothing"],
)
def test_bombs_and_broken_compression_are_refused(served, content, status):
    process, client, _, _ = served
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    before = peak_bytes(process.process.pid)
    answer = client.post(INFER, content=content() if callable(content) else content, headers=headers)
    assert answer.status_code == status
    assert peak_bytes(process.process.pid) < before + BOMB_BYTES // 2  # it is not unpacked to see how large it is


@given(st.binary(max_size=2_000), st.sampled_from([(b"gzip", gzip.compress), (b"deflate", zlib.compress)]))
def test_any_content_is_unpacked_to_what_it_was(content, form):
    name, pack = form
    assert unpacked(pack(content), name, 2_000) == content


@given(st.text(alphabet="gzipdeflate*,;q=01. ", max_size=60).map(str.encode))
def test_any_wish_for_compression_is_answered_in_a_form_that_was_named(wish):
    response = packed(Response(200, b"x" * 20_000), {b"accept-encoding": wish})
    encoding = dict(response.headers).get(b"content-encoding")
    assert encoding is None or encoding in wish.lower() or b"*" in wish
    assert encoding is None or unpacked(response.body, encoding, 20_000) == b"x" * 20_000


@pytest.mark.parametrize("wish", [b"gzip;q=0", b"identity", b"br, zstd", b"*;q=0", b"gzip;q=0, deflate;q=0.0", b""])
def test_who_does_not_want_it_gets_nothing_compressed(wish):
    assert packed(Response(200, b"x" * 20_000), {b"accept-encoding": wish}).headers == ()


def test_small_answers_are_not_compressed():
    assert packed(Response(200, b"x" * 14_000), {b"accept-encoding": b"gzip"}).headers == ()


def test_every_address_but_health_needs_a_token(served):
    _, client, _, _ = served
    with httpx.Client(base_url=client.base_url, trust_env=False, verify=False) as stranger:
        for path in ("config", "stats", "trace/setting"):
            assert stranger.get(f"{MODEL}/{path}").status_code == 401
        for path in ("/v2/repository/index", "/v2/repository/models/toy/unload", f"{MODEL}/generate", "/v2/logging"):
            assert stranger.post(path, json={}).status_code == 401
