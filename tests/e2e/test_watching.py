"""Costs, alerts and lineage on a real control plane with a real replica."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from skyloom.core.errors import NotFound
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.monitoring.model import AlertState, Monitor, Signal
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file
from tests.control_plane import ControlPlane
from tests.inference.serving import toy_rows, write_bundle


def submit(cloud: Client, shell: str, **labels: str) -> str:
    spec = JobSpec(
        entry=Command(argv=("/bin/sh", "-c", shell)), resources=Resources(cpus=0.5, memory_bytes=2**26), labels=labels
    )
    return cloud.jobs.submit(spec).job.id


def test_cost_of_jobs_is_metered_from_start_to_end_and_adds_up(control_plane: ControlPlane):
    with control_plane.client() as cloud:
        done = submit(cloud, "sleep 0.3", team="digits")
        status = cloud.jobs.wait(done, timeout_s=30)
        running = submit(cloud, "sleep 60", team="digits")
        next(iter(cloud.jobs.follow(submit(cloud, "echo started"))), None)
        while cloud.jobs.get(running).started_at is None:
            pass  # each question waits for its answer
        report = cloud.costs.get(by="job")
        rows = {row.name: row for row in report.rows}
        assert status.started_at is not None
        assert status.ended_at is not None
        assert rows[done].duration_s == pytest.approx(status.ended_at - status.started_at, abs=1e-5)
        assert rows[done].duration_s >= 0.3
        assert rows[running].num_running == 1
        assert rows[running].cost.nano_usd > 0
        assert report.total.cost.nano_usd == sum(row.cost.nano_usd for row in report.rows)
        by_model = {row.name: row.num_tasks for row in cloud.costs.get(by="model").rows}
        assert by_model.keys() == {""}
        by_user = [row.name for row in cloud.costs.get(by="user").rows]
        assert by_user == ["owner"]


def test_alerts_of_a_new_cloud_are_none_and_an_unknown_one_is_not_found(control_plane: ControlPlane):
    with control_plane.client() as cloud:
        assert cloud.alerts.list().items == ()
        with pytest.raises(NotFound, match="no alert"):
            cloud.alerts.acknowledge("alert_unknown")


@pytest.fixture
def served(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Client]:
    """The toy model behind one replica."""
    with control_plane.client() as cloud:
        bundle = write_bundle(tmp_path / "bundle")
        manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
        for file in manifest.files:
            upload_file(cloud.transport, bundle / file.path)
        cloud.transport.send(RegisterModelVersion(model="toy", manifest=manifest))
        cloud.endpoints.deploy("toy", num_replicas=1, cpus=0.5, memory="512MiB")
        cloud.endpoints.wait("toy", timeout_s=60)
        yield cloud


def rows_seen(cloud: Client, wanted: int) -> Monitor:
    """The monitor, once every row that was sent has been reported."""
    deadline = time.monotonic() + 30
    while (seen := cloud.endpoints.monitor("toy", window_s=600)).rows < wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


def test_shifted_traffic_of_a_real_replica_raises_one_alert_and_healthy_traffic_none(served: Client):
    served.endpoints.predict("toy", toy_rows(400, seed=2))
    healthy = rows_seen(served, 400)
    assert healthy.alerts == ()
    assert healthy.drift and not any(row.drifted for row in healthy.drift)
    assert healthy.latency_p99_s is not None
    served.endpoints.predict("toy", toy_rows(400, seed=3) + 3)
    rows_seen(served, 800)
    deadline = time.monotonic() + 30
    while not (found := served.alerts.list(endpoint="toy").items):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (alert,) = found
    assert (alert.signal, alert.state) == (Signal.DRIFT, AlertState.FIRING)
    assert served.alerts.acknowledge(alert.id).acknowledged_by == "owner"
    told = served.overview.why(alert.id)
    assert [what.what.split(" (")[0] for what in told.evidence] == ["new → firing", "firing → acknowledged"]
    served.endpoints.stop("toy")
    assert served.alerts.list(state=AlertState.RESOLVED).items[0].id == alert.id


def test_lineage_of_a_real_prediction_ends_at_a_model_that_no_run_made(served: Client):
    answer = served.endpoints.predict("toy", toy_rows(2))
    found = served.lineage.get(answer.prediction_id)
    names = [found.subject.name, found.subject.next[0].name, found.subject.next[0].next[0].name]
    assert names == [f"prediction {answer.prediction_id}", "toy revision 1", "toy version 1"]
    assert found.rows is None
    assert served.lineage.get("toy:1").subject.name == "toy version 1"
    with pytest.raises(NotFound):
        served.lineage.get("nothing")
    costs = {row.name: row for row in served.costs.get(by="endpoint").rows}
    assert costs[served.endpoints.get("toy").endpoint.id].num_running == 1
