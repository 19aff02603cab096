"""A replica with a pack, as a process: names, loading, eviction, and the truth about all of it, over both wires."""

import hashlib
import json
from pathlib import Path

import grpc
import msgspec
import numpy as np
import pytest

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.serving.pack import PackEntry, PackTable
from tests.inference.serving import (
    HEADERS,
    body,
    find_prediction,
    oracle,
    running,
    toy_model,
    toy_rows,
    write_bundle,
)

ROWS = toy_rows(2)
LABELS, COLUMNS = ("cat", "dog", "emu"), ("age", "city", "fare", "kept")
ENCODING = msgspec.json.encode(
    [{"name": name, "values": ["Rome", "Paris"] if name == "city" else []} for name in COLUMNS]
)
ROW, NUMBERS = {"age": 3, "city": "Paris", "fare": 2.5, "kept": True}, [3, 1, 2.5, 1]


def entry(folder: Path, name: str) -> PackEntry:
    manifest = (folder / "manifest.json").read_bytes()
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    return PackEntry(
        model=name, version=f"version_{name}", label="7", folder=str(folder), manifest=digest, size_bytes=1
    )


def write_table(place: Path, *entries: PackEntry, **bounds: int) -> None:
    draft = place / "pack.new"
    draft.write_bytes(msgspec.json.encode(PackTable(entries=entries, **bounds)))
    draft.replace(place / "pack.json")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    place = tmp_path_factory.mktemp("packed")
    folders = {name: write_bundle(place / name, toy_model(seed)) for seed, name in enumerate(("one", "two", "bad"), 1)}
    files = {"encoding.json": ENCODING}
    folders["named"] = write_bundle(place / "named", toy_model(9), files=files, labels=LABELS, columns=COLUMNS)
    entries = [entry(folder, name) for name, folder in folders.items()]
    (folders["bad"] / "model.onnx").write_bytes(b"no model")
    write_table(place, *entries, max_loaded=1)
    with running(place, pack_file="pack.json") as (process, client, listening):
        yield place, client, listening, entries
        assert process.process.poll() is None, process.text()


def states(client) -> dict[str, str]:
    return {one["name"]: one["state"] for one in client.post("/v2/repository/index").json()}


def test_models_of_a_pack_answer_under_their_names_and_come_and_go(packed):
    place, client, _, _ = packed
    assert states(client) == {"toy": "READY", **dict.fromkeys(("one", "two", "bad", "named"), "UNAVAILABLE")}
    for name in ("one", "two", "one"):
        answer = client.post(f"/v2/models/{name}/versions/7/infer", json=body(ROWS))
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["model_name"], told["model_version"]) == (name, "7")
        expected = oracle(place / name, ROWS)
        np.testing.assert_allclose(told["outputs"][0]["data"], expected.ravel(), rtol=1e-5)
        found = find_prediction(place / "requests", answer.headers["skyloom-prediction-id"])
        assert (found.version, found.revision, found.rows) == (f"version_{name}", "rev_1", 2)
        assert states(client)[name] == "READY" and sum(one == "READY" for one in states(client).values()) == 2
    own = client.post("/v2/models/toy/infer", json=body(ROWS))
    assert find_prediction(place / "requests", own.headers["skyloom-prediction-id"]).version == ""
    assert client.get("/v2/models/two").json()["inputs"][0]["name"] == "x"
    assert client.get("/v2/models/two/config").json()["name"] == "two"
    assert client.post("/v2/models/two/generate", json={"x": ROWS[0].tolist()}).json()["model_name"] == "two"
    assert client.post("/v2/models/one/infer", json={"inputs": []}).status_code == 400
    counted = client.get("/metrics").text
    assert 'model="one",replica="rep_1",revision="rev_1",version="7"} 3.0' in counted.split("requests_total", 1)[1]
    stats = {one["name"]: one["inference_count"] for one in client.get("/v2/models/stats").json()["model_stats"]}
    assert stats == {"toy": 2, "one": 4, "two": 3, "bad": 0, "named": 0}


def test_what_is_not_in_the_pack_or_broken_says_so_and_disturbs_nobody(packed):
    _, client, _, _ = packed
    bad = client.post("/v2/models/bad/infer", json=body(ROWS))
    assert bad.status_code == 500 and "does not match its digest" in bad.json()["error"]
    assert client.get("/v2/models/bad/ready").status_code == 500
    index = {one["name"]: one for one in client.post("/v2/repository/index").json()}
    assert "does not match its digest" in index["bad"]["reason"]
    for path in ("/v2/models/one/versions/8/infer", "/v2/models/three/infer"):
        assert client.post(path, json=body(ROWS)).status_code == 404
    assert client.get("/v2/models/one/infer").status_code == 405
    assert client.post("/v2/models/one/infer", json=body(ROWS), headers={"authorization": "x"}).status_code == 401
    assert client.post("/v2/models/one/infer", json=body(ROWS)).status_code == 200


