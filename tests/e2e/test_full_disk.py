"""R14: the disk under a whole cloud fills up. What was acknowledged stays, reads go on, jobs live, and space is all it takes to go on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from skyloom.core.errors import SkyloomError, StorageFull
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.ports.series import Point
from skyloom.rooms.jobs.model import JobSpec, JobState, JobStatus
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_bytes
from tests.control_plane import ControlPlane
from tests.e2e.test_training import with_flowers

pytestmark = pytest.mark.slow

RECOVERY_S = 10.0
# Writes a line, its number in it, ten times a second until the file is there; counts on whatever becomes of its output.
TALKS = """
import pathlib, sys, time
number = 0
while not pathlib.Path(sys.argv[1]).exists():
    number += 1
    print(f"line {number}", flush=True)
    time.sleep(0.1)
print(f"said {number} lines", flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def plane(disk: Path, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose folder is on that disk; its own log is not."""
    plane = ControlPlane(disk / "home")
    plane.log = tmp_path / "server.log"
    yield plane.start().ready()
    (disk / "ballast").unlink(missing_ok=True)
    plane.end_everything()


def fill(disk: Path) -> None:
    """Take all the room that is left, to the last byte."""
    with (disk / "ballast").open("ab", buffering=0) as ballast:
        for size in (2**20, 4096, 1):
            while True:
                try:
                    if os.write(ballast.fileno(), b"x" * size) < size:
                        break
                except OSError:
                    break


def spec(*argv: str, **options: object) -> JobSpec:
    resources = Resources(cpus=0.1, memory_bytes=2**26)
    return JobSpec(entry=Command(argv=argv), resources=resources, **options)  # type: ignore[arg-type]


def until(condition: Callable[[], object], what: str, timeout_s: float = RECOVERY_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.05)


def submitted(cloud: Client, name: str) -> JobStatus | None:
    """The job; None while the disk is full."""
    try:
        return cloud.jobs.submit(spec("true", name=name))
    except StorageFull:
        return None


def refusals(cloud: Client, plane: ControlPlane, run_id: str) -> None:
    """Every kind of write says 507, with what to do."""
    writes: tuple[Callable[[], object], ...] = (
        lambda: cloud.jobs.submit(spec("true")),
        lambda: upload_bytes(cloud.transport, os.urandom(2**16)),
        lambda: cloud.runs.log(run_id, "tests", 1, [Point(name="x", step=n, value=0.5, at=0.0) for n in range(5_000)]),
    )
    for write in writes:
        with pytest.raises(StorageFull) as raised:
            write()
        assert "full" in raised.value.message
        assert "space" in raised.value.next_action
    body = '{"spec": {"entry": {"type": "command", "argv": ["true"]}}}'
    headers = {"authorization": f"Bearer {plane.token}", "content-type": "application/json"}
    address = f"{plane.url}/v1/projects/default/jobs"
    answer = httpx.post(address, content=body, headers=headers, trust_env=False, verify=False)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")


def test_full_disk_refuses_writes_keeps_the_rest_and_recovers_by_itself(
    plane: ControlPlane, disk: Path, tmp_path: Path
) -> None:
    assert plane.process is not None
    pid, go = plane.process.pid, tmp_path / "go"
    (tmp_path / "idle.py").write_text("import time; time.sleep(60)")
    with plane.client() as cloud:
        accepted = [cloud.jobs.submit(spec("true", name=f"before-{n}")).job.id for n in range(5)]
        for job_id in accepted:
            cloud.jobs.wait(job_id, timeout_s=30)
        run = cloud.trainings.start(script=tmp_path / "idle.py", model="-", cpus=0.1, memory="64MiB").run
        talking = cloud.jobs.submit(spec(sys.executable, "-c", TALKS, str(go))).job.id
        quiet = cloud.jobs.submit(spec("/bin/sh", "-c", f"until [ -e {go} ]; do sleep 0.1; done; exit 5")).job.id
        for job_id in (talking, quiet, run.job_id):
            until(lambda job_id=job_id: cloud.jobs.get(job_id).state is JobState.RUNNING, f"{job_id} to run", 30)  # type: ignore[misc]
        until(lambda: "line 2\n" in cloud.jobs.logs(talking).text, "its first lines")

        fill(disk)
        until(lambda: submitted(cloud, "marker") is None, "the database to meet the full disk")
        refusals(cloud, plane, run.id)
        listed = {item.job.id for item in cloud.jobs.list(limit=100).items}
        assert {*accepted, talking, quiet, run.job_id} <= listed
        assert cloud.jobs.get(accepted[0]).state is JobState.SUCCEEDED
        assert cloud.runs.get(run.id).run == run
        assert cloud.jobs.get(talking).state is JobState.RUNNING
        assert cloud.jobs.logs(talking).text.startswith("line 1\nline 2\n")
        assert httpx.get(f"{plane.url}/readyz", trust_env=False, verify=False).status_code == 200
        go.touch()  # both end while nothing can be written
        time.sleep(1)  # a while in which the loops meet the full disk
        assert plane.alive
        assert cloud.jobs.get(talking).state is not JobState.FAILED

        (disk / "ballast").unlink()
        until(lambda: submitted(cloud, "after") is not None, "the first write after there is space")
        until(lambda: cloud.jobs.get(talking).state is JobState.SUCCEEDED, "the talking job to be seen as ended")
        until(lambda: cloud.jobs.get(quiet).state is JobState.FAILED, "the quiet job to be seen as ended")
        assert cloud.jobs.get(quiet).tasks[0].exit_code == 5
        jobs = {item.job.id: item.job.spec.name for item in cloud.jobs.list(limit=100).items}
        (after,) = (job_id for job_id, name in jobs.items() if name == "after")
        until(lambda: cloud.jobs.get(after).state is JobState.SUCCEEDED, "the new job to run")
        cloud.runs.log(run.id, "tests", 1, [Point(name="x", step=1, value=0.5, at=0.0)])
        assert [point.step for point in cloud.runs.series(run.id, "x").points] == [1]
        assert upload_bytes(cloud.transport, b"room again").startswith("sha256:")
        assert {*accepted, talking, quiet, after} <= set(jobs)
        assert plane.process.pid == pid, "no restart was needed"
    log = plane.log.read_text()
    assert "Traceback" not in log, log
    assert log.count("\n") < 100, "a full disk must not fill the log"


def test_disk_that_fills_up_under_load_loses_nothing_that_was_acknowledged(plane: ControlPlane, disk: Path) -> None:
    with plane.client() as cloud:
        with (disk / "ballast").open("wb") as ballast:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            ballast.write(b"x" * max(0, free - 2 * 2**20))
        accepted, refused = [], 0
        while refused < 20 and len(accepted) < 2_000:
            try:
                labels = {f"label{n}": "x" * 200 for n in range(20)}
                accepted.append(cloud.jobs.submit(spec("true", priority=-5, labels=labels)).job.id)
            except SkyloomError as error:
                assert isinstance(error, StorageFull), error
                refused += 1
        assert refused == 20
        (disk / "ballast").unlink()
        until(lambda: submitted(cloud, "after") is not None, "the first write after there is space")
        ends = [cloud.jobs.wait(job_id, timeout_s=60).state for job_id in accepted]
        print(f"{len(accepted)} acknowledged while the disk filled up, {refused} refused, 0 lost")
        assert ends == [JobState.SUCCEEDED] * len(accepted)


def test_training_on_a_full_disk_goes_on_and_keeps_every_measurement(
    plane: ControlPlane, disk: Path, tmp_path: Path
) -> None:
    told = {"epochs": 500, "checkpoint_every_steps": 25, "report_every_steps": 1, "hidden": [8]}
    with plane.client(patience_s=30) as cloud:
        with_flowers(cloud, tmp_path)
        run = cloud.trainings.start("tabular", dataset="flowers", target="species", parameters=told).run
        checkpoints = plane.home / "shared" / run.job_id / "checkpoints"
        until(lambda: any(checkpoints.glob("step-*")), "the first checkpoint", 60)
        fill(disk)
        until(lambda: submitted(cloud, "marker") is None, "the database to meet the full disk")
        before = {path.name for path in checkpoints.glob("step-*")}
        time.sleep(1)  # steps and checkpoints on a full disk
        assert {path.name for path in checkpoints.glob("step-*")} <= before
        (disk / "ballast").unlink()
        status = cloud.jobs.wait(run.job_id, timeout_s=60)
        output = "".join(cloud.jobs.follow(run.job_id))
        assert (status.state, status.job.attempt) == (JobState.SUCCEEDED, 1), output
        assert "Traceback" not in output
        assert "No checkpoint was written" in output or "bytes of output were lost" in output
        steps = [point.step for point in cloud.runs.series(run.id, "train/loss").points]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == 500 * 4
        assert cloud.models.version("flowers").run_id == run.id
