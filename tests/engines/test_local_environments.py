"""Python environments of tasks, built by the real uv from packages that the tests make. No network."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.engines.local import LocalEngine
from skyloom.engines.local.pythons import allows
from skyloom.ports.engine import Command, EndReason, Entry, GangPlan, PythonCall, PythonFile, TaskPhase, TaskPlan
from skyloom.ports.environment import PythonEnvironment
from tests.contracts.engine_contract import gang, is_gone, log, look, one, program, sh, until, wait
from tests.engines.packages import offline, slow_source, wheel

LOOK = "import alpha, skyloom, numpy, sys; print(alpha.VERSION, skyloom.__name__, sys.prefix)"


def python(source: str) -> Entry:
    return Command(argv=("python", "-c", source))


def with_packages(task_id: str, entry: Entry, *requirements: str, **more: object) -> GangPlan:
    return one(task_id, entry, python=PythonEnvironment(requirements="\n".join(requirements)), **more)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    for name in ("alpha", "beta"):
        wheel(tmp_path / "links", name)
    wheel(tmp_path / "links", "gamma", needs=("beta",))
    return tmp_path / "links"


def open_engine(tmp_path: Path, max_bytes: int = 2**30) -> LocalEngine:
    return LocalEngine(
        tmp_path / "tasks",
        warm=False,
        package_variables=offline(tmp_path / "links", tmp_path / "uv"),
        max_environment_bytes=max_bytes,
    )


def close(engine: LocalEngine) -> None:
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.close()


@pytest.fixture
def engine(tmp_path: Path, links: Path) -> Iterator[LocalEngine]:
    engine = open_engine(tmp_path)
    yield engine
    close(engine)


def built(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "tasks-environments").glob("*.ready"))


def test_environment_holds_the_packages_skyloom_and_the_pools_own(engine: LocalEngine) -> None:
    engine.launch(with_packages("t", python(LOOK), "alpha", "numpy"))
    seen = wait(engine, "t")
    said = log(engine, "t").decode()
    assert seen.reason is EndReason.COMPLETED, said
    assert "building the Python environment" in said and "(2 requirements)" in said and "+ alpha==1.0" in said
    assert "numpy==" not in said, "the pool has it; it must not be installed again"
    assert said.splitlines()[-1].startswith("1.0 skyloom /")


def test_second_task_with_the_same_requirements_builds_nothing(engine: LocalEngine, tmp_path: Path) -> None:
    for number in (1, 2):
        engine.launch(with_packages(f"t{number}", python(LOOK), "alpha"))
        assert wait(engine, f"t{number}").reason is EndReason.COMPLETED
    assert "[skyloom]" in log(engine, "t1").decode()
    assert "[skyloom]" not in log(engine, "t2").decode()
    assert len(built(tmp_path)) == 1


def test_cached_environment_needs_no_index(engine: LocalEngine, links: Path, tmp_path: Path) -> None:
    engine.launch(with_packages("t1", python(LOOK), "alpha"))
    assert wait(engine, "t1").reason is EndReason.COMPLETED
    for file in links.iterdir():
        file.unlink()
    engine.launch(with_packages("t2", python(LOOK), "alpha"))
    assert wait(engine, "t2").reason is EndReason.COMPLETED


def test_command_of_a_package_is_found(engine: LocalEngine) -> None:
    engine.launch(with_packages("t", Command(argv=("gamma",)), "gamma"))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    assert log(engine, "t").decode().endswith("gamma speaks\n")


@pytest.mark.parametrize("kind", ["file", "call"])
def test_python_entries_run_in_the_environment(engine: LocalEngine, tmp_path: Path, kind: str) -> None:
    files = program(tmp_path, "import beta\ndef f():\n    return beta.VERSION\nif __name__ == '__main__': print(f())\n")
    entry = PythonFile(path="main.py") if kind == "file" else PythonCall(path="main.py", function="f")
    engine.launch(with_packages("t", entry, "gamma", files=files))
    assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
    assert engine.read_result("t") == b'"1.0"' if kind == "call" else log(engine, "t").endswith(b"1.0\n")


def test_isolated_environment_sees_nothing_of_the_pool(engine: LocalEngine) -> None:
    wanted = PythonEnvironment(requirements="alpha", isolated=True)
    source = "import alpha, importlib.util as u; print([u.find_spec(name) for name in ('numpy', 'skyloom')])"
    engine.launch(one("t", python(source), python=wanted))
    assert wait(engine, "t").reason is EndReason.COMPLETED
    assert log(engine, "t").decode().endswith("[None, None]\n")


def test_pyproject_installs_its_dependencies(engine: LocalEngine) -> None:
    text = '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["alpha"]\n'
    engine.launch(one("t", python(LOOK), python=PythonEnvironment(pyproject=text)))
    assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")


@pytest.mark.parametrize(
    "wanted",
    [
        PythonEnvironment(requirements="alpha", version="3.2"),
        PythonEnvironment(pyproject='[project]\nname = "x"\nversion = "1"\nrequires-python = "<3.9"\n'),
    ],
)
def test_other_python_than_the_pools_is_refused_by_name(engine: LocalEngine, wanted: PythonEnvironment) -> None:
    engine.launch(one("t", sh("true"), python=wanted))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED and "Python" in seen.message and "this pool has 3." in seen.message


def test_requirements_that_cannot_be_resolved_end_with_uvs_words(engine: LocalEngine, tmp_path: Path) -> None:
    engine.launch(with_packages("t", python(LOOK), "alpha==7", "beta"))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED
    assert "could not be built" in seen.message and "alpha==7" in seen.message
    assert built(tmp_path) == []
    assert not [path for path in (tmp_path / "tasks-environments").iterdir() if path.is_dir()], (
        "nothing half made stays"
    )


def test_missing_program_ends_as_launch_failed(engine: LocalEngine) -> None:
    engine.launch(with_packages("t", Command(argv=("no-such-program",)), "alpha"))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED and "no-such-program" in seen.message


def test_missing_uv_is_said_with_what_to_do(tmp_path: Path, links: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False, variables={"PATH": "/usr/sbin"})
    engine.launch(with_packages("t", Command(argv=("true",)), "alpha"))
    seen = wait(engine, "t")
    close(engine)
    assert seen.reason is EndReason.LAUNCH_FAILED and "pip install uv" in seen.message


def test_gang_builds_once_and_its_workers_wait(engine: LocalEngine, tmp_path: Path) -> None:
    builds, go = slow_source(tmp_path / "links", "slow")
    wanted = PythonEnvironment(requirements="slow")
    tasks = [TaskPlan(task_id=f"t{rank}", entry=Command(argv=("slow",)), python=wanted, grace_s=5) for rank in range(3)]
    engine.launch(gang(*tasks))
    until(builds.exists, "the build to begin")
    waiting = [task.task_id for task in tasks]
    until(lambda: sum(b"another task builds" in log(engine, name) for name in waiting) == 2, "two to wait")
    go.touch()
    assert [wait(engine, name).reason for name in waiting] == [EndReason.COMPLETED] * 3
    assert len(builds.read_text().splitlines()) == 1


def test_cancel_during_a_build_ends_it_and_the_next_task_builds_again(engine: LocalEngine, tmp_path: Path) -> None:
    builds, go = slow_source(tmp_path / "links", "slow")
    engine.launch(with_packages("t1", Command(argv=("slow",)), "slow"))
    until(lambda: builds.exists() and "\n" in builds.read_text(), "the build to begin")
    builder = int(builds.read_text().split()[-1])
    engine.stop(["t1"])
    assert wait(engine, "t1").reason is EndReason.STOPPED
    assert is_gone(builder)
    go.touch()
    engine.launch(with_packages("t2", Command(argv=("slow",)), "slow"))
    assert wait(engine, "t2").reason is EndReason.COMPLETED


def test_supervisor_killed_during_a_build_leaves_nothing_that_is_taken_for_ready(
    engine: LocalEngine, tmp_path: Path
) -> None:
    builds, go = slow_source(tmp_path / "links", "slow")
    engine.launch(with_packages("t1", Command(argv=("slow",)), "slow"))
    until(lambda: builds.exists() and "\n" in builds.read_text(), "the build to begin")
    builder = int(builds.read_text().split()[-1])
    supervisor = int((tmp_path / "tasks" / "t1" / "shim.json").read_text().split('"pid": ')[1].split(",")[0])
    os.kill(supervisor, signal.SIGKILL)
    assert wait(engine, "t1").reason is EndReason.SHIM_LOST
    until(lambda: is_gone(builder), "the build to end")
    assert built(tmp_path) == []
    go.touch()
    engine.launch(with_packages("t2", Command(argv=("slow",)), "slow"))
    assert wait(engine, "t2").reason is EndReason.COMPLETED


def test_bounded_cache_drops_the_longest_unused_and_never_one_in_use(tmp_path: Path, links: Path) -> None:
    engine = open_engine(tmp_path, max_bytes=1)
    running = Command(argv=("python", "-c", "import time; print('up', flush=True); time.sleep(1000)"))
    engine.launch(with_packages("t1", running, "alpha"))
    until(lambda: log(engine, "t1").endswith(b"up\n"), "the first to run")
    first = built(tmp_path)
    engine.launch(with_packages("t2", sh("true"), "beta"))
    wait(engine, "t2")
    assert set(first) < set(built(tmp_path)), "in use"
    engine.stop(["t1"], force=True)
    wait(engine, "t1")
    engine.launch(with_packages("t3", sh("true"), "gamma"))
    wait(engine, "t3")
    assert len(built(tmp_path)) == 1
    assert look(engine, "t3").phase is TaskPhase.ENDED
    close(engine)


@pytest.mark.parametrize(
    ("specifier", "version", "is_allowed"),
    [
        (">=3.11", (3, 11, 0), True),
        (">=3.12,<4", (3, 11, 7), False),
        ("~=3.11", (3, 13, 0), True),
        ("~=3.11.2", (3, 12, 0), False),
        ("==3.11.*", (3, 11, 9), True),
        ("!=3.11.*", (3, 11, 9), False),
        ("!=3.11.3", (3, 11, 9), True),
        ("> 3.11.7", (3, 11, 7), False),
        ("nonsense", (3, 11, 7), True),
    ],
)
def test_requires_python_allows_what_pep_440_says(
    specifier: str, version: tuple[int, int, int], is_allowed: bool
) -> None:
    assert allows(specifier, version) is is_allowed
