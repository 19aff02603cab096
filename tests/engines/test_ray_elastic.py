"""A cluster of no nodes gets one because a job waits, runs it, and loses the node when nothing runs there any more. All of it real."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyloom.core.resources import Resources
from skyloom.engines.ray import RayEngine
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.pools.model import GrowthGroup, Pool
from tests.elastic_cluster import ElasticCluster
from tests.engines.ray_engines import connected, made
from tests.ray_cluster import NEEDS_RAY
from tests.rooms.pools.land import Land

pytestmark = [*NEEDS_RAY, pytest.mark.timeout(300)]
_PATIENCE_S = 120.0


@pytest.fixture
def cluster() -> Iterator[ElasticCluster]:
    cluster = ElasticCluster()
    try:
        cluster.node.wait_started()
        yield cluster
    finally:
        cluster.end()


class Elastic(Land):
    """Rooms over a cluster that is really there."""

    def __init__(self, folder: Path, engine: RayEngine) -> None:
        self.ray = engine
        super().__init__(folder)

    def reach(self, pool: Pool, token_file: Path, *, check: bool) -> RayEngine:  # type: ignore[override]
        return self.ray

    def rounds_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            self.rounds(1)
            time.sleep(0.2)


def test_cluster_grows_for_a_job_that_waits_and_shrinks_when_it_has_ended(
    cluster: ElasticCluster, tmp_path: Path
) -> None:
    engine = connected(made(cluster, tmp_path / "engine", lease_s=8.0, keeper_idle_s=0.5))  # type: ignore[arg-type]
    try:
        land = Elastic(tmp_path / "pools", engine)
        two = GrowthGroup(resources=Resources(cpus=2, memory_bytes=2**33), most=2)
        land.add("cluster", grows=(two,), shared_folder="")
        job = land.submit(cpus=2, pools=("cluster",), memory_bytes=0)
        assert engine.machines() == ()
        land.rounds(2)
        assert "pool cluster was asked to grow" in land.of(job).message
        land.rounds_until(lambda: land.of(job).state is JobState.SUCCEEDED)
        assert len(engine.machines()) == 1  # and not one more
        land.rounds_until(lambda: engine.machines() == ())
        assert engine.read_log(f"{job}.1.0", 0, 100).content == b""  # what it said, and not that it is lost
    finally:
        engine.close()
