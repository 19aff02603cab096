"""The program of one task of a map, run as its task runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import skyloom
from skyloom.ports.engine import ERROR_FILE, INPUTS_FILE

SOURCE = """
import os, pathlib
def f(x):
    if x == "killed" and not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), 9)
    with open("ran", "a") as file:
        file.write(f"{x} ")
    if x == "bad" and not pathlib.Path("mended").exists():
        raise ValueError("no good")
    return {"set": {1}, "nan": float("nan"), "half": "\\ud800"}.get(x, x)
"""


def run(folder: Path, chunk: list[Any], offset: int = 0) -> tuple[int, list[dict[str, Any]], str]:
    (folder / "f.py").write_text(SOURCE)
    calls = [{"args": [one], "kwargs": {}} for one in chunk]
    (folder / INPUTS_FILE).write_text(json.dumps([[]] * offset + [calls]))
    told = {
        "PYTHONPATH": str(Path(skyloom.__file__).parents[1]),
        "SKYLOOM_JOB_ID": "job_x",
        "SKYLOOM_ARRAY_OFFSET": str(offset),
        "SKYLOOM_SHARED_FOLDER": str(folder),
        "SKYLOOM_TASK_FOLDER": str(folder),
    }
    argv = [sys.executable, "-m", "skyloom.runtime.mapping", "f.py", "f"]
    done = subprocess.run(argv, cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, timeout=60)
    result = folder / "result.json"
    return done.returncode, msgspec.json.decode(result.read_bytes()) if result.exists() else [], done.stderr


def test_chunk_gives_a_value_for_each_input_in_order(tmp_path: Path) -> None:
    code, outcomes, _ = run(tmp_path, [3, "a", None], offset=2)
    assert (code, outcomes) == (0, [{"ok": 3}, {"ok": "a"}, {"ok": None}])


def test_chunk_with_a_failure_does_the_others_and_shows_only_the_users_frames(tmp_path: Path) -> None:
    code, outcomes, printed = run(tmp_path, [1, "bad", "set", 4])
    assert code == 1
    assert (outcomes[0], outcomes[3]) == ({"ok": 1}, {"ok": 4})
    error = outcomes[1]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "no good")
    assert "f.py" in error["traceback"] and "mapping.py" not in error["traceback"]
    assert outcomes[2]["error"]["type"] == "TypeError"  # a set is no JSON
    assert "ValueError: no good" in printed
    assert "2 of 4 inputs failed" in json.loads((tmp_path / ERROR_FILE).read_text())["message"]


def test_chunk_tried_again_repeats_only_what_failed(tmp_path: Path) -> None:
    run(tmp_path, [1, "bad", 2])
    (tmp_path / "mended").touch()
    code, outcomes, _ = run(tmp_path, [1, "bad", 2])
    assert (code, outcomes) == (0, [{"ok": 1}, {"ok": "bad"}, {"ok": 2}])
    assert (tmp_path / "ran").read_text() == "1 bad 2 bad "


@pytest.mark.parametrize("what", ["set", "nan", "half"])
def test_result_that_no_reader_of_json_takes_is_a_failure_of_its_input_only(tmp_path: Path, what: str) -> None:
    code, outcomes, _ = run(tmp_path, [1, what])
    assert (code, outcomes[0]) == (1, {"ok": 1})
    assert outcomes[1]["error"]["type"] in ("TypeError", "ValueError", "UnicodeEncodeError")


def test_chunk_that_is_killed_keeps_what_was_done(tmp_path: Path) -> None:
    assert run(tmp_path, [1, "killed", 2])[0] == -9
    assert run(tmp_path, [1, "killed", 2])[:2] == (0, [{"ok": 1}, {"ok": "killed"}, {"ok": 2}])
    assert (tmp_path / "ran").read_text() == "1 killed 2 "
