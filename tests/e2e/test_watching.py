"""Costs and alerts on a real control plane."""

import pytest

from skyloom.core.errors import NotFound
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane


def submit(cloud: Client, shell: str, **labels: str) -> str:
    spec = JobSpec(
        entry=Command(argv=("/bin/sh", "-c", shell)), resources=Resources(cpus=0.5, memory_bytes=2**26), labels=labels
    )
    return cloud.jobs.submit(spec).job.id


def test_cost_of_jobs_is_metered_from_start_to_end_and_adds_up(control_plane: ControlPlane):
    with control_plane.client() as cloud:
        done = submit(cloud, "sleep 0.3", model="digits")
        status = cloud.jobs.wait(done, timeout_s=30)
        running = submit(cloud, "sleep 60", model="digits")
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
        assert by_model["digits"] == 2
        by_user = [row.name for row in cloud.costs.get(by="user").rows]
        assert by_user == ["owner"]


def test_alerts_of_a_new_cloud_are_none_and_an_unknown_one_is_not_found(control_plane: ControlPlane):
    with control_plane.client() as cloud:
        assert cloud.alerts.list().items == ()
        with pytest.raises(NotFound, match="no alert"):
            cloud.alerts.acknowledge("alert_unknown")
