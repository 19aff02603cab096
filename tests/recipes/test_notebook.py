"""The command line of a notebook job: what keeps strangers out and ends it."""

import os
from pathlib import Path

import pytest

from skyloom.recipes import notebook


def test_server_listens_on_loopback_and_ends_when_idle() -> None:
    words = notebook.command(Path("/notes"), 3_600, 4_711)
    for word in (
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=4711",
        "--ServerApp.root_dir=/notes",
        "--ServerApp.shutdown_no_activity_timeout=3600",
        "--MappingKernelManager.cull_idle_timeout=3600",
        "--no-browser",
    ):
        assert word in words


def test_token_is_fresh_and_told_by_the_environment_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[list[str], str]] = []
    told: dict[str, str] = {}
    monkeypatch.setenv("SKYLOOM_TASK_FOLDER", str(tmp_path / "task"))
    monkeypatch.setenv("SKYLOOM_SHARED_FOLDER", str(tmp_path / "shared"))
    (tmp_path / "task").mkdir()
    monkeypatch.setattr(os, "putenv", lambda name, value: told.__setitem__(name, value))
    monkeypatch.setattr(os, "execv", lambda _, argv: seen.append((list(argv), told["JUPYTER_TOKEN"])))
    for _ in range(2):
        notebook.main([])
    (first, token), (_, another) = seen
    assert token != another and len(token) > 30 and all(token not in word for word in first)
    assert told["JUPYTER_RUNTIME_DIR"] == str(tmp_path / "task" / "jupyter")
    assert (tmp_path / "shared").is_dir()


def test_folder_that_cannot_be_made_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKYLOOM_TASK_FOLDER", str(tmp_path))
    (tmp_path / "file").touch()
    assert notebook.main(["--folder", str(tmp_path / "file" / "notes")]) == 2
    assert "notes cannot be made here: Not a directory" in capsys.readouterr().err
