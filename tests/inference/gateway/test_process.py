"""The gateway as a process before real replicas: both wires, kills, tables that change, the end."""

import contextlib
import http.server
import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import msgspec
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire import open_inference_pb2_grpc as rpc
from skyloom.rooms.serving.plan import ExitCode
from tests.inference.gateway.gateways import GatewayChild, backend, gateway, make_plan, make_route, publish, share
from tests.inference.serving import (
    HEADERS,
    INFER,
    TOKEN,
    body,
    free_port,
    oracle,
    running,
    small_limits,
    toy_rows,
    write_access,
    write_bundle,
)
from tests.inference.wire.test_http import REFUSED, dial, statuses, talk

METADATA = [("authorization", f"Bearer {TOKEN}")]


def soon(condition, timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def fronted(tmp_path_factory):
    """A gateway before one replica: (gateway, client, route, folder, the replica's private port)."""
    folder = tmp_path_factory.mktemp("gateway")
    with running(folder, private=True) as (_, _, listening):
        assert listening.grpc_port == 0
        route = make_route(share("rev_1", backend(listening.rest_port)))
        with gateway(folder, route) as (child, client):
            yield child, client, route, folder, listening.rest_port
            assert child.process.poll() is None, child.text()


def question(rows: np.ndarray) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name="toy")
    asked.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    asked.raw_input_contents.append(rows.tobytes())
    return asked


