"""The Ray engine passes the whole contract on a real cluster of one node, which it reaches by the Ray client."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.resources import Resources
from skyloom.engines.ray import RayEngine
from skyloom.ports.channel import Control, GuestCommand, Stream
from skyloom.ports.engine import Ability, Command, EndReason, TaskPhase, TaskPlan
from skyloom.ports.environment import PythonEnvironment
from tests.contracts.engine_contract import ProcessContract, gang, log, look, one, sh, until, wait
from tests.engines.ray_engines import clear, connected, made
from tests.engines.test_local_inside import outcome, read
from tests.engines.test_local_mounts import TOKEN, Plane
from tests.ray_cluster import NEEDS_RAY, RayCluster

pytestmark = NEEDS_RAY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "user"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def shared_engine(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayEngine]:
    shared = str(ray_cluster.folder / "shared")
    Path(shared).mkdir(exist_ok=True)
    engine = connected(made(ray_cluster, tmp_path_factory.mktemp("ray"), shared_folder=shared, url="http://10.0.0.1:1"))
    assert engine.abilities == set(Ability) - {Ability.WARM_START}
    yield engine
    engine.close()


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


class TestRayEngine(ProcessContract):
    @pytest.fixture
    def engine(self, shared_engine: RayEngine) -> Iterator[RayEngine]:
        yield shared_engine
        clear(shared_engine)

    def test_task_is_told_where_the_cluster_finds_things(self, engine: RayEngine, ray_cluster: RayCluster) -> None:
        show = sh('echo "$SKYLOOM_URL $SKYLOOM_SHARED_FOLDER"')
        engine.launch(
            one("t", show, environment={"SKYLOOM_URL": "http://127.0.0.1:8470"}, shared_folder="/home/me/job-1")
        )
        wait(engine, "t")
        url, shared = log(engine, "t").decode().split()
        assert url == "http://10.0.0.1:1"
        assert shared == f"{ray_cluster.folder}/shared/{engine.engine_id}/job-1"

    def test_task_mounts_what_its_node_fetches(self, engine: RayEngine, plane: Plane) -> None:
        told = {"SKYLOOM_URL": plane.url, "SKYLOOM_PROJECT": "p"}
        mount = plane.model("old", a=b"bytes")
        url, engine._gangs._url = engine._gangs._url, ""  # leave the plan's: the server of this test
        try:
            entry = sh('cat "$SKYLOOM_MOUNTS/old/a"')
            engine.launch(one("t", entry, environment=told, secret_files={"TOKEN": TOKEN}, mounts=(mount,)))
            wait(engine, "t")
        finally:
            engine._gangs._url = url
        assert log(engine, "t").endswith(b"bytes")

    def test_task_runs_in_an_environment_that_its_node_builds(self, engine: RayEngine) -> None:
        wanted = PythonEnvironment(requirements="numpy")  # which the pool has: no index is needed
        program = Command(argv=("python", "-c", "import numpy, skyloom, sys; print(sys.prefix)"))
        engine.launch(one("t", program, python=wanted))
        assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
        said = log(engine, "t").decode()
        assert "building the Python environment" in said and said.rstrip().endswith("/venv")

    def test_gangs_see_the_gpus_that_ray_set_aside_for_them_and_no_others(self, engine: RayEngine) -> None:
        show = sh('echo "$CUDA_VISIBLE_DEVICES"; exec sleep 1000')
        gpu = Resources(cpus=0.1, gpus=1, memory_bytes=0)
        two = [TaskPlan(task_id=f"two.{rank}", entry=show, resources=gpu) for rank in (0, 1)]
        engine.launch(gang(*two))
        engine.launch(gang(TaskPlan(task_id="one", entry=show, resources=gpu)))
        for name in ("two.0", "two.1", "one"):
            wait(engine, name, TaskPhase.RUNNING)
        seen = {}
        for name in ("two.0", "two.1", "one"):
            while not (line := log(engine, name).decode()).endswith("\n"):
                assert look(engine, name).phase is TaskPhase.RUNNING
            seen[name] = set(line.split()[0].split(","))
        assert seen["two.0"] == seen["two.1"] and len(seen["two.0"]) == 2
        assert len(seen["one"]) == 1 and not seen["one"] & seen["two.0"]

    def test_gang_larger_than_the_cluster_starts_nothing_and_leaves_room(self, engine: RayEngine) -> None:
        from skyloom.core.errors import Unavailable

        half = engine.capacity().cpus / 2
        parts = [
            TaskPlan(task_id=f"big.{rank}", entry=sh("true"), resources=Resources(cpus=half + 1)) for rank in (0, 1)
        ]
        with pytest.raises(Unavailable, match="no room for gang big"):
            engine.launch(gang(*parts))
        assert engine.known() == []
        engine.launch(one("after", sh("true"), resources=Resources(cpus=half + 1)))
        wait(engine, "after")

    def test_task_goes_to_the_machine_that_its_plan_names(self, engine: RayEngine) -> None:
        from skyloom.core.errors import Unavailable

        (machine,) = engine.machines()
        engine.launch(one("here", sh("true"), machine=machine.name))
        wait(engine, "here")
        with pytest.raises(Unavailable, match="no machine nowhere"):
            engine.launch(one("there", sh("true"), machine="nowhere"))
        assert engine.known() == ["here"]

    def test_command_runs_inside_of_a_task_on_a_node(self, engine: RayEngine) -> None:
        engine.launch(one("t", sh("echo up; exec sleep 1000"), environment={"COLOUR": "blue"}))
        until(lambda: log(engine, "t") == b"up\n", "the task to run")
        channel = engine.enter("t", GuestCommand(argv=("sh", "-c", 'read word; echo "$word $COLOUR"; exit 7')))
        os.write(channel.input, b"sky\n")
        assert read(channel, Stream.OUTPUT) == b"sky blue\n"
        assert outcome(channel) == Control(exit_code=7)
        channel.close()
