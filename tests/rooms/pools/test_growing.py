"""A pool that grows: told what waits, and told again when nothing does. Engines in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from skyloom.core.errors import Unavailable
from skyloom.core.resources import Resources
from skyloom.ports.engine import Machine
from skyloom.rooms.jobs.model import ImpossibleRequest
from skyloom.rooms.pools.model import GetPool, GrowthGroup
from skyloom.rooms.pools.model import PoolState as State
from tests.rooms.pools.land import Cluster, Land


@pytest.fixture
def land(tmp_path: Path) -> Land:
    return Land(tmp_path / "pools")


class Growing(Cluster):
    """A pool with machines of 8 cores, none at first."""

    count = 0

    def machines(self) -> Sequence[Machine]:
        self._reach()
        each = Resources(cpus=8, gpus=2, memory_bytes=2**35)
        return tuple(Machine(name=f"m{n}", total=each) for n in range(self.count))


EIGHT = GrowthGroup(resources=Resources(cpus=8, gpus=2, memory_bytes=2**35), most=2)


def growing(land: Land, **options: Any) -> Growing:
    land.clusters["ray://g:10001"] = cluster = Growing(now=land.clock.now)
    land.add("cluster", "g", grows=(EIGHT,), **options)
    return cluster


def test_pool_that_grows_is_told_what_waits_and_told_again_when_nothing_does(land: Land) -> None:
    cluster = growing(land)
    job = land.submit(cpus=6, gpus=1, num_workers=2)
    land.rounds()
    assert [(wish.gang, wish.resources.gpus, wish.num_workers, wish.together) for wish in cluster.wished] == [
        (job, 1, 2, False)
    ]
    assert "pool cluster was asked to grow" in land.of(job).message and "cannot" not in land.of(job).message
    cluster.count = 2
    land.rounds()
    assert land.where(job) == ["cluster/m0", "cluster/m1"]
    assert cluster.wished == ()


def test_pool_that_grows_takes_what_it_may_become_and_refuses_what_it_may_not(land: Land) -> None:
    growing(land, shared_folder="")
    assert land.submit(cpus=4, gpus=1, num_workers=2, pools=("cluster",))
    with pytest.raises(ImpossibleRequest, match="at most 1 fit"):
        land.submit(cpus=6, gpus=1, num_workers=2)
    with pytest.raises(ImpossibleRequest, match="needs 9 CPUs, 8 on the largest machine"):
        land.submit(cpus=9, gpus=1)
    with pytest.raises(ImpossibleRequest, match="No machine has the labels zone=eu"):
        land.submit(requires={"zone": "eu"})


def test_pool_that_cannot_be_told_what_waits_stays_up(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = growing(land)

    def refuse(wishes: Any) -> None:
        raise Unavailable("Not now.", next_action="Wait.")

    monkeypatch.setattr(cluster, "wants", refuse)
    land.submit(gpus=1)
    land.rounds()
    assert land.do(GetPool(name="cluster")).state is State.UP
