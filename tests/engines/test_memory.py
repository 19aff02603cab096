import pytest

from skyloom.core.errors import Unavailable
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.engine import EndReason, Engine, TaskPhase
from tests.contracts.engine_contract import EngineContract, look, one, sh


class TestMemoryEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> MemoryEngine:
        return MemoryEngine()

    def let_end(self, engine: Engine, task_id: str, exit_code: int, output: bytes) -> None:
        assert isinstance(engine, MemoryEngine)
        engine.finish(task_id, exit_code, output=output)


def test_launch_that_fails_once_starts_nothing_and_works_the_next_time() -> None:
    engine = MemoryEngine()
    engine.failing = Unavailable("The pool is away.", next_action="Wait.")
    with pytest.raises(Unavailable):
        engine.launch(one("t", sh("true")))
    assert look(engine, "t").phase is TaskPhase.ABSENT
    engine.launch(one("t", sh("true")))
    engine.launch(one("t", sh("true")))
    assert [plan.task_id for plan in engine.launched] == ["t"]


def test_task_that_does_not_obey_ends_by_force_only() -> None:
    engine = MemoryEngine(obeys=False, run_at_once=False)
    engine.launch(one("t", sh("true")))
    assert look(engine, "t").phase is TaskPhase.STARTING
    engine.run("t")
    engine.stop(["t"])
    assert look(engine, "t").phase is TaskPhase.RUNNING
    engine.stop(["t"], force=True)
    assert look(engine, "t").reason is EndReason.STOPPED
    assert engine.stopped == [("t", False), ("t", True)]


def test_lost_task_keeps_its_first_reason() -> None:
    engine = MemoryEngine()
    engine.launch(one("t", sh("true")))
    engine.lose("t", EndReason.NODE_LOST, "the node is gone")
    engine.finish("t", 0)
    assert look(engine, "t").reason is EndReason.NODE_LOST
