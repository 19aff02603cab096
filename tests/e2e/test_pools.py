"""A laptop and a cluster at once, for real: this machine's engine and a Ray cluster under one control plane."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyloom.core.errors import AlreadyExists, Conflict, InvalidInput, Unavailable
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec, JobState
from skyloom.rooms.pools.model import PoolState
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


def shell(cloud: Client, line: str, *, cpus: float = 0.2, gpus: int = 0, **options: object) -> str:
    resources = Resources(cpus=cpus, gpus=gpus, memory_bytes=2**26)
    spec = JobSpec(entry=Command(argv=("sh", "-c", line)), resources=resources, **options)  # type: ignore[arg-type]
    return cloud.jobs.submit(spec).job.id


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(cloud: Client, job_id: str) -> JobState:
    return cloud.jobs.get(job_id).state


def test_cluster_is_added_used_beside_this_machine_found_again_and_removed(
    control_plane: ControlPlane, ray_cluster: RayCluster
) -> None:
    token = ray_cluster.token_file.read_text().strip()
    shared = str(ray_cluster.folder / "shared")
    Path(shared).mkdir(exist_ok=True)
    with control_plane.client(patience_s=0) as hasty:
        for address, shown in ((ray_cluster.address, "of-another-cluster" * 4), ("ray://127.0.0.1:9", token)):
            with pytest.raises(Unavailable) as refusal:
                hasty.pools.add("cluster", address, token=shown)
            assert token not in str(refusal.value) and refusal.value.next_action
    with control_plane.client(patience_s=60) as cloud:
        assert [item.pool.name for item in cloud.pools.list().items] == ["local"]
        added = cloud.pools.add(
            "cluster", ray_cluster.address, token=token, labels={"zone": "eu"}, shared_folder=shared,
            advertised_url=control_plane.url,
        )  # fmt: skip
        assert (added.state, added.total.gpus) == (PoolState.UP, 4)
        with pytest.raises((AlreadyExists, Conflict)):
            cloud.pools.add("cluster", ray_cluster.address, token=token)
        here = shell(cloud, "echo here", pools=("local",))
        there = shell(cloud, 'echo "$SKYLOOM_URL"', requires={"zone": "eu"})
        gang = shell(cloud, 'echo "rank $RANK of $WORLD_SIZE"; sleep 8', gpus=1, num_workers=2)
        for job_id, place in ((here, "local"), (there, "cluster")):
            assert {task.pool for task in cloud.jobs.finish(job_id, timeout_s=90).tasks} == {place}
        assert "".join(cloud.jobs.follow(there)).strip() == control_plane.url
        until(lambda: state(cloud, gang) is JobState.RUNNING)
        with pytest.raises(Conflict, match="run on pool cluster"):
            cloud.pools.remove("cluster")
    control_plane.kill()
    control_plane.start().ready()
    with control_plane.client(patience_s=60) as cloud:
        ended = cloud.jobs.finish(gang, timeout_s=90)
        assert (ended.job.attempt, {task.pool for task in ended.tasks}) == (1, {"cluster"})
        assert "".join(cloud.jobs.follow(gang, rank=1)) == "rank 1 of 2\n"
        until(lambda: cloud.pools.get("cluster").num_tasks == 0)
        assert cloud.pools.get("cluster").state is PoolState.UP
        secret_files = [path for path in files_with(control_plane.home, token) if path.parent.name != "pools"]
        assert secret_files == []
        cloud.pools.remove("cluster")
        until(lambda: not (control_plane.home / "pools" / "cluster").exists())
        with pytest.raises(InvalidInput):
            shell(cloud, "true", gpus=1)


def files_with(folder: Path, words: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and words.encode() in path.read_bytes()]
