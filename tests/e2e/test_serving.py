"""A model from the registry to an answering endpoint, on a real control plane with real replicas."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import msgspec
import numpy as np
import pytest

from skyloom.core.errors import NotFound
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.serving.model import EndpointState, EndpointStatus
from skyloom.rooms.tenancy.model import Role
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file
from skyloom.sdk.serving import EndpointFailed, PredictionRefused
from tests.control_plane import ControlPlane
from tests.inference.serving import oracle, toy_model, toy_rows, write_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def register(cloud: Client, bundle: Path) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    for file in manifest.files:
        assert upload_file(cloud.transport, bundle / file.path) == file.digest
    cloud.transport.send(RegisterModelVersion(model="toy", manifest=manifest))


def pids(cloud: Client, status: EndpointStatus) -> list[int]:
    jobs = [item.replica.job_id for item in status.replicas if item.replica.ended_at is None]
    return [pid for job in jobs for pid in [cloud.jobs.get(job).tasks[0].pid] if pid]


def until(condition, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def served(control_plane: ControlPlane, bundle: Path) -> Iterator[tuple[ControlPlane, Client, EndpointStatus]]:
    with control_plane.client() as cloud:
        register(cloud, bundle)
        cloud.endpoints.deploy("toy", num_replicas=2, cpus=0.5, memory="512MiB")
        yield control_plane, cloud, cloud.endpoints.wait("toy", timeout_s=60)


def test_endpoint_answers_over_rest_and_grpc_and_every_prediction_is_found(served, bundle):
    plane, cloud, status = served
    rows = toy_rows(3)
    expected = oracle(bundle, rows)
    answer = cloud.endpoints.predict("toy", rows)
    assert np.allclose(answer.outputs["scores"], expected, atol=1e-6)
    found = cloud.predictions.find(answer.prediction_id)
    assert (found.endpoint.name, found.revision.number, found.prediction.rows) == ("toy", 1, 3)
    assert np.allclose(json.loads(bytes(found.prediction.outputs))[0]["data"], expected.ravel(), atol=1e-6)
    request = pb.ModelInferRequest(model_name="toy", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    with grpc.insecure_channel(status.grpc_address) as channel:
        made = GRPCInferenceServiceStub(channel).ModelInfer(
            request, metadata=(("authorization", f"Bearer {plane.token}"),)
        )
    assert np.allclose(np.frombuffer(made.raw_output_contents[0], "<f4").reshape(3, 3), expected, atol=1e-6)
    assert cloud.predictions.find(made.parameters["skyloom-prediction-id"].string_param).prediction.rows == 3
    until(lambda: cloud.endpoints.get("toy").traffic.rows == 6)
    until(lambda: cloud.endpoints.monitor("toy").replicas == 2)
    with pytest.raises(PredictionRefused, match="shape"):
        cloud.endpoints.predict("toy", [[1.0, 2.0]])


def test_killed_replica_is_replaced_while_the_endpoint_answers(served, bundle):
    _, cloud, status = served
    rows = toy_rows(2)
    victim = pids(cloud, status)[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert np.allclose(cloud.endpoints.predict("toy", rows).outputs["scores"], oracle(bundle, rows), atol=1e-6)
    until(lambda: any(item.replica.failed for item in cloud.endpoints.get("toy").replicas))
    again = cloud.endpoints.wait("toy", timeout_s=60)
    assert len(pids(cloud, again)) == 2 and victim not in pids(cloud, again)
    failed = next(item.replica for item in again.replicas if item.replica.failed)
    assert "SIGKILL" in failed.message


def test_killed_control_plane_leaves_the_endpoint_answering_and_adopts_it(served, bundle):
    plane, cloud, status = served
    before = sorted(pids(cloud, status))
    plane.kill()
    headers = {"authorization": f"Bearer {plane.token}"}
    rows = toy_rows(1)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": rows.ravel().tolist()}
    answer = httpx.post(
        f"{status.url}/v2/models/toy/infer", json={"inputs": [tensor]}, headers=headers, trust_env=False
    )
    assert answer.status_code == 200
    plane.start().ready()
    with plane.client() as fresh:
        again = fresh.endpoints.wait("toy", timeout_s=60)
        assert sorted(pids(fresh, again)) == before
        until(lambda: fresh.endpoints.get("toy").traffic.rows >= 1)
        assert fresh.predictions.find(answer.headers["skyloom-prediction-id"]).prediction.rows == 1


def test_new_revision_takes_over_without_a_gap(served, tmp_path):
    _, cloud, _ = served
    register(cloud, write_bundle(tmp_path / "second", toy_model(seed=7)))
    cloud.endpoints.deploy("toy")
    versions = set()
    deadline = time.monotonic() + 60
    while cloud.endpoints.predict("toy", toy_rows(1)).model_version != "2":
        assert time.monotonic() < deadline
        versions.add("1")
    status = cloud.endpoints.wait("toy", timeout_s=60)
    assert status.endpoint.revision == 2
    until(lambda: len([item for item in cloud.endpoints.get("toy").replicas if item.replica.ended_at is None]) == 2)


def test_revoked_token_is_dead_at_the_endpoint_within_seconds(served):
    _, cloud, status = served
    issued = cloud.tokens.create("app", role=Role.PREDICTOR)
    headers = {"authorization": f"Bearer {issued.secret}"}

    def answers() -> int:
        return httpx.get(f"{status.url}/v2", headers=headers, trust_env=False, verify=False).status_code

    until(lambda: answers() == 200)
    cloud.tokens.revoke(issued.token.id)
    until(lambda: answers() == 401, timeout_s=5)


def test_stopped_endpoint_leaves_no_process(served):
    _, cloud, status = served
    alive = pids(cloud, status)
    cloud.endpoints.stop("toy")
    until(lambda: cloud.endpoints.get("toy").state is EndpointState.STOPPED)
    for pid in alive:
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(NotFound):
        cloud.endpoints.get("nothing")


def test_shifted_inputs_raise_a_drift_alert_and_healthy_ones_do_not(served):
    _, cloud, _ = served
    for seed in range(4):
        cloud.endpoints.predict("toy", toy_rows(200, seed=seed))
    until(lambda: cloud.endpoints.monitor("toy").rows >= 800)
    assert not cloud.alerts.list().items
    assert not any(feature.drifted for feature in cloud.endpoints.monitor("toy").drift)
    for seed in range(4):
        cloud.endpoints.predict("toy", toy_rows(200, seed=seed) + 3)
    until(lambda: [alert.signal.value for alert in cloud.alerts.list().items] == ["drift"])
    assert any(feature.drifted for feature in cloud.endpoints.monitor("toy").drift)


def test_endpoint_that_cannot_start_says_why(control_plane, tmp_path):
    broken = toy_model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with control_plane.client() as cloud:
        register(cloud, write_bundle(tmp_path / "broken", broken))
        endpoint = cloud.endpoints.deploy("toy").endpoint
        with pytest.raises(EndpointFailed, match="cannot be loaded by ONNX Runtime"):
            cloud.endpoints.wait("toy", timeout_s=90)
        found = cloud.overview.why(endpoint.id)
        assert found.state == "crash_loop"
        assert any("cannot be loaded" in item.what for item in found.evidence)