def test_both_wires_answer_what_onnxruntime_says(fronted):
    _, client, route, folder, _ = fronted
    rows = toy_rows(3)
    expected = oracle(folder / "bundle", rows)
    answer = client.post(INFER, json=body(rows))
    assert answer.json()["outputs"][0]["data"] == pytest.approx(expected.ravel().tolist(), abs=1e-6)
    assert answer.headers["skyloom-prediction-id"] == answer.json()["id"] and answer.headers["x-request-id"]
    with grpc.insecure_channel(f"127.0.0.1:{route.grpc_port}") as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        told, call = stub.ModelInfer.with_call(question(rows), metadata=METADATA, timeout=10)
        assert np.frombuffer(told.raw_output_contents[0], np.float32) == pytest.approx(expected.ravel(), abs=1e-6)
        assert dict(call.trailing_metadata())["skyloom-prediction-id"].startswith("pred_")
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=10).ready
        for ask, metadata, code in (
            (question(rows), None, grpc.StatusCode.UNAUTHENTICATED),
            (pb.ModelInferRequest(model_name="other"), METADATA, grpc.StatusCode.NOT_FOUND),
            (pb.ModelInferRequest(model_name="toy"), METADATA, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(ask, metadata=metadata, timeout=10)
            assert refused.value.code() is code


def test_reflection_is_a_conversation_through_the_gateway(fronted):
    _, _, route, *_ = fronted
    asks = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{route.grpc_port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        told, heard = [], threading.Semaphore(1)

        def in_turn():  # as grpcurl does: the next question only after the answer
            for ask in asks:
                assert heard.acquire(timeout=10)
                yield ask

        for answer in stub.ServerReflectionInfo(in_turn(), metadata=METADATA, timeout=20):
            told.append(answer.WhichOneof("message_response"))
            heard.release()
        assert told == ["list_services_response", "file_descriptor_response", "error_response"]
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ServerReflectionInfo(iter(asks), timeout=20))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_stream_of_inferences_is_answered_in_order_through_the_gateway(fronted):
    _, _, route, folder, _ = fronted
    asks = [question(toy_rows(1 + number % 3, seed=number)) for number in range(40)]
    asks[20].model_name = "other"
    with grpc.insecure_channel(f"127.0.0.1:{route.grpc_port}") as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        told = list(stub.ModelStreamInfer(iter(asks), metadata=METADATA, timeout=20))
    assert len(told) == 40 and "other" in told[20].error_message
    for number, answer in enumerate(told):
        if number != 20:
            expected = oracle(folder / "bundle", toy_rows(1 + number % 3, seed=number)).ravel()
            seen = np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)
            assert seen == pytest.approx(expected, abs=1e-5)


def test_replicas_own_refusals_come_through(fronted):
    _, client, *_ = fronted
    assert client.post("/v2/models/other/infer", json=body(toy_rows(1))).status_code == 404
    assert client.post(INFER, json={"inputs": []}).status_code == 400
    assert client.get("/nothing").status_code == 404
    assert client.post(INFER, content=b"x", headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_plain_http_gets_one_4xx_at_the_gateway(fronted, content):
    _, _, route, *_ = fronted
    answer = talk(route.rest_port, content, finish=False)
    assert len(statuses(answer)) == 1, answer
    assert 400 <= statuses(answer)[0] < 500
    assert b"connection: close" in answer


def test_private_port_answers_calls_of_one_message_and_no_others(fronted):
    *_, port = fronted
    message = question(toy_rows(1)).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    headers = {**HEADERS, "content-type": "application/grpc"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/", headers=headers, trust_env=False, verify=False) as client:
        good = client.post("/inference.GRPCInferenceService/ModelInfer", content=framed)
        assert (good.status_code, good.headers["grpc-status"]) == (200, "0")
        assert pb.ModelInferResponse.FromString(good.content[5:]).model_name == "toy"
        assert client.post("/grpc.health.v1.Health/Watch", content=b"\0\0\0\0\0").headers["grpc-status"] == "12"
        assert client.post("/inference.GRPCInferenceService/ModelInfer", content=b"").headers["grpc-status"] == "3"
        client.headers["authorization"] = "Bearer wrong"
        assert client.post("/inference.GRPCInferenceService/ModelInfer", content=framed).headers["grpc-status"] == "16"


def test_pipelined_requests_through_the_gateway_keep_their_order(fronted):
    _, _, route, *_ = fronted
    asks = [json.dumps(body(toy_rows(1), id=f"id-{n}")).encode() for n in range(60)]
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    answer = talk(
        route.rest_port, b"".join(head.encode() + b"Content-Length: %d\r\n\r\n" % len(ask) + ask for ask in asks)
    )
    assert [part.split(b'"')[0] for part in answer.split(b'"id":"')[1:]] == [b"id-%d" % n for n in range(60)]


def test_slow_sender_at_the_gateway_is_cut_and_others_go_on(tmp_path):
    limits = small_limits(header_timeout_s=0.2, body_timeout_s=0.2)
    with (
        gateway(tmp_path, make_route(share("rev_1")), limits=limits) as (_, client),
        dial(client.base_url.port) as link,
    ):
        link.sendall(b"POST /v2/models/toy/infer HTTP/1.1\r\nHost: lo")
        assert client.get("/v2/health/live").status_code == 200
        assert link.recv(65_536).startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_replica_killed_under_load_loses_nothing(tmp_path):
    write_bundle(tmp_path / "bundle")
    write_access(tmp_path / "access.json", TOKEN)
    rows = toy_rows(1)
    expected = oracle(tmp_path / "bundle", rows).ravel().tolist()
    with (
        running(tmp_path, "rep_1", private=True) as (victim, _, first),
        running(tmp_path, "rep_2", private=True) as (_, _, second),
    ):
        route = make_route(share("rev_1", backend(first.rest_port, "rep_1"), backend(second.rest_port, "rep_2")))
        with gateway(tmp_path, route) as (_, client):
            done, killed = [], threading.Event()

            def ask(_) -> tuple[int, bool]:
                answer = client.post(INFER, json=body(rows))
                done.append(answer.status_code)
                if len(done) == 300:
                    victim.process.kill()
                    killed.set()
                right = answer.status_code == 200 and np.allclose(
                    answer.json()["outputs"][0]["data"], expected, atol=1e-6
                )
                return answer.status_code, right

            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(ask, range(900)))
            assert killed.is_set() and set(answers) == {(200, True)}


def test_table_that_is_damaged_keeps_what_was_known_and_new_ports_open(tmp_path):
    with running(tmp_path, private=True) as (_, _, listening):
        route = make_route(share("rev_1", backend(listening.rest_port)))
        with gateway(tmp_path, route) as (child, client):
            (tmp_path / "routes.json").write_text('{"routes": [')
            assert soon(lambda: "cannot be read" in child.text())
            assert client.get("/v2").status_code == 200
            (tmp_path / "routes.json").unlink()
            moved = msgspec.structs.replace(route, rest_port=free_port())
            publish(tmp_path, moved)
            with httpx.Client(headers=HEADERS, trust_env=False, verify=False) as other:
                base = f"http://127.0.0.1:{moved.rest_port}"
                assert soon(lambda: answers(other, base + "/v2"))
            assert soon(lambda: not listens(route.rest_port))
            assert child.text().count("cannot be read") == 1 and "can be read again" in child.text()


def answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_ports_are_shared_with_an_old_direct_replica_and_refused_by_a_strangers(tmp_path):
    ports = {"rest_port": free_port(), "grpc_port": free_port()}
    with running(tmp_path, **ports), socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = make_route(endpoint="ep_2", rest_port=stranger.getsockname()[1], grpc_port=0)
        with gateway(tmp_path, make_route(share("rev_1"), **ports), taken) as (child, _):
            assert soon(lambda: f"Port {taken.rest_port}" in child.text())
            assert child.text().count("is used by") == 1
            stranger.close()
            assert soon(lambda: listens(taken.rest_port))
            assert (child.terminate(), "Traceback" in child.text()) == (0, False)


def test_request_that_wakes_an_endpoint_is_held_told_and_answered(tmp_path):
    with reports() as (url, told, answer), running(tmp_path, private=True) as (_, _, listening):
        (tmp_path / "token").write_text("task-token")
        environment = {
            "SKYLOOM_URL": url,
            "SKYLOOM_JOB_ID": "job_1",
            "SKYLOOM_TASK_ID": "job_1.1.0",
            "SKYLOOM_PROJECT": "default",
            "SKYLOOM_TOKEN_FILE": str(tmp_path / "token"),
        }
        route = make_route(share("rev_1"))
        publish(tmp_path, route)
        child = GatewayChild(make_plan(tmp_path), environment)
        try:
            child.wait_ready()
            base = f"http://127.0.0.1:{route.rest_port}"
            with (
                ThreadPoolExecutor(1) as pool,
                httpx.Client(base_url=base, headers=HEADERS, trust_env=False, verify=False) as client,
            ):
                held = pool.submit(client.post, INFER, json=body(toy_rows(1)), timeout=20)
                assert soon(lambda: any(report["routes"][0].get("held") for report in told))
                publish(
                    tmp_path, msgspec.structs.replace(route, shares=(share("rev_1", backend(listening.rest_port)),))
                )
                assert held.result().status_code == 200
            assert soon(lambda: told[-1]["routes"][0].get("revisions", {}).get("rev_1", {}).get("requests") == 1)
            assert told[0]["path"] == "/v1/projects/default/gateways/gw_1/traffic"
            assert (told[0]["authorization"], told[0]["ready"]) == ("Bearer task-token", True)
            answer["stop"] = True
            assert child.process.wait(60) == 0, child.text()
            assert told[-1]["ready"] is False
        finally:
            child.end()


class reports:
    """A control plane that keeps what it is told: its address, the reports, and what it answers."""

    def __enter__(self):
        told, answer = [], {"stop": False}

        class Listener(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                report = json.loads(self.rfile.read(int(self.headers["content-length"])))
                told.append({**report, "path": self.path, "authorization": self.headers["authorization"]})
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}", told, answer

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_sigterm_finishes_what_it_can_and_answers_the_rest(tmp_path):
    limits = small_limits(drain_s=0.5)
    with gateway(tmp_path, make_route(share("rev_1")), limits=limits) as (child, client), ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, INFER, json=body(toy_rows(1)))
        assert soon(lambda: 'skyloom_gateway_held{endpoint="ep_1"} 1' in client.get("/metrics").text)
        child.process.send_signal(signal.SIGTERM)
        answer = held.result()
        assert (answer.status_code, answer.json()["code"]) == (503, "gateway_draining")
        assert child.process.wait(60) == 0 and "Traceback" not in child.text()


def test_endless_stream_of_an_endpoint_that_is_gone_is_cut_when_its_time_is_over(tmp_path):
    class Endless(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(2**16)  # an answer that comes before its request is nobody's, and the gateway hangs up
            self.request.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(b"1\r\nx\r\n")
                    time.sleep(0.02)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        route = make_route(share("rev_1", backend(server.server_address[1])))
        with (
            gateway(tmp_path, route, limits=small_limits(drain_s=0.2)) as (_, client),
            client.stream("POST", INFER, json=body(toy_rows(1))) as answer,
        ):
            parts = answer.iter_raw()
            assert set(next(parts)) == set(b"x")  # several parts may come together
            publish(tmp_path)
            with pytest.raises(httpx.TransportError):
                list(parts)  # or else without end
        server.shutdown()


@pytest.mark.parametrize(
    "change", [{"host": "0.0.0.0"}, {"host": "example.org"}, {"surprise": 1}, {"gateway": ""}, None]
)
def test_plan_that_cannot_be_meant_is_refused(tmp_path, change):
    plan = make_plan(tmp_path)
    if change is None:
        plan.unlink()
    else:
        plan.write_text(json.dumps({**json.loads(plan.read_text()), **change}))
    child = GatewayChild(plan)
    try:
        assert child.process.wait(30) == ExitCode.PLAN_REFUSED
        assert "The plan cannot be used" in child.text() and "Traceback" not in child.text()
    finally:
        child.end()


def test_start_imports_nothing_heavy():
    heavy = ("numpy", "onnxruntime", "grpc", "httpx", "google", "starlette", "prometheus_client")
    code = f"import sys, skyloom.inference.gateway.__main__; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
