"""Replicas as processes: shared ports, drain, kills, refusals at the start, tokens that change."""

import json
import signal
import socket
import threading
import time

import httpx
import msgspec
import numpy as np
import pytest

from skyloom.rooms.serving.plan import ExitCode
from skyloom.rooms.serving.samples import RequestSampling, SampledRow, SamplingRule
from tests.inference.serving import (
    HEADERS,
    INFER,
    TOKEN,
    ReplicaProcess,
    body,
    free_port,
    make_plan,
    oracle,
    running,
    toy_rows,
    write_access,
    write_bundle,
)


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    write_access(tmp_path / "access.json", TOKEN)
    return tmp_path


def refused(plan) -> tuple[int, str]:
    """Start a replica that must not serve; its exit code and what it said."""
    process = ReplicaProcess(plan)
    try:
        return process.process.wait(30), process.text()
    finally:
        process.end()


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.onnx", "profile.json"])
def test_bundle_with_one_flipped_bit_is_refused(folder, name):
    flip(folder / "bundle" / name)
    code, text = refused(make_plan(folder))
    assert code == ExitCode.BUNDLE_REFUSED
    assert name in text and "does not match its digest" in text
    assert "Traceback" not in text


def test_bundle_without_its_model_is_refused(folder):
    (folder / "bundle" / "model.onnx").unlink()
    code, text = refused(make_plan(folder))
    assert (code, "Traceback" in text) == (ExitCode.BUNDLE_REFUSED, False)


def test_bundle_file_that_is_a_link_is_refused(folder):
    model = folder / "bundle" / "model.onnx"
    model.rename(folder / "elsewhere")
    model.symlink_to(folder / "elsewhere")
    code, text = refused(make_plan(folder))
    assert code == ExitCode.BUNDLE_REFUSED
    assert "is a link" in text


def test_bundle_whose_signature_lies_is_refused(folder):
    path = folder / "bundle" / "manifest.json"
    path.write_text(path.read_text().replace('"name":"x"', '"name":"z"'))
    code, text = refused(make_plan(folder))
    assert code == ExitCode.BUNDLE_REFUSED
    assert "disagree" in text


def test_profile_of_another_model_is_refused(folder):
    (folder / "bundle").rename(folder / "old")
    profile = (folder / "old" / "profile.json").read_bytes().replace(b'"tensor":"x"', b'"tensor":"q"')
    write_bundle(folder / "bundle", profile=msgspec.json.decode(profile, type=_profile()))
    code, text = refused(make_plan(folder))
    assert code == ExitCode.BUNDLE_REFUSED
    assert "'q'" in text


def _profile():
    from skyloom.rooms.monitoring.model import Profile

    return Profile


@pytest.mark.parametrize(
    "change",
    [{"host": "0.0.0.0"}, {"host": "example.org"}, {"model": "Not A Name"}, {"rest_port": 70_000}, {"surprise": 1}],
)
def test_plan_that_asks_for_too_much_is_refused(folder, change):
    plan = make_plan(folder)
    plan.write_text(json.dumps({**json.loads(plan.read_text()), **change}))
    code, text = refused(plan)
    assert (code, "Traceback" in text) == (ExitCode.PLAN_REFUSED, False)


def test_plan_that_is_not_there_is_refused(tmp_path):
    assert refused(tmp_path / "nothing.json")[0] == ExitCode.PLAN_REFUSED


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
@pytest.mark.parametrize("shares", [False, True])
def test_port_of_a_stranger_is_named_and_refused(folder, which, shares):
    with socket.socket() as stranger:
        if shares:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        code, text = refused(make_plan(folder, **{which: port}))
    assert code == ExitCode.PORT_TAKEN
    assert str(port) in text
    assert "Traceback" not in text


