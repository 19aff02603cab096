"""What every engine promises.

`EngineContract` is about the book-keeping, and any engine passes it. `ProcessContract` is about real processes, and an engine that
runs them passes it too. A subclass provides the fixtures ``engine`` and, for the second, ``folder``.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyloom.core.resources import NOTHING, Resources
from skyloom.ports.engine import (
    Command,
    EndReason,
    Engine,
    Entry,
    GangPlan,
    GangWish,
    Observation,
    PythonCall,
    PythonFile,
    PythonModule,
    TaskPhase,
    TaskPlan,
)

PATIENCE_S = 30.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails when it does not come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain for {what}"
        time.sleep(0.01)


def look(engine: Engine, task_id: str) -> Observation:
    return engine.observe([task_id])[task_id]


def wait(engine: Engine, task_id: str, phase: TaskPhase = TaskPhase.ENDED) -> Observation:
    until(lambda: look(engine, task_id).phase is phase, f"{task_id} to be {phase}, is {look(engine, task_id)}")
    return look(engine, task_id)


def log(engine: Engine, task_id: str) -> bytes:
    return engine.read_log(task_id, 0, 2**30).content


def sh(script: str) -> Command:
    return Command(argv=("sh", "-c", script))


def program(folder: Path, source: str, name: str = "main.py") -> dict[str, str]:
    """Write a Python file and return the ``files`` of a plan that brings it."""
    path = folder / f"source-{time.monotonic_ns()}.py"
    path.write_text(source)
    return {name: str(path)}


def gang(*tasks: TaskPlan) -> GangPlan:
    return GangPlan(gang_id=tasks[0].task_id, tasks=tasks)


def one(task_id: str, entry: Entry, **more: object) -> GangPlan:
    return gang(TaskPlan(task_id=task_id, entry=entry, **{"grace_s": 5.0, **more}))  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    """True when a process is dead; a zombie that nobody has collected yet is dead too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class EngineContract:
    """Promises that need no process. ``let_end`` makes a task end where the engine's tasks do not end by themselves."""

    def let_end(self, engine: Engine, task_id: str, exit_code: int, output: bytes) -> None:
        """Real tasks do what their command says."""

    def test_observe_of_an_unknown_task_is_absent(self, engine: Engine) -> None:
        assert look(engine, "nobody") == Observation(task_id="nobody", phase=TaskPhase.ABSENT)
        assert engine.observe([]) == {}

    def test_stop_and_forget_of_unknown_tasks_are_ignored(self, engine: Engine) -> None:
        engine.stop(["nobody"])
        engine.stop(["nobody"], force=True)
        engine.forget(["nobody"])
        assert engine.known() == []

    def test_read_log_of_an_unknown_task_is_empty(self, engine: Engine) -> None:
        part = engine.read_log("nobody", 0, 100)
        assert (part.content, part.next_offset, part.total_bytes) == (b"", 0, 0)
        assert engine.read_result("nobody") is None

    @pytest.mark.parametrize(("exit_code", "reason"), [(0, EndReason.COMPLETED), (3, EndReason.EXIT_CODE)])
    def test_task_that_exits_is_ended_with_its_code(self, engine: Engine, exit_code: int, reason: EndReason) -> None:
        engine.launch(one("t", sh(f"echo hello; exit {exit_code}")))
        self.let_end(engine, "t", exit_code, b"hello\n")
        seen = wait(engine, "t")
        assert (seen.reason, seen.exit_code, seen.signal) == (reason, exit_code, None)
        assert seen.started_at is not None and seen.ended_at is not None and seen.started_at <= seen.ended_at
        assert log(engine, "t") == b"hello\n"

    def test_launch_again_after_the_end_changes_nothing(self, engine: Engine) -> None:
        engine.launch(one("t", sh("echo once")))
        self.let_end(engine, "t", 0, b"once\n")
        first = wait(engine, "t")
        engine.launch(one("t", sh("echo twice")))
        assert look(engine, "t") == first
        assert log(engine, "t") == b"once\n"

    def test_read_log_in_pieces_has_no_gap_and_no_repeat(self, engine: Engine) -> None:
        engine.launch(one("t", sh("seq 1 200")))
        expected = b"".join(b"%d\n" % number for number in range(1, 201))
        self.let_end(engine, "t", 0, expected)
        wait(engine, "t")
        offset, found = 0, b""
        while (part := engine.read_log("t", offset, 7)).content:
            assert part.total_bytes == len(expected)
            found, offset = found + part.content, part.next_offset
        assert found == expected
        assert engine.read_log("t", offset, 7).next_offset == offset

    def test_forget_deletes_ended_tasks_only(self, engine: Engine) -> None:
        engine.launch(one("over", sh("true")))
        engine.launch(one("running", sh("exec sleep 1000")))
        self.let_end(engine, "over", 0, b"")
        wait(engine, "over")
        wait(engine, "running", TaskPhase.RUNNING)
        engine.forget(["over", "running"])
        assert engine.known() == ["running"]
        assert look(engine, "over").phase is TaskPhase.ABSENT
        assert look(engine, "running").phase is TaskPhase.RUNNING
        engine.stop(["running"], force=True)
        wait(engine, "running")

    def test_stop_of_a_running_task_ends_it_as_stopped(self, engine: Engine) -> None:
        engine.launch(one("t", sh("exec sleep 1000")))
        assert wait(engine, "t", TaskPhase.RUNNING).pid is not None
        engine.stop(["t"])
        engine.stop(["t"])
        seen = wait(engine, "t")
        assert (seen.reason, seen.exit_code, seen.signal) == (EndReason.STOPPED, None, signal.SIGTERM)

    def test_stop_after_the_end_leaves_the_reason(self, engine: Engine) -> None:
        engine.launch(one("t", sh("exit 3")))
        self.let_end(engine, "t", 3, b"")
        before = wait(engine, "t")
        engine.stop(["t"], force=True)
        assert look(engine, "t") == before

    def test_known_lists_running_and_ended_tasks(self, engine: Engine) -> None:
        engine.launch(gang(TaskPlan(task_id="a.0", entry=sh("true")), TaskPlan(task_id="a.1", entry=sh("true"))))
        assert engine.known() == ["a.0", "a.1"]
        for task_id in ("a.0", "a.1"):
            self.let_end(engine, task_id, 0, b"")
            wait(engine, task_id)

    def test_capacity_is_more_than_nothing(self, engine: Engine) -> None:
        assert engine.capacity().cpus > 0
        assert engine.capacity().memory_bytes > 0

    def test_wishes_are_taken_and_hinder_nothing_that_fits(self, engine: Engine) -> None:
        before = engine.machines()
        wishes = [GangWish(gang=name, resources=Resources(cpus=0.5), num_workers=2) for name in "ab"]
        wishes.append(GangWish(gang="c", resources=Resources(cpus=99_000), together=True))
        for told in (wishes, wishes, wishes[1:], ()):
            engine.wants(told)
        engine.wants(wishes)
        # What a pool has set aside for a wish is there for whoever is started.
        engine.launch(one("t", sh("exit 0"), resources=Resources(cpus=engine.capacity().cpus, memory_bytes=0)))
        self.let_end(engine, "t", 0, b"")
        assert wait(engine, "t").reason is EndReason.COMPLETED
        engine.wants(())
        assert list(engine.machines()) == list(before)

    def test_machines_add_up_to_the_capacity(self, engine: Engine) -> None:
        machines = engine.machines()
        assert len({machine.name for machine in machines}) == len(machines) > 0
        total = NOTHING
        for machine in machines:
            total += machine.total
        assert total == engine.capacity()


