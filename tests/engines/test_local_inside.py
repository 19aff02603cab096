"""Guests of a task and connections to its ports, with real processes."""

import errno
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.core.errors import InvalidInput
from skyloom.core.resources import Resources
from skyloom.engines.local import LocalEngine
from skyloom.engines.local.supervisor.guests import Guests
from skyloom.ports.channel import Control, GuestCommand, Size, Stream, TaskChannel
from skyloom.ports.engine import Command, EndReason, TaskNotThere, TaskPhase
from tests.contracts.engine_contract import PATIENCE_S, is_gone, log, one, sh, until, wait

SLEEP = sh("echo up; sleep 1000")
SERVER = """
import socket, sys
door = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print(door.getsockname()[1], flush=True)
while True:
    client, _ = door.accept()
    said = b""
    while part := client.recv(1000):
        said += part
    client.sendall(said.upper())
    client.close()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    yield engine
    engine.stop(engine.known(), force=True)
    for task_id in engine.known():
        wait(engine, task_id)
    engine.close()


@pytest.fixture
def task(engine: LocalEngine) -> str:
    engine.launch(one("t", SLEEP, environment={"COLOUR": "blue"}))
    until(lambda: log(engine, "t") == b"up\n", "the task to run")
    return "t"


def read(channel: TaskChannel, kind: Stream, enough: bytes | None = None) -> bytes:
    """Everything that comes from a channel; up to some bytes when given."""
    found, deadline = b"", time.monotonic() + PATIENCE_S
    while enough is None or enough not in found:
        assert time.monotonic() < deadline, found
        if not select.select([channel.outputs[kind]], [], [], 1)[0]:
            continue
        try:
            part = os.read(channel.outputs[kind], 65536)
        except OSError:  # a terminal whose last process is gone
            break
        if not part:
            break
        found += part
    return found


def outcome(channel: TaskChannel) -> Control:
    until(lambda: channel.outcome() is not None, "the command to end")
    found = channel.outcome()
    assert found is not None
    return found


def run(engine: LocalEngine, script: str, terminal: Size | None = None) -> tuple[bytes, Control]:
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", script), terminal=terminal))
    try:
        return read(channel, Stream.OUTPUT), outcome(channel)
    finally:
        channel.close()


def test_guest_runs_in_the_folder_and_with_the_variables_of_the_task(
    engine: LocalEngine, task: str, tmp_path: Path
) -> None:
    said, end = run(engine, 'pwd; echo "$COLOUR $SKYLOOM_TASK_ID"')
    assert said.decode().split() == [str(tmp_path / "tasks" / "t" / "work"), "blue", "t"]
    assert end == Control(exit_code=0)


def test_guest_is_a_process_of_the_task_and_under_its_limits(engine: LocalEngine) -> None:
    engine.launch(one("t", SLEEP, resources=Resources(memory_bytes=2**27)))
    until(lambda: log(engine, "t") == b"up\n", "the task to run")
    shim = json.loads((engine._tasks / "t" / "shim.json").read_text())  # whose child it has to be
    said, _ = run(engine, "cat /proc/self/cgroup; echo $PPID")
    assert said.decode().split()[-1] == str(shim["pid"])
    if shim["cgroup"]:
        assert Path(shim["cgroup"]).name in said.decode()


def test_guest_that_takes_too_much_memory_ends_the_task(engine: LocalEngine) -> None:
    engine.launch(one("t", SLEEP, resources=Resources(memory_bytes=2**27)))
    until(lambda: log(engine, "t") == b"up\n", "the task to run")
    hog = GuestCommand(argv=(sys.executable, "-c", "import time; x = b'x' * 2**29; time.sleep(1000)"))
    channel = engine.enter("t", hog)
    assert wait(engine, "t").reason is EndReason.OUT_OF_MEMORY
    channel.close()


def test_input_output_and_errors_stay_apart(engine: LocalEngine, task: str) -> None:
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "tr a-z A-Z; echo oops >&2; exit 7")))
    os.write(channel.input, b"hello")
    channel.end_input()
    channel.end_input()
    assert (read(channel, Stream.OUTPUT), read(channel, Stream.ERRORS)) == (b"HELLO", b"oops\n")
    assert outcome(channel) == Control(exit_code=7)
    channel.close()
    channel.close()


def test_signal_that_ends_a_guest_is_told(engine: LocalEngine, task: str) -> None:
    assert run(engine, "kill -9 $$")[1] == Control(signal=9)


def test_terminal_has_a_size_that_can_change(engine: LocalEngine, task: str) -> None:
    program = """
