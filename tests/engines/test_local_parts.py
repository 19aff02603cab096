"""The parts of the local engine, each on its own."""

import ast
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.core.resources import NOTHING, Resources
from skyloom.engines.local import LocalEngine, environment, machine
from skyloom.engines.local.claims import Claims
from skyloom.engines.local.folder import TaskFolder, is_task_id
from skyloom.engines.local.prepare import SUPERVISOR
from skyloom.engines.local.supervisor import files, processes
from skyloom.engines.local.supervisor.output import Output
from skyloom.ports.engine import EndReason, GangPlan, TaskPlan
from tests.contracts.engine_contract import log, look, one, sh, wait
from tests.engines.test_local_crashes import prepared

# Ids and folders


@given(st.text(max_size=130))
def test_task_id_that_is_accepted_names_one_folder_below(text: str) -> None:
    if is_task_id(text):
        assert Path("/root", text).resolve().parent == Path("/root")
        assert not text.startswith(".")


@pytest.mark.parametrize("task_id", ["", ".", "..", "a/b", "../a", ".hidden", "a\0b", "ä", "x" * 121])
def test_launch_with_a_bad_id_is_invalid_input_and_looking_finds_nothing(tmp_path: Path, task_id: str) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    with pytest.raises(InvalidInput):
        engine.launch(one(task_id, sh("true")))
    assert engine.known() == []
    assert look(engine, task_id).phase.value == "absent"