def test_port_of_another_endpoint_is_refused_and_of_the_same_is_shared(folder):
    ports = {"rest_port": free_port(), "grpc_port": free_port()}
    with running(folder, "rep_1", **ports):
        code, text = refused(make_plan(folder, "rep_2", endpoint="ep_2", **ports))
        assert code == ExitCode.PORT_TAKEN
        assert "another endpoint" in text
        with running(folder, "rep_3", **ports) as (_, _, listening):
            assert listening.rest_port == ports["rest_port"]


def test_token_that_is_taken_away_is_dead_soon_and_a_new_one_lives(folder):
    with running(folder) as (_, client, _):
        assert client.get("/v2").status_code == 200
        write_access(folder / "access.json", "another")
        assert until(lambda: client.get("/v2").status_code == 401)
        assert client.get("/v2", headers={"authorization": "Bearer another"}).status_code == 200
        (folder / "access.json").unlink()
        assert until(lambda: client.get("/v2", headers={"authorization": "Bearer another"}).status_code == 401)


def test_sigterm_answers_what_came_before_and_exits_cleanly(folder):
    with running(folder) as (process, client, listening):
        content = json.dumps(body(toy_rows(1))).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", listening.rest_port), timeout=20) as link:
            link.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:-1])
            assert client.get("/v2/health/live").status_code == 200
            process.process.send_signal(signal.SIGTERM)
            assert until(lambda: _refuses(listening.rest_port))
            link.sendall(content[-1:])
            answer = link.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        assert process.process.wait(60) == ExitCode.OK
        assert "Traceback" not in process.text()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def until(condition, timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_replica_killed_under_load_leaves_the_endpoint_answering(folder):
    ports = {"rest_port": free_port(), "grpc_port": free_port()}
    rows = toy_rows(2)
    expected = oracle(folder / "bundle", rows)
    wrong: list[object] = []
    answered = [0, 0]
    stop = threading.Event()

    def load(slot: int) -> None:
        while not stop.is_set():
            try:
                # A new connection each time: the system chooses a replica anew.
                answer = httpx.post(
                    base + INFER, json=body(rows), headers=HEADERS, timeout=10, trust_env=False, verify=False
                )
            except httpx.TransportError:
                continue  # a client of a service retries
            data = np.reshape(answer.json()["outputs"][0]["data"], (2, 3)) if answer.status_code == 200 else None
            if data is None or not np.allclose(data, expected, atol=1e-6):
                wrong.append(answer.text)
            answered[slot] += 1

    with running(folder, "rep_1", **ports) as (first, _, listening), running(folder, "rep_2", **ports):
        base = f"http://127.0.0.1:{listening.rest_port}"
        threads = [threading.Thread(target=load, args=(slot,)) for slot in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert until(lambda: min(answered) > 20)
            first.process.kill()
            first.process.wait()
            after = list(answered)
            assert until(lambda: all(now > then + 20 for now, then in zip(answered, after, strict=True)))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not wrong


def test_rule_that_comes_while_it_serves_is_kept_to_and_told_ids_lead_to_the_rows(folder):
    with running(folder, sampling_file="sampling.json", samples_folder="samples") as (process, client, _):
        rule = SamplingRule(
            sampling=RequestSampling(share=1.0), columns=("x", "scores"), key="00" * 32, max_bytes=2**20
        )
        (folder / "sampling.json").write_bytes(msgspec.json.encode(rule))
        told, deadline = [], time.monotonic() + 60
        while not (folder / "samples" / "rep_1.jsonl").exists():
            assert time.monotonic() < deadline, process.text()
            answer = client.post(INFER, json=body(toy_rows(2)))
            told.append(answer.json()["parameters"]["skyloom-prediction-id"])
        assert process.terminate() == 0
    first, second = (folder / "samples" / "rep_1.jsonl").read_bytes().splitlines()[:2]
    rows = [msgspec.json.decode(line, type=SampledRow) for line in (first, second)]
    assert [(row.prediction_id in told, row.row) for row in rows] == [(True, 0), (True, 1)]
    np.testing.assert_allclose([row.values["x"] for row in rows], toy_rows(2), rtol=1e-6)
