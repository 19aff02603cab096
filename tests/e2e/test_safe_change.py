"""Revisions side by side on a real control plane, a real gateway and real replicas, while clients go on asking."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.split import CanaryPlan, CanaryState, Front
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file
from tests.control_plane import ControlPlane
from tests.inference.serving import CLASSES, FEATURES, graph, toy_model, toy_rows, write_bundle

pytestmark = pytest.mark.slow
PLAN = CanaryPlan(steps=(5.0, 50.0), step_s=1.0, min_requests=15, max_p99_ratio=50.0)


def erring_model() -> onnx.ModelProto:
    """Answers rows of zeros, with which it is warmed up; any other row makes it look where nothing is."""
    import numpy as np

    return graph(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("Ceil", ["size"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["where"], to=TensorProto.INT64),
            helper.make_node("Mul", ["where", "far"], ["place"]),
            helper.make_node("Gather", ["table", "place"], ["found"], axis=0),
            helper.make_node("Gather", ["found", "first"], ["scores"], axis=1),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            numpy_helper.from_array(np.zeros(2, dtype=np.float32), "table"),
            numpy_helper.from_array(np.array([1_000], dtype=np.int64), "far"),
            numpy_helper.from_array(np.arange(CLASSES), "first"),
        ],
    )


def register(cloud: Client, bundle: Path) -> None:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    for file in manifest.files:
        upload_file(cloud.transport, bundle / file.path)
    cloud.transport.send(RegisterModelVersion(model="toy", manifest=manifest))


class Clients:
    """Some that ask all the time, each over a connection that it keeps; one whose connection is closed opens another, once."""

    def __init__(self, url: str, token: str, count: int = 2, *, tries: int = 2, keeps: bool = True) -> None:
        self._tries = tries
        self._limits = httpx.Limits(max_keepalive_connections=count if keeps else 0)
        self.seen: Counter[str] = Counter()
        self._url = f"{url}/v2/models/toy/infer"
        self._headers = {"authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def success(self) -> float:
        """The part of all requests that were answered well."""
        return self.seen["200"] / sum(self.seen.values())

    def _ask(self) -> None:
        tensor = {"name": "x", "shape": [1, FEATURES], "datatype": "FP32", "data": toy_rows(1).ravel().tolist()}
        with httpx.Client(trust_env=False, verify=False, timeout=10, limits=self._limits) as wire:
            while not self._over.wait(0.01):
                self.seen[self._once(wire, {"inputs": [tensor]})] += 1

    def _once(self, wire: httpx.Client, body: object) -> str:
        for _ in range(self._tries):
            try:
                return str(wire.post(self._url, json=body, headers=self._headers).status_code)
            except httpx.TransportError as error:
                found = type(error).__name__
        return found


def until(condition, timeout_s: float = 90):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def cloud(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Client]:
    with control_plane.client() as made:
        register(made, write_bundle(tmp_path / "first"))
        made.endpoints.deploy("toy", cpus=0.25, memory="512MiB")
        made.endpoints.wait("toy", timeout_s=60)
        yield made
        made.endpoints.stop("toy")
        until(lambda: not made.jobs.list(live=True).items)


def decided(cloud: Client) -> EndpointStatus:
    def status() -> EndpointStatus | None:
        seen = cloud.endpoints.get("toy")
        return seen if seen.canary and not seen.canary.live else None

    return until(status)


def test_bad_versions_are_taken_back_and_a_good_one_gets_all_while_clients_ask(control_plane, cloud, tmp_path):
    with Clients(cloud.endpoints.get("toy").url, control_plane.token) as clients:
        register(cloud, write_bundle(tmp_path / "erring", erring_model()))
        cloud.endpoints.deploy("toy", canary=PLAN)
        status = decided(cloud)
        assert status.canary.state is CanaryState.ROLLED_BACK, status.canary
        assert "with an error" in status.canary.message
        register(cloud, write_bundle(tmp_path / "good", toy_model(seed=7)))
        cloud.endpoints.deploy("toy", canary=PLAN)
        status = decided(cloud)
        assert status.canary.state is CanaryState.PROMOTED, status.canary
        until(lambda: cloud.endpoints.get("toy").endpoint.current == 3)
        assert "50%" in " ".join(item.what for item in cloud.overview.why(status.endpoint.id).evidence)
        assert cloud.endpoints.rollback("toy").endpoint.current == 1, "at once: its replicas were kept"
        until(lambda: cloud.endpoints.get("toy").endpoint.front is Front.DIRECT)
        until(lambda: not [item for item in cloud.endpoints.get("toy").replicas if item.replica.private])
    assert clients.seen["200"] > 200 and clients.success >= 0.99, clients.seen


def test_plain_rollback_fails_no_request_of_clients_that_try_nothing_twice(control_plane, cloud, tmp_path):
    register(cloud, write_bundle(tmp_path / "second", toy_model(seed=7)))
    url = cloud.endpoints.get("toy").url
    keeping, fresh = Clients(url, control_plane.token, tries=1), Clients(url, control_plane.token, tries=1, keeps=False)
    with keeping, fresh:
        cloud.endpoints.deploy("toy")
        until(lambda: answering(cloud) == {2})
        assert cloud.endpoints.rollback("toy").endpoint.front is Front.DIRECT
        until(lambda: answering(cloud) == {1})
    assert keeping.seen.keys() == fresh.seen.keys() == {"200"}, (keeping.seen, fresh.seen)


def answering(cloud: Client) -> set[int]:
    """Revisions whose replicas are there."""
    return {item.replica.revision_number for item in cloud.endpoints.get("toy").replicas}