def test_models_of_a_pack_take_rows_by_their_columns_and_say_labels(packed):
    place, client, _, _ = packed
    best = LABELS[int(oracle(place / "named", np.array([NUMBERS], np.float32))[0].argmax())]
    for path in ("/v2/models/named/predict", "/v2/models/named/versions/7/predict"):
        answer = client.post(path, json=ROW)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["label"], told["model_name"], told["model_version"]) == (best, "named", "7")
        assert find_prediction(place / "requests", told["prediction_id"]).version == "version_named"
    assert len(client.post("/v2/models/named/predict", json=[ROW, ROW]).json()["predictions"]) == 2
    refused = client.post("/v2/models/named/predict", json={"age": 1})
    assert refused.status_code == 400 and "'city' is missing" in refused.json()["error"]
    no_pictures = client.post("/v2/models/named/predict", content=b"x", headers={"content-type": "image/png"})
    assert no_pictures.status_code == 400 and "takes no pictures" in no_pictures.json()["error"]
    assert client.post("/v2/models/named/predict", content=b"x", headers={"content-type": "a/b"}).status_code == 415
    assert client.post("/v2/models/named/predict", json=ROW, headers={"authorization": "x"}).status_code == 401
    assert client.get("/v2/models/named/predict").status_code == 405
    assert client.post("/v2/models/three/predict", json=ROW).status_code == 404
    assert client.post("/v2/models/toy/predict", json=[ROWS[0].tolist()]).json()["model_name"] == "toy"
    assert "/v2/models/toy/predict" in client.get("/openapi.json").json()["paths"]


def test_pack_is_loaded_and_unloaded_by_hand(packed):
    _, client, _, _ = packed
    assert client.post("/v2/repository/models/two/load", json={}).json() == {}
    assert states(client)["two"] == "READY" and states(client)["one"] == "UNAVAILABLE"
    assert client.post("/v2/repository/models/two/unload").json() == {}
    assert states(client)["two"] == "UNAVAILABLE"
    assert client.get("/v2/models/two/ready").json() == {"name": "two", "ready": True}
    assert client.post("/v2/repository/models/toy/unload").status_code == 403
    assert client.post("/v2/repository/models/two/load", json={"parameters": {"a": 1}}).status_code == 403


def test_pack_answers_over_grpc(packed):
    place, _, listening, _ = packed
    meta = [("authorization", HEADERS["authorization"])]
    ask = pb.ModelInferRequest(model_name="two", raw_input_contents=[ROWS.tobytes()])
    ask.inputs.add(name="x", datatype="FP32", shape=ROWS.shape)
    with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(ask, metadata=meta, timeout=20)
        assert (answer.model_name, answer.model_version) == ("two", "7")
        got = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, -1)
        np.testing.assert_allclose(got, oracle(place / "two", ROWS), rtol=1e-5)
        assert stub.ModelMetadata(pb.ModelMetadataRequest(name="one"), metadata=meta).inputs[0].name == "x"
        assert stub.ModelConfig(pb.ModelConfigRequest(name="one"), metadata=meta).config.name == "one"
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="two"), metadata=meta)
        ready = {one.name for one in stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), metadata=meta).models}
        assert ready == {"toy", "two"}
        assert stub.ModelReady(pb.ModelReadyRequest(name="one"), metadata=meta).ready
        ask.model_name = "bad"
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(ask, metadata=meta, timeout=20)
        assert not stub.ModelReady(pb.ModelReadyRequest(name="bad"), metadata=meta).ready
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="two"), metadata=meta)
        told = stub.ModelStatistics(pb.ModelStatisticsRequest(name="two"), metadata=meta).model_stats
        assert [one.name for one in told] == ["two"] and told[0].inference_stats.success.count >= 1
        for name, code in (("bad", grpc.StatusCode.INTERNAL), ("three", grpc.StatusCode.NOT_FOUND)):
            ask.model_name = name
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(ask, metadata=meta, timeout=20)
            assert refused.value.code() is code


def test_model_that_is_added_answers_without_a_restart(packed):
    place, client, _, entries = packed
    write_table(place, *entries, entry(place / "one", "three"), max_loaded=2)
    asking = client.build_request("POST", "/v2/models/three/infer", content=json.dumps(body(ROWS)))
    asking.headers["content-type"] = "application/json"
    while (answer := client.send(asking)).status_code == 404:
        pass  # the replica looks at its table once a second
    assert answer.json()["model_name"] == "three"
