"""The local engine passes the whole contract, cold and warm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.engines.local import LocalEngine
from skyloom.ports.engine import Ability
from tests.contracts.engine_contract import ProcessContract, wait


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "user"
    path.mkdir()
    return path


def ended(engine: LocalEngine) -> None:
    """End all that a test left running."""
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.close()


class TestColdLocalEngine(ProcessContract):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[LocalEngine]:
        engine = LocalEngine(tmp_path / "tasks", warm=False)
        assert engine.abilities == set(Ability) - {Ability.WARM_START, Ability.GPU}
        yield engine
        ended(engine)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path_factory.mktemp("pool"), warm=True)
    assert Ability.WARM_START in engine.abilities
    assert engine.wait_until_warm(60)
    yield engine
    engine.close()


class TestWarmLocalEngine(ProcessContract):
    @pytest.fixture
    def engine(self, pool: LocalEngine) -> Iterator[LocalEngine]:
        assert pool.wait_until_warm(0), "the pool must not have died in an earlier test"
        yield pool
        pool.stop(pool.known(), force=True)
        for task_id in pool.known():
            wait(pool, task_id)
        pool.forget(pool.known())