class ProcessContract(EngineContract):
    """Promises about real processes."""

    # Entries

    def test_command_is_run_without_a_shell(self, engine: Engine) -> None:
        engine.launch(one("t", Command(argv=("printf", "%s|", "$HOME", "a b", ";"))))
        wait(engine, "t")
        assert log(engine, "t") == b"$HOME|a b|;|"

    def test_python_file_is_main_with_its_arguments_and_neighbours(self, engine: Engine, folder: Path) -> None:
        files = program(folder, "import sys, side.near\nprint(__name__, sys.argv[1:], side.near.WORD)", "in/main.py")
        files |= program(folder, "WORD = 'found'", "in/side/near.py")
        engine.launch(one("t", PythonFile(path="in/main.py", args=("x", "y")), files=files))
        assert wait(engine, "t").exit_code == 0, log(engine, "t")
        assert log(engine, "t") == b"__main__ ['x', 'y'] found\n"

    def test_python_module_is_run_like_dash_m(self, engine: Engine) -> None:
        engine.launch(one("t", PythonModule(module="platform", args=("--terse",))))
        assert wait(engine, "t").exit_code == 0
        assert b"Linux" in log(engine, "t")

    @pytest.mark.parametrize(
        ("left", "reason", "message"),
        [
            ('{"message": "no column \'x\'", "final": true}', EndReason.REFUSED, "no column 'x'"),
            ('{"message": "two\\nlines"}', EndReason.EXIT_CODE, "two lines"),
            ('{"message": "%s"}' % ("é" * 9_000), EndReason.EXIT_CODE, "é" * 500),
            ('{"message": "\\ud800", "final": 1}', EndReason.EXIT_CODE, "?"),
            ("[" * 60_000, EndReason.EXIT_CODE, "exit code 2"),
            ('["message"]', EndReason.EXIT_CODE, "exit code 2"),
            ("", EndReason.EXIT_CODE, "exit code 2"),
        ],
    )
    def test_task_that_says_why_it_fails_is_quoted(
        self, engine: Engine, folder: Path, left: str, reason: EndReason, message: str
    ) -> None:
        (folder / "left").write_text(left)
        engine.launch(one("t", sh(f"cp {folder / 'left'} $SKYLOOM_TASK_FOLDER/error.json; exit 2")))
        seen = wait(engine, "t")
        assert (seen.reason, seen.exit_code, seen.message) == (reason, 2, message)

    def test_task_that_fails_without_a_word_is_quoted_by_its_last_line(self, engine: Engine) -> None:
        engine.launch(one("t", sh("printf 'first\\n\\033[31mlast é%0300d\\n \\n' 7; exit 3")))
        seen = wait(engine, "t")
        assert seen.message == "exit code 3, after it printed: " + ("[31mlast é" + "0" * 300)[:200]

    def test_task_that_leaves_a_pipe_or_succeeds_is_not_quoted(self, engine: Engine) -> None:
        engine.launch(one("pipe", sh("mkfifo $SKYLOOM_TASK_FOLDER/error.json; exit 2")))
        engine.launch(one("good", sh('echo \'{"message": "m"}\' > $SKYLOOM_TASK_FOLDER/error.json')))
        assert wait(engine, "pipe").message == "exit code 2"
        assert wait(engine, "good").reason is EndReason.COMPLETED

    def test_python_call_leaves_its_json_result(self, engine: Engine, folder: Path) -> None:
        files = program(folder, "def add(a, *, b):\n    print('adding')\n    return {'sum': a + b, 'name': __name__}")
        call = PythonCall(path="main.py", function="add", arguments=b'{"args": [1], "kwargs": {"b": 2}}')
        engine.launch(one("t", call, files=files))
        assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
        assert engine.read_result("t") == b'{"sum": 3, "name": "main"}'

    def test_python_call_that_raises_shows_the_users_traceback_only(self, engine: Engine, folder: Path) -> None:
        files = program(folder, "def boom():\n    raise LookupError('nothing here')")
        engine.launch(one("t", PythonCall(path="main.py", function="boom"), files=files))
        assert wait(engine, "t").exit_code == 1
        text = log(engine, "t").decode()
        assert text.startswith("Traceback") and text.endswith("LookupError: nothing here\n")
        assert text.count("  File ") == 1, text
        assert engine.read_result("t") is None

    def test_python_exception_is_exit_code_one_with_a_traceback(self, engine: Engine, folder: Path) -> None:
        files = program(folder, "import sys\nprint('before')\nraise ValueError('bad')")
        engine.launch(one("t", PythonFile(path="main.py"), files=files))
        seen = wait(engine, "t")
        assert (seen.reason, seen.exit_code) == (EndReason.EXIT_CODE, 1)
        lines = log(engine, "t").decode().splitlines()
        assert lines[0] == "before" and lines[-1] == "ValueError: bad"
        assert sum(line.startswith("  File ") for line in lines) == 1, lines

    def test_signal_is_reported_with_its_number_and_the_last_line(self, engine: Engine) -> None:
        engine.launch(one("t", sh("echo 'terminate called'; kill -ABRT $$")))
        seen = wait(engine, "t")
        assert (seen.reason, seen.signal, seen.exit_code) == (EndReason.SIGNALLED, signal.SIGABRT, None)
        assert seen.message == "ended by SIGABRT, after it printed: terminate called"

    def test_stdout_and_stderr_are_in_the_order_they_came(self, engine: Engine) -> None:
        engine.launch(one("t", sh("for i in 1 2 3; do echo out$i; echo err$i >&2; done")))
        wait(engine, "t")
        assert log(engine, "t") == b"out1\nerr1\nout2\nerr2\nout3\nerr3\n"

    # Bad plans

    @pytest.mark.parametrize(
        ("entry", "word"),
        [
            (Command(argv=("no-such-program",)), "no-such-program"),
            (Command(argv=()), "empty"),
            (Command(argv=("./here",)), "./here"),
            (PythonFile(path="missing.py"), "missing.py"),
            (PythonFile(path="../up.py"), "../up.py"),
            (PythonCall(path="missing.py", function="f"), "missing.py"),
        ],
    )
    def test_entry_that_cannot_start_is_launch_failed(self, engine: Engine, entry: Entry, word: str) -> None:
        engine.launch(one("t", entry))
        seen = wait(engine, "t")
        assert seen.reason is EndReason.LAUNCH_FAILED
        assert word in seen.message

    @pytest.mark.parametrize("path", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "", ".", "..", "a/.."])
    def test_file_outside_of_the_working_folder_is_refused(self, engine: Engine, folder: Path, path: str) -> None:
        (folder / "source").write_text("x")
        engine.launch(one("t", sh("true"), files={path: str(folder / "source")}))
        assert wait(engine, "t").reason is EndReason.LAUNCH_FAILED

    @pytest.mark.parametrize("path", ["a" * 300, "é" * 200, f"x/{'a' * 256}/y"])
    def test_file_with_a_longer_name_than_the_disk_takes_is_refused(
        self, engine: Engine, folder: Path, path: str
    ) -> None:
        (folder / "source").write_text("x")
        engine.launch(one("t", sh("true"), files={path: str(folder / "source")}))
        seen = wait(engine, "t")
        assert seen.reason is EndReason.LAUNCH_FAILED and "longer name" in seen.message

    @pytest.mark.parametrize("source", ["/nowhere/at/all", "relative", ""])
    def test_file_without_bytes_is_refused(self, engine: Engine, source: str) -> None:
        engine.launch(one("t", sh("true"), files={"a": source}))
        seen = wait(engine, "t")
        assert seen.reason is EndReason.LAUNCH_FAILED and "'a'" in seen.message

    def test_one_bad_task_keeps_its_whole_gang_from_starting(self, engine: Engine, folder: Path) -> None:
        mark = folder / "ran"
        good = TaskPlan(task_id="a.0", entry=sh(f"touch {mark}"))
        engine.launch(gang(good, TaskPlan(task_id="a.1", entry=Command(argv=("no-such-program",)))))
        for task_id in ("a.0", "a.1"):
            seen = wait(engine, task_id)
            assert seen.reason is EndReason.LAUNCH_FAILED and "a.1" in seen.message
        assert not mark.exists()

    # What a task is told

    def test_task_sees_a_clean_environment_and_its_own_variables(self, engine: Engine, folder: Path) -> None:
        os.environ["LEAKS"] = "must not be seen"
        try:
            plan = TaskPlan(
                task_id="t",
                entry=Command(argv=("env",)),
                environment={"MINE": "yes", "RANK": "99"},
                secret_files={"token": "s3cret"},
                shared_folder=str(folder / "shared"),
                resources=Resources(cpus=2.5, memory_bytes=2**28),
            )
            engine.launch(gang(plan))
            wait(engine, "t")
        finally:
            del os.environ["LEAKS"]
        seen = dict(line.partition("=")[::2] for line in log(engine, "t").decode().splitlines())
        assert "LEAKS" not in seen and "s3cret" not in seen.values()
        expected = {"MINE": "yes", "RANK": "0", "WORLD_SIZE": "1", "SKYLOOM_TASK_ID": "t", "OMP_NUM_THREADS": "2"}
        assert {name: seen[name] for name in expected} == expected
        assert Path(seen["SKYLOOM_SHARED_FOLDER"]).is_dir()
        assert seen["SKYLOOM_TOKEN_FILE"]

    def test_secret_is_readable_by_the_task_and_gone_afterwards(self, engine: Engine) -> None:
        script = 'cat "$SKYLOOM_TOKEN_FILE"; stat -c " %a" "$SKYLOOM_TOKEN_FILE"; echo "$SKYLOOM_TOKEN_FILE"'
        engine.launch(one("t", sh(script), secret_files={"TOKEN": "s3cret"}))
        wait(engine, "t")
        secret, path = log(engine, "t").decode().splitlines()
        assert secret == "s3cret 600"
        assert not Path(path).exists()

    def test_gang_shares_one_rendezvous_and_live_gangs_do_not(self, engine: Engine) -> None:
        show = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT"; exec sleep 1000'
        names = [f"{job}.{rank}" for job in "ab" for rank in (0, 1)]
        for job in "ab":
            engine.launch(gang(*(TaskPlan(task_id=f"{job}.{rank}", entry=sh(show)) for rank in (0, 1))))
        until(lambda: all(log(engine, name).endswith(b"\n") for name in names), "output of four tasks")
        said = {name: log(engine, name).decode().split() for name in names}
        engine.stop(names, force=True)
        for name in names:
            assert said[name][:4] == [name[-1], name[-1], "2", "2"]
            wait(engine, name)
        assert said["a.0"][4:] == said["a.1"][4:] and said["b.0"][4:] == said["b.1"][4:]
        assert said["a.0"][4:] != said["b.0"][4:]

    # At most once

    def test_launch_from_many_threads_runs_the_task_once(self, engine: Engine, folder: Path) -> None:
        plan = one("t", sh(f"echo x >> {folder}/runs; exec sleep 1000"))
        threads = [threading.Thread(target=engine.launch, args=(plan,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait(engine, "t", TaskPhase.RUNNING)
        until(lambda: (folder / "runs").exists(), "the first line")
        engine.launch(plan)
        engine.stop(["t"], force=True)
        wait(engine, "t")
        engine.launch(plan)
        assert look(engine, "t").reason is EndReason.STOPPED
        assert (folder / "runs").read_text() == "x\n"

    def test_looking_all_the_time_never_disturbs_a_start(self, engine: Engine) -> None:
        names = [f"t{number}" for number in range(8)]
        seen: set[TaskPhase] = set()
        enough = threading.Event()

        def stare() -> None:
            while not enough.wait(0.001):
                seen.update(what.phase for what in engine.observe(names).values())

        watchers = [threading.Thread(target=stare) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        for name in names:
            engine.launch(one(name, sh("true")))
        ends = {name: wait(engine, name).reason for name in names}
        enough.set()
        for watcher in watchers:
            watcher.join()
        assert ends == dict.fromkeys(names, EndReason.COMPLETED)
        assert TaskPhase.STARTING in seen

    @pytest.mark.parametrize("force", [False, True])
    def test_stop_right_after_launch_always_ends_it(self, engine: Engine, force: bool) -> None:
        for number in range(10):
            engine.launch(one(f"t{number}", sh("exec sleep 1000")))
            if number % 2:
                until(lambda number=number: look(engine, f"t{number}").phase is not TaskPhase.STARTING, "start")  # type: ignore[misc]
            engine.stop([f"t{number}"], force=force)
        for number in range(10):
            assert wait(engine, f"t{number}").reason is EndReason.STOPPED

    # Limits

    def test_task_over_its_time_is_ended(self, engine: Engine) -> None:
        engine.launch(one("t", sh("sleep 1000"), max_duration_s=0.3))
        seen = wait(engine, "t")
        assert seen.reason is EndReason.TIME_LIMIT and "0.3 s" in seen.message

    def test_task_over_its_memory_is_ended_and_its_sibling_is_not(self, engine: Engine) -> None:
        hog = "x = [bytearray(2**20) for _ in range(100_000)]"
        limit = Resources(memory_bytes=150 * 2**20)
        engine.launch(one("sibling", sh("exec sleep 1000"), resources=limit))
        engine.launch(one("hog", Command(argv=(sys.executable, "-c", hog)), resources=limit))
        seen = wait(engine, "hog")
        assert seen.reason is EndReason.OUT_OF_MEMORY
        assert "of 150 MiB" in seen.message and seen.peak_memory_bytes > 75 * 2**20
        assert wait(engine, "sibling", TaskPhase.RUNNING).pid is not None
        engine.stop(["sibling"], force=True)
        wait(engine, "sibling")

    def test_peak_memory_is_recorded(self, engine: Engine) -> None:
        engine.launch(one("t", Command(argv=(sys.executable, "-c", "x = b'x' * 60_000_000"))))
        assert 60_000_000 < wait(engine, "t").peak_memory_bytes < 200_000_000

    def test_output_over_its_limit_is_exact_up_to_it_and_says_so_once(self, engine: Engine) -> None:
        source = "import sys\nfor n in range(20_000): sys.stdout.buffer.write(b'%09d\\n' % n * 1000)"
        engine.launch(one("t", Command(argv=(sys.executable, "-c", source)), max_log_bytes=1_000_005))
        seen = wait(engine, "t")
        assert seen.reason is EndReason.COMPLETED and "limit" in seen.message
        content = log(engine, "t")
        kept, _, line = content[1_000_005:].partition(b"\n")
        assert content[:1_000_005] == b"".join(b"%09d\n" % n * 1000 for n in range(101))[:1_000_005]
        assert kept == b"" and line.startswith(b"[skyloom]") and line.count(b"\n") == 1
        assert b"max_log_bytes" in line

    # Nothing stays

    def test_stop_ends_every_descendant_however_it_hides(self, engine: Engine, folder: Path) -> None:
        engine.launch(one("t", PythonFile(path="main.py"), files=program(folder, HOSTILE), grace_s=0.3))
        until(lambda: b"ready" in log(engine, "t"), "60 hostile processes")
        pids = [int(word) for word in log(engine, "t").split() if word.isdigit()]
        assert len(pids) == 61 and not any(is_gone(pid) for pid in pids)
        engine.stop(["t"])
        assert wait(engine, "t").reason is EndReason.STOPPED
        assert all(is_gone(pid) for pid in pids)

    def test_end_of_the_main_process_ends_what_it_left(self, engine: Engine, folder: Path) -> None:
        files = program(folder, HOSTILE.replace("time.sleep(1000)  # main", ""))
        engine.launch(one("t", PythonFile(path="main.py"), files=files))
        assert wait(engine, "t").reason is EndReason.COMPLETED
        pids = [int(word) for word in log(engine, "t").split() if word.isdigit()]
        assert len(pids) == 61 and all(is_gone(pid) for pid in pids)


# 20 plain children, 20 in their own session, 20 double-forked in their own session; all ignore SIGTERM.
HOSTILE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def hide(kind):
    if os.fork():
        return
    if kind:
        os.setsid()
    if kind == 2 and os.fork():
        os._exit(0)
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(1000)
    os._exit(0)
os.write(1, b"%d\\n" % os.getpid())
read, write = os.pipe()
for number in range(60):
    hide(number % 3)
time.sleep(0.5)
os.write(1, b"ready\\n")
time.sleep(1000)  # main
"""
