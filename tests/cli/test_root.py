"""The root: help, mistakes, errors as two lines, exit codes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf.runtime_version import VersionError

from skyloom import __version__
from skyloom.cli import main, root
from skyloom.cli.commands import TABLE, Row
from skyloom.core.errors import Category
from skyloom.core.exit_codes import EXIT_CODES
from skyloom.rooms.overview.model import Explanation, SubjectMissing, Why
from skyloom.rooms.serving.model import EndpointMissing, GetEndpoint
from skyloom.sdk.http import HttpTransport
from tests.terminal import Terminal


def test_help_lists_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = set(re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE))
    assert (
        {"up", "down", "status", "doctor", "why", "job", "project", "token", "audit"}
        <= listed
        <= {row.name for row in TABLE}
    )


@pytest.mark.parametrize("words", [[], ["job"], ["project"]])
def test_no_words_show_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_word_has_help(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([row.name, "--help"]) == 0
    assert f"Usage: skyloom {row.name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skyloom {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["statsu"], "Did you mean 'status'"),
        (["status", "--nonsense"], "--nonsense"),
        (["job", "show"], "JOB"),
        (["job", "list", "--limit", "0"], "--limit"),
        (["job", "list", "--limit", "many"], "--limit"),
        (["token", "create", "x", "--role", "king"], "--role"),
        (["up", "--port", "70000"], "--port"),
        (["export", "iris"], "Choose from: docker, compose, "),
    ],
)
def test_mistake_on_the_command_line_is_two_lines_and_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error ") and says in lines[0]
    assert lines[1].startswith("next") and "--help" in lines[1]


def test_exit_codes_differ_by_category_and_leave_room_for_others() -> None:
    assert set(EXIT_CODES) == set(Category)
    assert len(set(EXIT_CODES.values())) == len(Category)
    assert not {0, 1, 130} & set(EXIT_CODES.values())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["job", "show", "job_nothing"], 5),
        (["why", "nothing_1"], 5),
        (["token", "revoke", "token_x"], 5),
        (["project", "create", "Not A Name"], 2),
        (["job", "list", "--project", "nowhere"], 5),
        (["job", "run", "--memory", "lots", "--", "true"], 2),
        (["job", "run", "--max-duration", "soon", "--", "true"], 2),
        (["job", "run", "--env", "=x", "--", "true"], 2),
        (["job", "run", "nowhere.py"], 5),
        (["job", "run", "--include", "nowhere", "--", "true"], 5),
        (["job", "run", "--gpus", "500", "--", "true"], 2),
    ],
)
def test_error_is_two_lines_and_its_category_is_the_code(words: list[str], code: int, terminal: Terminal) -> None:
    said = terminal(*words)
    assert said.code == code
    assert said.out == ""
    assert [line.split()[0] for line in said.err.strip().splitlines()] == ["error", "next:"]


def test_no_cloud_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKYLOOM_HOME", str(tmp_path))
    assert main(["status"]) == EXIT_CODES[Category.UNAVAILABLE]
    assert "skyloom up" in capsys.readouterr().err


def test_wrong_token_is_said(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLOOM_TOKEN", "sky_wrong")
    said = terminal("status")
    assert said.code == EXIT_CODES[Category.UNAUTHENTICATED]
    assert "SKYLOOM_TOKEN" in said.err


def test_unreadable_setting_names_the_variable(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYLOOM_PORT", "eighty")
    said = terminal("status")
    assert said.code == 2
    assert "SKYLOOM_PORT" in said.err


def test_defect_is_two_lines_without_a_traceback(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(HttpTransport, "send", broken)
    said = terminal("status")
    assert said.code == EXIT_CODES[Category.INTERNAL]
    assert "ZeroDivisionError: oh no (test_root.py:" in said.err
    assert "Traceback" not in said.err


def test_ctrl_c_ends_with_130(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HttpTransport, "send", interrupted)
    assert terminal("status").code == 130


def test_reader_that_goes_away_is_no_error(cloud_process: object) -> None:
    home = cloud_process.home  # type: ignore[attr-defined]
    command = [sys.executable, "-m", "skyloom.cli", "job", "list", "--json"]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        command, env={**os.environ, "SKYLOOM_HOME": str(home)}, stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    assert done.stderr == b""
    assert done.returncode in (0, -signal.SIGPIPE)


def test_main_never_calls_a_module_that_was_not_asked_for() -> None:
    assert root.app.registered_commands == []


def test_wait_that_was_too_long_is_no_defect(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise TimeoutError("endpoint toy is still starting: 0 of 1 replicas answer.")

    monkeypatch.setattr(HttpTransport, "send", slow)
    said = terminal("status")
    assert said.code == EXIT_CODES[Category.UNAVAILABLE]
    assert "still_waiting: endpoint toy is still starting: 0 of 1 replicas answer.\n" in said.err


def test_protobuf_that_another_package_brought_is_said(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def clashes(*_: object) -> None:
        raise VersionError("gencode 7.35.1 runtime 6.33.6. Runtime version cannot be older. See elsewhere.")

    monkeypatch.setattr(HttpTransport, "send", clashes)
    said = terminal("status")
    assert said.code == EXIT_CODES[Category.UNAVAILABLE]
    assert "packages_clash" in said.err and "pip install 'protobuf" in said.err


def test_why_takes_the_name_of_an_endpoint(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_transport: HttpTransport, ask: object, *_: object) -> object:
        if isinstance(ask, GetEndpoint):
            if ask.name == "toy":
                return SimpleNamespace(endpoint=SimpleNamespace(id="ep_1"))
            raise EndpointMissing("There is none.", next_action="Make it.")
        if ask == Why(subject="ep_1"):
            return Explanation(subject="ep_1", noun="endpoint", state="ready", reason="", message="", evidence=())
        raise SubjectMissing("Nothing here has this id.", next_action="Give another.")

    monkeypatch.setattr(HttpTransport, "send", answer)
    assert "ep_1" in terminal("why", "toy").out
    said = terminal("why", "other")
    assert said.code == EXIT_CODES[Category.NOT_FOUND]
    assert "Nothing here has this id." in said.err
