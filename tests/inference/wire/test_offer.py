"""A replica that gives answers again and has lanes, as a process, over both wires."""

from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from skyloom.inference.batcher import Ticket
from skyloom.inference.response_cache import ResponseCache
from skyloom.inference.tensors import Call
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.offer_desk import OfferDesk
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.serving.offer import CacheRule, LaneRule
from tests.inference.serving import INFER, TOKEN, body, find_prediction, running, toy_rows, write_access

OTHER = "other-token"


@pytest.fixture(scope="module")
def offering(tmp_path_factory):
    place = tmp_path_factory.mktemp("offer")
    write_access(place / "access.json", TOKEN, OTHER)
    write_access(place / "urgent.json", TOKEN)
    with running(place, cache=CacheRule(), lanes=LaneRule(urgent=("me",)), urgent_file="urgent.json") as made:
        yield place, *made
        assert made[0].process.poll() is None, made[0].text()


def ask(client, rows, token=TOKEN, headers=None, path=INFER, **more):
    return client.post(path, json=body(rows, **more), headers={"authorization": f"Bearer {token}", **(headers or {})})


def test_cache_that_fails_keeps_nobody_waiting():
    class Full(ResponseCache):
        def keep(self, *_):
            raise MemoryError

    desk = OfferDesk(SimpleNamespace(plan=SimpleNamespace(manifest="m", lanes=None)), Full(2**20, 60.0), None)
    answered = []
    ticket = Ticket(Call((toy_rows(1),), 1, (0,), ""), 0.0, answered.append)
    ticket.outputs = [toy_rows(1)]
    with pytest.raises(MemoryError):
        desk._answered(b"key", ticket.on_done, ticket)
    assert answered == [ticket]


def test_same_question_of_the_same_token_is_answered_again_and_is_a_prediction_of_its_own(offering):
    place, _, client, _ = offering
    rows = toy_rows(3, seed=7)
    first, again = ask(client, rows), ask(client, rows, id="mine")
    assert "skyloom-cache" not in first.headers and again.headers["skyloom-cache"] == "hit"
    assert again.json()["outputs"] == first.json()["outputs"] and again.json()["id"] == "mine"
    plainly = ask(client, rows)
    assert plainly.headers["skyloom-cache"] == "hit" and plainly.json()["outputs"] == first.json()["outputs"]
    names = [one.headers["skyloom-prediction-id"] for one in (first, again)]
    found = [find_prediction(place / "requests", name) for name in names]
    assert names[0] != names[1] and [one.cached_from for one in found] == ["", names[0]]
    assert bytes(found[0].outputs) == bytes(found[1].outputs) and found[1].rows == 3
    binary = ask(client, rows, parameters={"binary_data_output": True})
    assert binary.headers["skyloom-cache"] == "hit"
    for other in (ask(client, rows, OTHER), ask(client, rows[:2]), ask(client, rows + np.float32(1e-6))):
        assert other.status_code == 200 and "skyloom-cache" not in other.headers
    stats = client.get("/v2/models/toy/stats").json()["model_stats"][0]
    told = stats["inference_stats"]
    assert (told["cache_hit"]["count"], told["cache_miss"]["count"], told["success"]["count"]) == (3, 4, 7)
    assert stats["inference_count"] == 3 + 3 + 2 + 3
    counted = client.get("/metrics").text
    assert "skyloom_inference_cache_hits_total{" in counted and "skyloom_inference_requests_total{" in counted


def test_errors_and_streams_are_never_given_again(offering):
    _, _, client, _ = offering
    for _ in range(2):
        assert ask(client, toy_rows(1)[:, :2]).status_code == 400
        row = {"x": toy_rows(1, seed=9)[0].tolist()}
        streamed = client.post("/v2/models/toy/generate_stream", json=row)
        assert streamed.status_code == 200 and "skyloom-cache" not in streamed.headers


def test_answers_are_given_again_over_grpc_too(offering):
    _, _, _, listening = offering
    rows = toy_rows(2, seed=11)
    message = pb.ModelInferRequest(model_name="toy", raw_input_contents=[rows.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    with grpc.insecure_channel(f"127.0.0.1:{listening.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        hits, said = [], set()
        for _ in range(3):
            answer, call = stub.ModelInfer.with_call(
                message, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=20
            )
            hits.append(dict(call.trailing_metadata()).get("skyloom-cache"))
            said.add(answer.raw_output_contents[0])
        assert hits == [None, "hit", "hit"] and len(said) == 1
        message.parameters["priority"].uint64_param = 1
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(message, metadata=[("authorization", f"Bearer {OTHER}")], timeout=20)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_who_may_go_first_is_bounded_and_lanes_are_counted(offering):
    _, _, client, _ = offering
    rows = toy_rows(1, seed=13)
    for token, how, status in (
        (TOKEN, {"parameters": {"priority": 1}}, 200),
        (TOKEN, {"headers": {"skyloom-priority": "1"}}, 200),
        (TOKEN, {"headers": {"skyloom-priority": "3"}}, 200),
        (OTHER, {"parameters": {"priority": 2}}, 200),
        (OTHER, {"parameters": {"priority": 1}}, 403),
        (OTHER, {"headers": {"skyloom-priority": "1"}}, 403),
        (TOKEN, {"parameters": {"priority": 4}}, 400),
        (TOKEN, {"headers": {"skyloom-priority": "-1"}}, 400),
        (TOKEN, {"parameters": {"priority": "high"}}, 400),
    ):
        rows = rows + 1  # never the same
        assert ask(client, rows, token, **how).status_code == status, (token, how)
    lines = client.get("/metrics").text.splitlines()
    found = {
        line.split('lane="')[1].split('"')[0]: line
        for line in lines
        if line.startswith("skyloom_inference_lane_requests_total{")
    }
    assert found["high"].endswith(" 2.0") and found["low"].endswith(" 1.0")
