"""Supervisors, engines and pools that are killed at any moment; processes that hide; records that lie."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.resources import Resources
from skyloom.engines.local import LocalEngine, environment
from skyloom.engines.local.folder import TaskFolder
from skyloom.engines.local.prepare import Host, Place, prepare
from skyloom.engines.local.pythons import Pythons
from skyloom.engines.local.supervisor import processes
from skyloom.ports.engine import Command, EndReason, Entry, PythonFile, TaskPhase, TaskPlan
from tests.contracts.engine_contract import HOSTILE, is_gone, log, look, one, program, sh, until, wait
from tests.crashing import calls_until_done, run_and_crash

LAUNCH = """
import sys
from pathlib import Path
from skyloom.engines.local import LocalEngine
from skyloom.ports.engine import Command, GangPlan, TaskPlan
folder = Path(sys.argv[1])
engine = LocalEngine(folder / "tasks", warm=False)
say = Command(argv=("sh", "-c", f"echo x >> {folder}/runs; echo $MASTER_PORT >> {folder}/ports"))
engine.launch(GangPlan(gang_id="g", tasks=tuple(TaskPlan(task_id=f"t{rank}", entry=say) for rank in (0, 1))))
"""
SUPERVISE = """
import sys
from skyloom.engines.local.supervisor import shim
shim.main(sys.argv[1] + "/tasks/t0")
"""
HOLD = """
import sys, time
from pathlib import Path
from skyloom.engines.local import LocalEngine
from skyloom.ports.engine import GangPlan, PythonFile, TaskPlan
folder, warm = Path(sys.argv[1]), sys.argv[2] == "warm"
engine = LocalEngine(folder / "tasks", warm=warm)
assert not warm or engine.wait_until_warm(60)
for name in ("long", "short"):
    task = TaskPlan(task_id=name, entry=PythonFile(path="main.py", args=(name,)), files={"main.py": str(folder / "main.py")})
    engine.launch(GangPlan(gang_id=name, tasks=(task,)))
print("launched", flush=True)
time.sleep(1000)
"""
COUNT = """
import itertools, os, sys, time
from pathlib import Path
if sys.argv[1] == "short":
    while not Path(sys.argv[0]).with_name("go").exists():
        time.sleep(0.01)
    print("over", flush=True)
    sys.exit(7)
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.002)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    yield engine
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.close()


def prepared(tmp_path: Path, entry: Entry, **more: object) -> TaskFolder:
    """A task's folder, ready for a supervisor that the test starts."""
    (tmp_path / "tasks").mkdir(exist_ok=True)
    folder = TaskFolder(tmp_path / "tasks" / "t0")
    folder.create()
    plan = TaskPlan(task_id="t0", entry=entry, **more)  # type: ignore[arg-type]
    variables = environment.base(sys.executable)
    pythons = Pythons(tmp_path / "environments", sys.executable, {}, variables["PATH"], 2**30)
    prepare(
        folder, folder, plan, Host(sys.executable, variables, pythons, tmp_path / "mounts", 2**30), Place(0, 1, 0, ())
    )
    return folder


def supervise(folder: TaskFolder, patch: str = "") -> None:
    """Run a supervisor to its end, after changing something in it."""
    code = f"import sys, resource\nfrom skyloom.engines.local.supervisor import shim, processes\n{patch}\nshim.main(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=True, timeout=60)


def shim_of(engine_folder: Path, task_id: str) -> int:
    record = TaskFolder(engine_folder / task_id).shim()
    assert record is not None
    return record.pid


# The supervisor is killed