import os
print(os.isatty(0), os.get_terminal_size(), os.environ['TERM'], flush=True)
input()
print(os.get_terminal_size())
"""
    command = GuestCommand(argv=(sys.executable, "-c", program), terminal=Size(rows=30, columns=100))
    channel = engine.enter("t", command)
    first = read(channel, Stream.OUTPUT, b"xterm")
    assert b"True os.terminal_size(columns=100, lines=30) xterm" in first
    channel.resize(Size(rows=50, columns=120))
    os.write(channel.input, b"\n")
    assert b"columns=120, lines=50" in read(channel, Stream.OUTPUT)
    assert outcome(channel).exit_code == 0
    channel.close()
    channel.resize(Size())


def test_interrupt_character_reaches_a_guest_with_a_terminal(engine: LocalEngine, task: str) -> None:
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "echo on; exec sleep 1000"), terminal=Size()))
    read(channel, Stream.OUTPUT, b"on")
    os.write(channel.input, b"\x03")
    assert outcome(channel).signal == 2
    channel.close()


@pytest.mark.parametrize("terminal", [None, Size()])
def test_guest_ends_with_all_it_started_when_its_channel_is_closed(
    engine: LocalEngine, task: str, terminal: Size | None
) -> None:
    command = GuestCommand(argv=("sh", "-c", "trap '' HUP; sleep 1000 & echo $$ $!; wait"), terminal=terminal)
    channel = engine.enter("t", command)
    pids = [int(word) for word in read(channel, Stream.OUTPUT, b"\n").split()]
    channel.close()
    until(lambda: all(is_gone(pid) for pid in pids), "the guest to end")
    assert engine.observe(["t"])["t"].phase is TaskPhase.RUNNING


def test_guest_ends_with_its_task(engine: LocalEngine, task: str) -> None:
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "trap '' TERM; echo $$; sleep 1000")))
    pid = int(read(channel, Stream.OUTPUT, b"\n"))
    engine.stop(["t"], force=True)
    assert wait(engine, "t").reason is EndReason.STOPPED
    assert is_gone(pid)
    assert outcome(channel).signal == 9
    channel.close()


def test_guest_does_not_keep_a_task_that_is_done(engine: LocalEngine) -> None:
    engine.launch(one("t", sh("read line < /dev/null; until test -e done; do sleep 0.02; done")))
    wait(engine, "t", TaskPhase.RUNNING)
    channel = engine.enter("t", GuestCommand(argv=("sh", "-c", "touch done; exec sleep 1000")))
    seen = wait(engine, "t")
    assert (seen.reason, seen.exit_code) == (EndReason.COMPLETED, 0)
    channel.close()


@pytest.mark.parametrize("task_id", ["nobody", "over"])
def test_task_that_does_not_run_has_no_inside(engine: LocalEngine, task_id: str) -> None:
    engine.launch(one("over", sh("true")))
    wait(engine, "over")
    with pytest.raises(TaskNotThere):
        engine.enter(task_id, GuestCommand(argv=("true",)))
    with pytest.raises(TaskNotThere):
        engine.connect(task_id, 80)


def test_missing_program_is_told_by_name(engine: LocalEngine, task: str) -> None:
    with pytest.raises(InvalidInput, match="no-such-program"):
        engine.enter("t", GuestCommand(argv=("no-such-program",)))
    with pytest.raises(InvalidInput, match="too long"):
        engine.enter("t", GuestCommand(argv=("echo", "x" * 1_000_000)))
    assert run(engine, "echo still here")[0] == b"still here\n"


def test_number_of_guests_is_bounded_and_many_may_come_and_go(engine: LocalEngine, task: str) -> None:
    for _ in range(70):
        assert run(engine, "exit 3")[1].exit_code == 3
    assert list((engine._tasks / "t" / "guests").iterdir()) == []


def test_supervisor_that_looks_before_we_listen_does_not_lose_us(
    engine: LocalEngine, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = socket.socket.listen

    def after_a_look(door: socket.socket, backlog: int) -> None:
        time.sleep(1.2)  # it looks about once a second, and whenever a child of its ends
        listen(door, backlog)

    monkeypatch.setattr(socket.socket, "listen", after_a_look)
    assert run(engine, "exit 3")[1].exit_code == 3


def test_warm_task_takes_guests_too(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=True)
    try:
        assert engine.wait_until_warm(60)
        (tmp_path / "main.py").write_text("import time; print('up', flush=True); time.sleep(1000)")
        from skyloom.ports.engine import PythonFile

        files = {"main.py": str(tmp_path / "main.py")}
        engine.launch(one("t", PythonFile(path="main.py"), files=files))
        until(lambda: log(engine, "t") == b"up\n", "the task to run")
        assert run(engine, "echo in; exit 5") == (b"in\n", Control(exit_code=5))
    finally:
        engine.stop(["t"], force=True)
        wait(engine, "t")
        engine.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_port_of_the_task_answers_through_a_channel(engine: LocalEngine, host: str) -> None:
    engine.launch(one("t", Command(argv=(sys.executable, "-c", SERVER, host))))
    until(lambda: log(engine, "t").endswith(b"\n"), "the server to listen")
    channel = engine.connect("t", int(log(engine, "t")))
    os.write(channel.input, b"hello")
    channel.end_input()
    assert read(channel, Stream.OUTPUT) == b"HELLO"
    assert channel.outcome() is None
    channel.close()


def test_port_of_somebody_else_is_not_the_tasks(engine: LocalEngine, task: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours, pytest.raises(TaskNotThere, match="listens on port"):
        engine.connect("t", ours.getsockname()[1])


# The supervisor's side, alone


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where a supervisor finds somebody who asks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guests").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind("guests/x")
        door.listen(1)
        yield door


def test_guest_that_cannot_be_limited_is_not_run(door: socket.socket, tmp_path: Path) -> None:
    children: list[int] = []

    def refuse(pid: int) -> bool:
        children.append(pid)
        return False

    guests = Guests(str(tmp_path), {"environment": dict(os.environ), "cwd": str(tmp_path)}, refuse)
    (descriptor,) = guests.look(is_ending=False)
    visitor, _ = door.accept()
    request = {"argv": ["touch", "ran"], "environment": {}, "terminal": False}
    with visitor, Path(os.devnull).open("r+b") as null:
        socket.send_fds(visitor, [json.dumps(request).encode()], [null.fileno()] * 3)
        guests.serve(descriptor)
        assert "limits cannot be put" in json.loads(visitor.recv(10_000))["error"]
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 125
    assert not (tmp_path / "ran").exists()


def test_supervisor_without_a_free_descriptor_takes_no_guest_and_goes_on(
    door: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    guests = Guests(str(tmp_path), {}, lambda pid: True)
    monkeypatch.setattr(os, "open", none_left)
    assert guests.look(is_ending=False) == []
    monkeypatch.undo()
    assert len(guests.look(is_ending=False)) == 1
