"""``skyloom job`` against a real control plane."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.control_plane import ControlPlane
from tests.engines.packages import offline, wheel
from tests.terminal import Terminal

SMALL = ("--cpus", "0.2", "--memory", "128MiB")


def test_run_prints_the_output_and_succeeds(terminal: Terminal) -> None:
    said = terminal("job", "run", *SMALL, "--", "echo", "héllo", "--flag")
    assert (said.code, said.out, said.err) == (0, "héllo --flag\n", "")


def test_run_exits_with_the_code_of_the_job(terminal: Terminal) -> None:
    said = terminal("job", "run", *SMALL, "--", "sh", "-c", "echo bye; exit 3")
    assert (said.code, said.out) == (3, "bye\n")
    assert "exit code 3" in said.err
    assert "skyloom job logs job_" in said.err


@pytest.mark.parametrize(
    ("options", "command", "code"),
    [
        (("--max-duration", "0.5s"), ("sleep", "60"), 124),
        ((), ("/no/such/program",), 126),
        ((), ("sh", "-c", "kill -9 $$"), 137),
    ],
)
def test_run_maps_an_end_without_a_code(
    terminal: Terminal, options: tuple[str, ...], command: tuple[str, ...], code: int
) -> None:
    assert terminal("job", "run", *SMALL, *options, "--", *command).code == code


def test_run_takes_a_script_its_arguments_files_and_variables(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "words.py").write_text("WORD = 'from the library'\n")
    script = tmp_path / "job.py"
    script.write_text("import os, sys\nfrom lib.words import WORD\nprint(WORD, sys.argv[1:], os.environ['COLOUR'])\n")
    options = ("--include", str(tmp_path / "lib"), "--env", "COLOUR=blue=green")
    said = terminal("job", "run", *SMALL, *options, str(script), "--lr", "0.1")
    assert (said.code, said.out) == (0, "from the library ['--lr', '0.1'] blue=green\n")


def test_run_follows_every_attempt(terminal: Terminal) -> None:
    shell = 'echo "this is $SKYLOOM_ATTEMPT"; test "$SKYLOOM_ATTEMPT" = 2'
    said = terminal("job", "run", *SMALL, "--retries", "2", "--", "sh", "-c", shell)
    assert (said.code, said.out) == (0, "this is 1\nthis is 2\n")
    assert "attempt 2 of 3" in said.err


def test_run_says_what_a_job_that_does_not_start_waits_for(terminal: Terminal) -> None:
    cpus = str(json.loads(terminal("status", "--json").out)["capacity"]["cpus"])
    first = json.loads(terminal("job", "run", "--cpus", cpus, "-d", "--json", "--", "sleep", "3").out)["job"]["id"]
    said = terminal("job", "run", "--cpus", cpus, "--", "echo", "mine")
    terminal("job", "cancel", first)
    assert (said.code, said.out) == (0, "mine\n")
    assert re.match(r"queued: needs .* free.*; next in the queue[;.] ", said.err)
    assert "skyloom why job_" in said.err


def test_run_json_waits_and_answers_with_the_job(terminal: Terminal) -> None:
    said = terminal("job", "run", *SMALL, "--json", "--name", "one", "--", "sh", "-c", "echo noise; exit 4")
    told = json.loads(said.out)
    assert (said.code, told["state"], told["job"]["spec"]["name"]) == (4, "failed", "one")


def test_detached_job_is_listed_shown_explained_and_cancelled(terminal: Terminal) -> None:
    job_id = json.loads(terminal("job", "run", *SMALL, "-d", "--json", "--", "sleep", "60").out)["job"]["id"]
    listed = json.loads(terminal("job", "list", "--live", "--json").out)["items"]
    assert job_id in [item["job"]["id"] for item in listed]
    assert job_id in terminal("job", "show", job_id).out
    assert "queued" in terminal("why", job_id).out
    assert terminal("job", "cancel", job_id).code == 0
    assert terminal("job", "logs", "-f", job_id).code == 130
    assert "cancelled by owner" in terminal("why", job_id).out


def test_deadline_is_told_whether_it_is_met_or_missed(terminal: Terminal) -> None:
    def run(deadline: str, *words: str) -> str:
        said = terminal("job", "run", *SMALL, "--deadline", deadline, "--json", *words)
        return str(json.loads(said.out)["job"]["id"])

    met, missed = run("2999-01-01T00:00+00:00", "--", "true"), run("0.1s", "--", "sleep", "0.3")
    ahead = run("2h", "-d", "--", "sleep", "60")
    for job_id, state, words in (
        (met, "met", "its deadline was met"),
        (missed, "missed", "its deadline was missed by"),
        (ahead, "ahead", "its deadline is in "),
    ):
        assert words in terminal("job", "show", job_id).out
        assert words in terminal("why", job_id).out
        assert json.loads(terminal("job", "show", job_id, "--json").out)["deadline"]["state"] == state
    assert "DEADLINE" in terminal("job", "list").out
    terminal("job", "cancel", ahead)


def test_logs_of_one_rank_and_of_an_earlier_attempt(terminal: Terminal) -> None:
    shell = 'echo "$SKYLOOM_ATTEMPT/$RANK"; test "$SKYLOOM_ATTEMPT" = 2'
    done = terminal("job", "run", *SMALL, "--json", "-w", "2", "--retries", "1", "--", "sh", "-c", shell)
    job_id = json.loads(done.out)["job"]["id"]
    assert terminal("job", "logs", job_id).out == "2/0\n"
    assert terminal("job", "logs", job_id, "--rank", "1", "--attempt", "1").out in ("1/1\n", "")
    assert terminal("job", "logs", job_id, "--attempt", "1").out in ("1/0\n", "")


def test_output_without_a_terminal_comes_through_byte_for_byte(terminal: Terminal) -> None:
    said = terminal("job", "run", *SMALL, "--", "printf", r"a\033[31mb\r\nc")
    assert said.out == "a\x1b[31mb\r\nc"


def test_ctrl_c_while_following_lets_the_job_go_on(cloud_process: ControlPlane, terminal: Terminal) -> None:
    shell = "echo started; sleep 60"
    following = subprocess.Popen(
        [sys.executable, "-m", "skyloom.cli", "job", "run", *SMALL, "--name", "goes-on", "--", "sh", "-c", shell],
        env={**os.environ, "SKYLOOM_HOME": str(cloud_process.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    assert following.stdout.readline() == "started\n"
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=20)
    assert following.returncode == 130
    assert "The job goes on" in err and "Traceback" not in err
    items = json.loads(terminal("job", "list", "--live", "--json").out)["items"]
    (job_id,) = [item["job"]["id"] for item in items if item["job"]["spec"]["name"] == "goes-on"]
    assert json.loads(terminal("job", "show", job_id, "--json").out)["state"] == "running"
    terminal("job", "cancel", job_id)


def test_following_sees_output_as_it_comes(cloud_process: ControlPlane) -> None:
    shell = "for i in 1 2 3; do echo line $i; sleep 0.2; done"
    began = time.monotonic()
    following = subprocess.Popen(
        [sys.executable, "-m", "skyloom.cli", "job", "run", *SMALL, "--", "sh", "-c", shell],
        env={**os.environ, "SKYLOOM_HOME": str(cloud_process.home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    seen = [(line, time.monotonic() - began) for line in following.stdout]
    assert following.wait(60) == 0
    assert [line for line, _ in seen] == ["line 1\n", "line 2\n", "line 3\n"]
    assert seen[0][1] < seen[2][1]


@pytest.mark.slow
def test_run_with_requirements_installs_them_first_and_says_so(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "links", "alpha")
    (tmp_path / "requirements.txt").write_text("alpha\n")
    (tmp_path / "bad.txt").write_text("alpha==9\n")
    plane = ControlPlane(tmp_path / "home", forked=True, **offline(tmp_path / "links", tmp_path / "uv")).start().ready()
    monkeypatch.setenv("SKYLOOM_HOME", str(plane.home))
    try:
        options = (*SMALL, "--requirements", str(tmp_path / "requirements.txt"))
        said = terminal("job", "run", *options, "--", "alpha")
        assert said.code == 0 and said.out.endswith("alpha speaks\n") and "(1 requirement)" in said.out
        again = terminal("job", "run", *options, "--", "alpha")
        assert (again.code, again.out) == (0, "alpha speaks\n")
        failed = terminal("job", "run", *SMALL, "-r", str(tmp_path / "bad.txt"), "--", "alpha")
        assert failed.code == 126 and "alpha==9" in failed.err
    finally:
        plane.end_everything()


def test_detached_job_is_told_in_three_lines_and_found_by_the_beginning_of_its_id(terminal: Terminal) -> None:
    said = terminal("job", "run", *SMALL, "--detach", "--", "echo", "hi")
    told = dict(line.split(None, 1) for line in said.out.splitlines())
    assert list(told) == ["job", "state", "follow"]
    assert told["follow"] == f"skyloom job logs -f {told['job']}"
    assert terminal("job", "logs", "-f", told["job"][:-2]).out == "hi\n"