@pytest.mark.parametrize("memory_bytes", [0, 2**30], ids=["by marker", "by cgroup"])
@pytest.mark.parametrize("warm", [False, True])
def test_killed_supervisor_is_shim_lost_and_nothing_of_its_task_lives(
    tmp_path: Path, warm: bool, memory_bytes: int
) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=warm)
    assert engine.wait_until_warm(60) is warm
    plan = one(
        "t",
        PythonFile(path="main.py"),
        files=program(tmp_path, HOSTILE),
        resources=Resources(memory_bytes=memory_bytes),
        secret_files={"TOKEN": "s3cret"},
    )
    engine.launch(plan)
    until(lambda: b"ready" in log(engine, "t"), "60 hostile processes")
    pids = [int(word) for word in log(engine, "t").split() if word.isdigit()]
    assert len(pids) == 61
    os.kill(shim_of(tmp_path / "tasks", "t"), signal.SIGKILL)
    seen = wait(engine, "t")
    assert seen.reason is EndReason.SHIM_LOST
    assert all(is_gone(pid) for pid in pids)
    assert not (tmp_path / "tasks" / "t" / "secrets").exists()
    engine.launch(plan)
    assert look(engine, "t") == seen
    engine.close()


def test_second_supervisor_leaves_at_once(engine: LocalEngine, tmp_path: Path) -> None:
    engine.launch(one("t0", sh("exec sleep 1000")))
    pid = wait(engine, "t0", TaskPhase.RUNNING).pid
    supervise(TaskFolder(tmp_path / "tasks" / "t0"))
    seen = look(engine, "t0")
    assert (seen.phase, seen.pid) == (TaskPhase.RUNNING, pid)


@pytest.mark.slow
def test_supervisor_killed_at_any_disk_call_runs_the_task_at_most_once(tmp_path: Path) -> None:
    say = Command(argv=("sh", "-c", 'echo x >> "$MARKS"'))

    def fresh(name: str) -> Path:
        base = tmp_path / name
        base.mkdir()
        prepared(base, say, environment={"MARKS": str(base / "runs")})
        return base

    total = calls_until_done(SUPERVISE, fresh("unharmed"), forked=False)
    assert total >= 8
    for k in range(1, total + 1):
        base = fresh(str(k))
        run_and_crash(SUPERVISE, base, k, forked=False)
        engine = LocalEngine(base / "tasks", warm=False)
        seen = look(engine, "t0")
        assert seen.phase in (TaskPhase.ABSENT, TaskPhase.ENDED), f"killed at call {k}"
        engine.launch(one("t0", say))
        wait(engine, "t0")
        runs = (base / "runs").read_text() if (base / "runs").exists() else ""
        assert runs == "x\n" if seen.phase is TaskPhase.ABSENT else runs in ("", "x\n"), f"killed at call {k}"


# The engine's process is killed


@pytest.mark.slow
def test_launch_killed_at_any_disk_call_runs_each_task_once(tmp_path: Path) -> None:
    (tmp_path / "unharmed").mkdir()
    total = calls_until_done(LAUNCH, tmp_path / "unharmed", forked=False)
    assert total >= 20
    for k in range(1, total + 1):
        base = tmp_path / str(k)
        base.mkdir()
        run_and_crash(LAUNCH, base, k, forked=False)
        engine = LocalEngine(base / "tasks", warm=False)
        say = sh(f"echo x >> {base}/runs; echo $MASTER_PORT >> {base}/ports")
        plan = one("t0", say)
        engine.launch(type(plan)(gang_id="g", tasks=(*plan.tasks, *one("t1", say).tasks)))
        assert {wait(engine, task_id).reason for task_id in ("t0", "t1")} == {EndReason.COMPLETED}, (
            f"killed at call {k}"
        )
        assert (base / "runs").read_text() == "x\n" * 2, f"killed at call {k}"
        assert len(set((base / "ports").read_text().split())) == 1, f"killed at call {k}"
        assert engine.known() == ["t0", "t1"]


