"""The Ray engine passes the whole contract on a real cluster of one node, through the Ray client and as a node of the cluster."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.engines.ray import RayEngine
from skyloom.ports.engine import Ability
from tests.contracts.engine_contract import ProcessContract, until, wait
from tests.ray_cluster import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.ray]
_numbers = itertools.count(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "user"
    path.mkdir()
    return path


def connected(engine: RayEngine) -> RayEngine:
    """Wait for the first connection, which may take longer than one question may."""
    until(lambda: reaches(engine), "the cluster to be reached")
    return engine


def reaches(engine: RayEngine) -> bool:
    from skyloom.core.errors import Unavailable

    try:
        engine.check()
    except Unavailable as error:
        assert "not reached yet" in str(error) or "silent" in str(error), error
        return False
    return True


def made(cluster: RayCluster, folder: Path, address: str = "", **more: object) -> RayEngine:
    """An engine with an id of its own."""
    settings = {"engine_id": f"e{next(_numbers)}", "node_folder": str(cluster.folder / "nodes"), "warm": False, **more}
    return RayEngine(folder, address=address or cluster.address, token_file=cluster.token_file, **settings)  # type: ignore[arg-type]


def clear(engine: RayEngine) -> None:
    """End and forget all that a test left."""
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.forget(engine.known())


@pytest.fixture(scope="module")
def shared_engine(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    engine = connected(
        made(ray_cluster, tmp_path_factory.mktemp("ray"), shared_folder=str(ray_cluster.folder / "shared"))
    )
    assert engine.abilities == {Ability.MEMORY_LIMIT, Ability.PYTHON_ENVIRONMENT}
    yield engine
    engine.close()


class TestRayEngine(ProcessContract):
    @pytest.fixture
    def engine(self, shared_engine: RayEngine) -> Iterator[RayEngine]:
        yield shared_engine
        clear(shared_engine)
