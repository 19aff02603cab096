"""``skyloom job exec`` and ``port-forward`` as processes of their own: pipes, a terminal, codes."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.control_plane import ControlPlane
from tests.terminal import Terminal

SMALL = ("--cpus", "0.1", "--memory", "128MiB")
SERVER = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"  # noqa: E501


def start(terminal: Terminal, *command: str) -> str:
    job = str(json.loads(terminal("job", "run", *SMALL, "-d", "--json", "--", *command).out)["job"]["id"])
    deadline = time.monotonic() + 30
    while json.loads(terminal("job", "show", job, "--json").out)["state"] != "running":
        assert time.monotonic() < deadline
    return job


@pytest.fixture
def job(terminal: Terminal) -> Iterator[str]:
    job = start(terminal, "sleep", "1000")
    yield job
    terminal("job", "cancel", job)


def command(plane: ControlPlane, *words: str) -> tuple[list[str], dict[str, str]]:
    argv = [sys.executable, "-m", "skyloom.cli", *words]
    return argv, {**os.environ, "SKYLOOM_HOME": str(plane.home)}


def test_exec_carries_pipes_and_the_exit_code(cloud_process: ControlPlane, job: str) -> None:
    argv, environment = command(cloud_process, "job", "exec", job, "--", "sh", "-c", "tr a-z A-Z; echo no >&2; exit 6")
    done = subprocess.run(argv, env=environment, input=b"hello", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (6, b"HELLO", b"no\n")


def test_exec_of_what_is_not_there_is_said_in_two_lines(terminal: Terminal, job: str) -> None:
    foreign, absent = (("job_nothing", "--", "ls"), 5), ((job, "--", "no-such-program"), 2)
    for words, code in (foreign, absent, ((job, "--rank", "5", "--", "ls"), 5)):
        said = terminal("job", "exec", *words)
        assert said.code == code and said.err.startswith("error ") and "\nnext: " in said.err
    said = terminal("job", "exec", job, "--")
    assert said.code == 2 and "no command to run" in said.err


@pytest.mark.parametrize("before", [True, False])
def test_exec_takes_its_options_on_either_side_of_the_job_and_leaves_those_of_the_command(
    cloud_process: ControlPlane, job: str, before: bool
) -> None:
    ours = ("--rank", "0", "--no-tty")
    words = (*ours, job) if before else (job, *ours)
    argv, environment = command(cloud_process, "job", "exec", *words, "--", "echo", "--rank", "7", "--", "-x")
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "--rank 7 -- -x\n", "")


def test_ports_are_the_one_here_and_the_one_in_the_job(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal, job: str
) -> None:
    asked = []

    class Nowhere:
        local_port = 1

        def __init__(self, _client: object, _job: str, port: int, *, local_port: int, rank: int) -> None:
            asked.append((local_port, port, rank))

        def serve(self, _told: object) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr("skyloom.sdk.tunnel.Forward", Nowhere)
    assert terminal("job", "port-forward", job, "9000:8888", "--rank", "1").code == 0
    assert terminal("job", "port-forward", job, "6006").code == 0
    assert asked == [(9000, 8888, 1), (6006, 6006, 0)]


def test_exec_in_a_terminal_is_a_terminal(cloud_process: ControlPlane, job: str) -> None:
    argv, environment = command(
        cloud_process, "job", "exec", job, "--", "sh", "-c", "stty size; read x; echo got $x; exit 4"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, environment)
    seen = until(terminal, b"24 80")
    os.write(terminal, b"ok\r")
    seen += until(terminal, b"got ok")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)


def until(terminal: int, wanted: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + 60
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)
    return seen


def test_port_forward_listens_here_until_it_is_interrupted(cloud_process: ControlPlane, terminal: Terminal) -> None:
    job = start(terminal, "python", "-c", SERVER)
    deadline = time.monotonic() + 30
    while not (port := terminal("job", "logs", job).out.strip()):
        assert time.monotonic() < deadline
    argv, environment = command(cloud_process, "job", "port-forward", job, f"0:{port}")
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split()[0]
        assert httpx.get(address, trust_env=False, verify=False, timeout=20).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    terminal("job", "cancel", job)


@pytest.mark.parametrize("port", ["0", "70000", "http", "80:90:100", "-1", "8888:0"])
def test_port_that_is_none_is_refused(terminal: Terminal, port: str) -> None:
    assert terminal("job", "port-forward", "job_1", "--", port).code == 2