@pytest.mark.parametrize("warm", ["cold", "warm"])
def test_new_engine_adopts_what_a_killed_one_left(tmp_path: Path, warm: str) -> None:
    (tmp_path / "main.py").write_text(COUNT)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), warm], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"launched\n"
        first = LocalEngine(tmp_path / "tasks", warm=False)
        pids = {name: wait(first, name, TaskPhase.RUNNING).pid for name in ("long", "short")}
        until(lambda: len(log(first, "long")) > 100, "some output")
        before = log(first, "long")
        holder.kill()
    (tmp_path / "tasks" / "short" / "work" / "go").touch()  # it ends while nobody holds the folder
    until(lambda: is_gone(pids["short"] or 0), "the short task's end")
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    over = wait(engine, "short")
    assert (over.reason, over.exit_code, over.pid) == (EndReason.EXIT_CODE, 7, pids["short"])
    assert log(engine, "short") == b"over\n"
    assert look(engine, "long").pid == pids["long"]
    until(lambda: len(log(engine, "long")) > len(before) + 100, "more output")
    engine.stop(["long"])
    assert wait(engine, "long").reason is EndReason.STOPPED
    lines = log(engine, "long").decode().splitlines()
    assert lines == [str(number) for number in range(len(lines))]


def test_pool_ends_with_its_engine_process(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(COUNT)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "warm"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"launched\n"
        (pool,) = [
            pid for pid in processes.children_of(holder.pid) if b"\0warm\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        holder.kill()
    until(lambda: is_gone(pool), "the end of the pool")
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    assert look(engine, "long").phase is TaskPhase.RUNNING
    engine.stop(["long", "short"], force=True)
    assert wait(engine, "long").reason is EndReason.STOPPED
    wait(engine, "short")


def test_task_whose_folder_is_deleted_ends(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    engine.launch(one("t", sh("exec sleep 1000")))
    pid = wait(engine, "t", TaskPhase.RUNNING).pid
    supervisor = shim_of(tmp_path / "tasks", "t")
    shutil.rmtree(tmp_path / "tasks")
    until(lambda: is_gone(supervisor) and is_gone(pid or 0), "the end of the task and of its supervisor")
    engine.close()


# Records that lie


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def doctored(folder: TaskFolder, **lies: object) -> None:
    path = folder.path / "shim.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **lies}))


def test_stranger_with_a_recorded_pid_is_never_killed(tmp_path: Path, stranger: "subprocess.Popen[bytes]") -> None:
    folder = prepared(tmp_path, sh("true"))
    supervise(folder)
    (folder.path / "exit.json").unlink()
    own = {"pid": stranger.pid, "child_pid": stranger.pid, "ticks": processes.start_ticks(stranger.pid)}
    doctored(folder, **own, child_ticks=own["ticks"], marker="", cgroup="/sys/fs/cgroup/memory")
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    engine.stop(["t0"], force=True)
    assert look(engine, "t0").reason is EndReason.SHIM_LOST
    assert stranger.poll() is None


def test_stop_reaches_the_task_and_not_the_stranger_that_has_the_recorded_pid(
    engine: LocalEngine, tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    engine.launch(one("t", sh("exec sleep 1000")))
    pid = wait(engine, "t", TaskPhase.RUNNING).pid
    doctored(TaskFolder(tmp_path / "tasks" / "t"), pid=stranger.pid, child_pid=stranger.pid, ticks=1, child_ticks=1)
    assert look(engine, "t").pid is None
    engine.stop(["t"], force=True)
    seen = wait(engine, "t")
    assert (seen.reason, seen.pid) == (EndReason.STOPPED, pid)
    assert stranger.poll() is None


def test_task_of_an_earlier_boot_is_lost_with_the_node(tmp_path: Path, stranger: "subprocess.Popen[bytes]") -> None:
    folder = prepared(tmp_path, sh("true"))
    supervise(folder)
    (folder.path / "exit.json").unlink()
    doctored(folder, boot_id="another boot", pid=stranger.pid, ticks=processes.start_ticks(stranger.pid))
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.reason is EndReason.NODE_LOST and "restarted" in seen.message
    assert stranger.poll() is None


def test_damaged_record_does_not_hide_other_tasks(engine: LocalEngine, tmp_path: Path) -> None:
    for task_id in ("bad", "good"):
        engine.launch(one(task_id, sh("exit 4")))
        wait(engine, task_id)
    (tmp_path / "tasks" / "bad" / "exit.json").write_text('{"reason": ')
    again = LocalEngine(tmp_path / "tasks", warm=False)
    again.launch(one("bad", sh("exit 4")))
    seen = again.observe(["bad", "good"])
    assert seen["bad"].reason is EndReason.SHIM_LOST and "damaged" in seen["bad"].message
    assert seen["good"].exit_code == 4


# A machine without what ours has


NO_CGROUP = "shim.MemoryCgroup.make = classmethod(lambda *_: None)\nprocesses.HAS_CHILDREN_FILE = False"


def test_memory_limit_holds_without_a_cgroup(tmp_path: Path) -> None:
    hog = "import time\nx = [bytearray(b'x' * 2**20) for _ in range(300)]\ntime.sleep(1000)"
    entry = Command(argv=(sys.executable, "-c", hog))
    supervise(prepared(tmp_path, entry, resources=Resources(memory_bytes=100 * 2**20)), NO_CGROUP)
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.reason is EndReason.OUT_OF_MEMORY and "of 100 MiB" in seen.message
    assert seen.peak_memory_bytes > 100 * 2**20


def test_shared_pages_do_not_count_twice_without_a_cgroup(tmp_path: Path) -> None:
    fork = "import os, time\nx = bytearray(b'x' * 60 * 2**20)\nos.fork(); os.fork()\ntime.sleep(0.5)"
    entry = Command(argv=(sys.executable, "-c", fork))
    supervise(prepared(tmp_path, entry, resources=Resources(memory_bytes=150 * 2**20)), NO_CGROUP)
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.reason is EndReason.COMPLETED, seen


def test_hiding_descendants_are_found_without_the_children_file(tmp_path: Path) -> None:
    files = program(tmp_path, HOSTILE.replace("time.sleep(1000)  # main", ""))
    folder = prepared(tmp_path, PythonFile(path="main.py"), files=files)
    supervise(folder, NO_CGROUP)
    pids = [int(word) for word in folder.log.read_bytes().split() if word.isdigit()]
    assert len(pids) == 61 and all(is_gone(pid) for pid in pids)


def test_defect_in_the_supervisor_leaves_no_process_and_a_record(tmp_path: Path) -> None:
    folder = prepared(tmp_path, sh("echo $$; exec sleep 1000"))
    supervise(folder, "def broken(self):\n    raise RuntimeError('defect')\nshim.Shim._check_memory = broken")
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.reason is EndReason.SHIM_LOST and "RuntimeError: defect" in seen.message
    assert all(is_gone(int(pid)) for pid in folder.log.read_bytes().split())


def test_clock_that_jumps_back_never_gives_a_negative_duration(tmp_path: Path) -> None:
    jump = "import time\nreal = time.time\ntimes = iter([real()])\nshim.time.time = lambda: next(times, 0.0)"
    supervise(prepared(tmp_path, sh("sleep 0.1")), jump)
    seen = look(LocalEngine(tmp_path / "tasks", warm=False), "t0")
    assert seen.started_at is not None and seen.ended_at is not None
    assert 0.1 <= seen.ended_at - seen.started_at < 60


@pytest.mark.slow
def test_thousand_children_are_gone_after_a_stop(engine: LocalEngine, tmp_path: Path) -> None:
    files = program(tmp_path, HOSTILE.replace("range(60)", "range(1000)").replace("0.5", "5"))
    engine.launch(one("t", PythonFile(path="main.py"), files=files, grace_s=0.5, resources=Resources(memory_bytes=0)))
    until(lambda: b"ready" in log(engine, "t"), "1000 hostile processes")
    pids = [int(word) for word in log(engine, "t").split() if word.isdigit()]
    assert len(pids) == 1001
    engine.stop(["t"])
    asked = time.monotonic()
    wait(engine, "t")
    assert time.monotonic() - asked < 10.5 + 30  # the promise: gone 10 s after the grace; and a busy machine
    assert all(is_gone(pid) for pid in pids)
