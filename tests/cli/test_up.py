"""``skyloom up``, ``down``, ``status`` and ``doctor`` on a machine that is not always kind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyloom.sdk.running import born, running
from tests.forked_command import run_command
from tests.terminal import Said

Skyloom = Callable[..., Said]


@pytest.fixture
def skyloom(tmp_path: Path) -> Iterator[Skyloom]:
    """Runs command lines as processes, in an empty folder; what it leaves up is taken down."""
    home = tmp_path / "home"
    environment = {**os.environ, "SKYLOOM_HOME": str(home), "SKYLOOM_PORT": "0", "SKYLOOM_WARM_POOL": "0"}

    def run(*words: str, **variables: str) -> Said:
        return run_command(words, {**environment, **variables}, tmp_path)

    yield run
    run("down", "--stop-jobs")


def told(said: Said) -> dict[str, object]:
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


def test_up_detached_is_ready_when_it_returns(skyloom: Skyloom, tmp_path: Path) -> None:
    about = told(skyloom("up", "--detach", "--json"))
    home = tmp_path / "home"
    assert about["folder"] == str(home)
    assert Path(str(about["token_file"])).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o077 == 0
    status = told(skyloom("status", "--json"))
    assert status["url"] == about["url"]
    assert os.getsid(int(str(about["pid"]))) == about["pid"], "it lives in a session of its own"


def test_up_when_it_is_up_says_so_and_is_no_error(skyloom: Skyloom) -> None:
    first = told(skyloom("up", "-d", "--json"))
    again = skyloom("up", "-d", "--json")
    assert told(again) == first
    assert "up already" in again.err


def test_up_in_the_foreground_beside_another_is_refused(skyloom: Skyloom) -> None:
    pid = told(skyloom("up", "-d", "--json"))["pid"]
    said = skyloom("up")
    assert said.code == 6
    assert f"process {pid}" in said.err and "SKYLOOM_HOME" in said.err


@pytest.mark.parametrize("detach", [("--detach",), ()])
def test_up_on_a_port_in_use_is_refused(skyloom: Skyloom, detach: tuple[str, ...], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = skyloom("up", *detach, "--port", port)
    assert said.code == 6
    assert f"Port {port} is used" in said.err and "Traceback" not in said.err
    assert running(tmp_path / "home") is None


@pytest.mark.parametrize("detach", [("--detach",), ()])
def test_up_in_a_folder_that_cannot_be_is_refused(skyloom: Skyloom, detach: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = skyloom("up", *detach, "--home", str(tmp_path / "file" / "home"))
    assert said.code == 4
    assert "file/home" in said.err and "Traceback" not in said.err


def test_up_on_a_public_address_is_refused(skyloom: Skyloom) -> None:
    said = skyloom("up", "-d", SKYLOOM_HOST="0.0.0.0")
    assert said.code == 2
    assert "TLS" in said.err


def test_up_on_a_damaged_database_says_so(skyloom: Skyloom, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "skyloom.db").write_bytes(b"this is no database" * 1_000)
    said = skyloom("up", "-d")
    assert said.code == 9
    assert "database" in said.err and "Traceback" not in said.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
@pytest.mark.parametrize("free_kib", [0, 24, 60])
def test_up_on_a_full_disk_says_so(skyloom: Skyloom, tmp_path: Path, free_kib: int) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        (place / "fill").write_bytes(b"x" * (64 - free_kib) * 1024)
        said = skyloom("up", "-d", "--home", str(place / "home"))
        assert said.code == 8
        assert "full" in said.err and "Traceback" not in said.err
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_up_in_the_foreground_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {**os.environ, "SKYLOOM_HOME": str(home), "SKYLOOM_WARM_POOL": "0"}
    plane = subprocess.Popen(
        [sys.executable, "-m", "skyloom.cli", "up", "--port", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert plane.stdout is not None
    printed = ""
    while not printed.rstrip().endswith("}"):
        printed += plane.stdout.readline()
    assert json.loads(printed)["pid"] == plane.pid
    plane.send_signal(signal.SIGINT)
    _, err = plane.communicate(timeout=20)
    assert plane.returncode == 0
    assert "Traceback" not in err
    assert not (home / "server.json").exists()


def test_down_leaves_jobs_running_and_the_next_up_finds_them(skyloom: Skyloom) -> None:
    told(skyloom("up", "-d", "--json"))
    job = told(skyloom("job", "run", "-d", "--json", "--cpus", "0.1", "--", "sleep", "60"))["job"]
    down = told(skyloom("down", "--json"))
    assert (down["was_running"], down["live_jobs"]) == (True, 1)
    assert skyloom("status").code == 9
    told(skyloom("up", "-d", "--json"))
    live = told(skyloom("job", "list", "--live", "--json"))["items"]
    assert [item["job"]["id"] for item in live] == [job["id"]]  # type: ignore[attr-defined, index]
    assert told(skyloom("status", "--json"))["counts"]["jobs"]  # type: ignore[index]
    down = told(skyloom("down", "--stop-jobs", "--json"))
    assert (down["live_jobs"], down["cancelled_jobs"]) == (0, 1)


def test_down_when_nothing_runs_is_no_error(skyloom: Skyloom) -> None:
    assert told(skyloom("down", "--json"))["was_running"] is False


def test_down_leaves_a_stranger_with_the_same_pid_alone(skyloom: Skyloom, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "home").mkdir()
        record = {"url": "http://127.0.0.1:1", "pid": stranger.pid, "started_at": 0, "version": "0", "born": 1}
        (tmp_path / "home" / "server.json").write_text(json.dumps(record))
        assert born(stranger.pid) != 1
        assert told(skyloom("down", "--json"))["was_running"] is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_killed_control_plane_is_noticed_and_started_again(skyloom: Skyloom) -> None:
    pid = int(str(told(skyloom("up", "-d", "--json"))["pid"]))
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    assert skyloom("status").code == 9
    grades = {row["check"]: row["grade"] for row in json.loads(skyloom("doctor", "--json").out)}
    assert grades["control plane"] == "warn"
    assert told(skyloom("up", "-d", "--json"))["pid"] != pid


def test_doctor_finds_nothing_to_mend_in_a_fresh_folder(skyloom: Skyloom) -> None:
    said = skyloom("doctor", "--json")
    assert said.code == 0
    assert {row["grade"] for row in json.loads(said.out)} <= {"ok", "warn"}


def test_doctor_names_what_others_can_read(skyloom: Skyloom, tmp_path: Path) -> None:
    told(skyloom("up", "-d", "--json"))
    (tmp_path / "home" / "token").chmod(0o644)
    (row,) = [row for row in json.loads(skyloom("doctor", "--json").out) if row["check"] == "folder"]
    assert row["grade"] == "warn"
    assert "token" in row["found"] and "chmod" in row["next_action"]
