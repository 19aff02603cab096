"""Environments of jobs over a real control plane: functions, two jobs that build once, and a control plane that dies during a build."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.errors import InvalidInput
from skyloom.rooms.jobs.model import JobState, Reason
from tests.contracts.engine_contract import until
from tests.control_plane import ControlPlane
from tests.engines.packages import offline, slow_source, wheel

pytestmark = pytest.mark.slow
SMALL = {"cpus": 0.2, "memory": "256MiB"}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    wheel(tmp_path / "links", "alpha")
    plane = ControlPlane(tmp_path / "home", forked=True, **offline(tmp_path / "links", tmp_path / "uv")).start().ready()
    yield plane
    plane.end_everything()


def test_two_jobs_build_once_though_the_control_plane_dies_meanwhile(plane: ControlPlane, tmp_path: Path) -> None:
    builds, go = slow_source(tmp_path / "links", "slow")
    with plane.client() as cloud:
        jobs = [cloud.jobs.run(["slow"], requirements=["slow"], **SMALL).job.id for _ in range(2)]  # type: ignore[arg-type]
        until(builds.exists, "the build to begin")
        waits = [lambda job=job: "another task builds" in cloud.jobs.logs(job).text for job in jobs]  # type: ignore[misc]
        until(lambda: any(wait() for wait in waits), "the other job to wait")
    plane.kill()
    plane.start().ready()
    go.touch()
    with plane.client(patience_s=30) as cloud:
        for job in jobs:
            status = cloud.jobs.wait(job, timeout_s=60)
            assert (status.state, status.job.attempt) == (JobState.SUCCEEDED, 1), status.message
            assert "".join(cloud.jobs.follow(job)).endswith("slow speaks\n")
    assert len(builds.read_text().splitlines()) == 1


def test_cancelled_build_ends_the_job_and_what_builds(plane: ControlPlane, tmp_path: Path) -> None:
    builds, _ = slow_source(tmp_path / "links", "slow")
    with plane.client() as cloud:
        job = cloud.jobs.run(["slow"], requirements=["slow"], **SMALL).job.id  # type: ignore[arg-type]
        until(lambda: builds.exists() and "\n" in builds.read_text(), "the build to begin")
        cloud.jobs.cancel(job)
        assert cloud.jobs.wait(job, timeout_s=60).state is JobState.CANCELLED
    builder = int(builds.read_text().split()[-1])
    until(lambda: not Path(f"/proc/{builder}").exists(), "the builder to be gone")


def test_what_cannot_be_installed_is_no_success_and_not_tried_again(plane: ControlPlane) -> None:
    with plane.client() as cloud:
        job = cloud.jobs.run(["true"], requirements=["alpha>9"], max_retries=3, **SMALL).job.id  # type: ignore[arg-type]
        status = cloud.jobs.wait(job, timeout_s=60)
        assert (status.state, status.reason, status.job.attempt) == (JobState.FAILED, Reason.LAUNCH_FAILED, 1)
        assert "alpha>9" in status.message and status.next_action
        with pytest.raises(InvalidInput, match="names a file of this machine"):
            cloud.jobs.run(["true"], requirements=["-e ."], **SMALL)  # type: ignore[arg-type]


def test_function_brings_its_packages(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import skyloom

@skyloom.function(requirements=["alpha"], cpus=0.2, memory="256MiB")
def version(suffix):
    import alpha
    return alpha.VERSION + suffix
"""
    (tmp_path / "brings.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SKYLOOM_HOME", str(plane.home))
    import brings  # type: ignore[import-not-found]

    try:
        assert brings.version.remote("!") == "1.0!"
    finally:
        sys.modules.pop("brings")