def test_launch_with_the_same_id_twice_is_invalid_input(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    with pytest.raises(InvalidInput, match="twice"):
        engine.launch(GangPlan(gang_id="g", tasks=one("t", sh("true")).tasks * 2))
    assert engine.known() == []


def test_files_of_a_task_are_for_its_owner_only(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    source = tmp_path / "source"
    source.write_text("text")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho ran")
    brought = {"data/a.txt": str(source), "run.sh": str(script)}
    engine.launch(one("t", sh("./run.sh; readlink data/a.txt; echo $TMPDIR; touch $TMPDIR/left"), files=brought))
    wait(engine, "t")
    said = log(engine, "t").decode().splitlines()
    assert said[0] == "ran" and len(said) == 2
    assert not Path(said[1]).exists(), "temporary files end with the task"
    task = tmp_path / "tasks" / "t"
    for path in (task, *task.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    engine.close()


def test_python_path_of_the_user_comes_with_ours(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False, variables={"SITE": "north"})
    engine.launch(one("t", sh("echo $SITE; python -c 'import skyloom.core'")))
    assert wait(engine, "t").exit_code == 0, log(engine, "t")
    assert log(engine, "t") == b"north\n"
    engine.close()


def test_link_in_place_of_the_result_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").write_text("private")
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    engine.launch(one("link", sh(f"ln -s {tmp_path}/private $SKYLOOM_TASK_FOLDER/result.json")))
    engine.launch(one("large", sh("head -c 16777217 /dev/zero > $SKYLOOM_TASK_FOLDER/result.json")))
    engine.launch(one("good", sh("echo 7 > $SKYLOOM_TASK_FOLDER/result.json")))
    for task_id in ("link", "large", "good"):
        wait(engine, task_id)
    assert engine.read_result("link") is None
    assert engine.read_result("large") is None
    assert engine.read_result("good") == b"7\n"
    engine.close()


def test_interpreter_that_cannot_run_is_unavailable_and_the_task_waits(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", python="/no/such/python", warm=True)
    assert not engine.wait_until_warm(0)
    with pytest.raises(Unavailable, match="/no/such/python"):
        engine.launch(one("t", sh("true")))
    assert look(engine, "t").phase.value == "absent"
    again = LocalEngine(tmp_path / "tasks", warm=False)
    again.launch(one("t", sh("true")))
    assert wait(again, "t").reason is EndReason.COMPLETED


def test_stop_before_the_supervisor_started_is_final(tmp_path: Path) -> None:
    prepared(tmp_path, sh("true"))
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    assert look(engine, "t0").phase.value == "absent"
    engine.stop(["t0"])
    engine.launch(one("t0", sh("true")))
    assert wait(engine, "t0").reason is EndReason.STOPPED
    engine.close()


# The supervisor's own parts


def test_supervisor_imports_the_standard_library_and_itself_only() -> None:
    for path in SUPERVISOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), f"{path.name}: {names}"


def test_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not files.is_locked(path)
    held = files.take_lock(path)
    assert held is not None
    assert files.is_locked(path) and files.take_lock(path) is None
    os.close(held)
    assert not files.is_locked(path)
    again = files.take_lock(path)
    assert again is not None
    os.close(again)


def test_send_hits_only_the_process_that_is_meant(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        ticks = processes.start_ticks(process.pid)
        assert ticks is not None
        assert not processes.send(process.pid, ticks + 1, 9)
        assert process.poll() is None
        assert processes.send(process.pid, ticks, 9)
        assert process.wait() == -9
    assert not processes.send(process.pid, ticks, 9)


def written(folder: Path, max_bytes: int, chunks: list[bytes]) -> bytes:
    path = folder / "log"
    path.unlink(missing_ok=True)
    read, write = os.pipe()
    output = Output(read, str(path), max_bytes)
    for chunk in chunks:
        os.write(write, chunk)
        output.move()
    os.close(write)
    assert not output.move()
    output.close()
    return path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(min_value=0, max_value=200))
def test_output_keeps_exactly_what_fits(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], limit: int
) -> None:
    content = b"".join(chunks)
    found = written(tmp_path_factory.getbasetemp(), limit, chunks)
    assert found[:limit] == content[:limit]
    rest = found[len(content[:limit]) :]
    assert (b"[skyloom]" in rest) == (len(content) > limit)
    assert rest.count(b"max_log_bytes") == (1 if len(content) > limit else 0)


# What the machine has, and who holds it


def test_capacity_fills_what_the_operator_left_open() -> None:
    whole = machine.capacity()
    assert whole.cpus > 0 and whole.memory_bytes > 2**20
    assert machine.capacity(NOTHING) == whole
    part = machine.capacity(Resources(cpus=0.5, memory_bytes=0))
    assert (part.cpus, part.memory_bytes) == (0.5, whole.memory_bytes)


def test_free_port_is_nobody_elses(tmp_path: Path) -> None:
    over: set[str] = set()
    claims = Claims(lambda folder: folder.task_id in over)
    plan = prepared(tmp_path, sh("true")).plan()
    assert plan is not None
    ports = set()
    for number in range(50):
        port = claims.free_port()
        claims.hold(
            TaskFolder(tmp_path / f"t{number}"), type(plan)(**{**_fields(plan), "port": port, "gpus": (number,)})
        )
        ports.add(port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    assert len(ports) == 50
    assert claims.free_gpus(range(52)) == (50, 51)
    over |= {"t3", "t4"}
    claims.release_ended()
    assert claims.free_gpus(range(50)) == (3, 4)


def _fields(plan: object) -> dict[str, object]:
    return {name: getattr(plan, name) for name in plan.__struct_fields__}  # type: ignore[attr-defined]


def test_gang_sees_its_own_gpus_in_rank_order_and_others_see_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpu_indices", lambda: (0, 1, 2))
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    assert engine.capacity().gpus == 3
    show = sh('echo "[$CUDA_VISIBLE_DEVICES]"; until [ -e "$SKYLOOM_SHARED_FOLDER/go" ]; do sleep 0.01; done')

    def launch(name: str, gpus: int, size: int) -> None:
        tasks = (
            TaskPlan(task_id=f"{name}.{rank}", entry=show, resources=Resources(gpus=gpus), shared_folder=str(tmp_path))
            for rank in range(size)
        )
        engine.launch(GangPlan(gang_id=name, tasks=tuple(tasks)))

    launch("two", 1, 2)
    launch("none", 0, 1)
    launch("many", 1, 2)
    launch("last", 1, 1)
    seen = look(engine, "many.0")
    assert seen.reason is EndReason.LAUNCH_FAILED and "needs 2 GPUs, 1 are free" in seen.message
    (tmp_path / "go").touch()
    for task_id in ("two.0", "two.1", "none.0", "last.0"):
        wait(engine, task_id)
    assert log(engine, "two.0") == log(engine, "two.1") == b"[0,1]\n"
    assert log(engine, "none.0") == b"[]\n"
    assert log(engine, "last.0") == b"[2]\n"
    engine.close()


@pytest.mark.parametrize(
    ("variables", "warm"),
    [
        ({}, True),
        ({"MY_SETTING": "1", "OMP_NUM_THREADS": "4"}, True),
        ({"OMP_NUM_THREADS": "4,2"}, False),
        ({"PYTHONPATH": "/x"}, False),
        ({"LD_PRELOAD": "x.so"}, False),
        ({"TORCH_LOGS": "all"}, False),
    ],
)
def test_variables_that_are_read_at_start_need_a_cold_one(variables: dict[str, str], warm: bool) -> None:
    assert environment.allows_warm(variables) is warm


# Supervisors


def test_task_that_is_stopped_before_its_supervisor_looks_leaves_no_secret(tmp_path: Path) -> None:
    folder = prepared(tmp_path, sh("true"), secret_files={"TOKEN": "secret"})
    folder.request_stop(False)
    subprocess.run([sys.executable, "-I", "-S", str(SUPERVISOR), "shim", str(folder.path)], check=True)
    record = folder.exit()
    assert record is not None and record.reason is EndReason.STOPPED
    assert not folder.secrets.exists()


def test_disowned_supervisor_starts_where_the_kernel_collects_children(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False, disowns=True)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        engine.launch(one("t", sh("true")))
        assert wait(engine, "t").reason is EndReason.COMPLETED
    finally:
        signal.signal(signal.SIGCHLD, before)
        engine.close()
