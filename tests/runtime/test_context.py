from pathlib import Path

import pytest

from skyloom.runtime import context


def test_context_outside_of_a_job_is_one_local_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here = context()
    assert (here.rank, here.world_size, here.attempt) == (0, 1, 1)
    assert here.is_first
    assert not here.is_in_job
    assert here.shared_folder == tmp_path / "skyloom-out"
    assert not here.shared_folder.exists()


def test_context_inside_of_a_job_is_what_the_engine_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    told = {
        "SKYLOOM_TASK_ID": "task_1",
        "SKYLOOM_JOB_ID": "job_1",
        "SKYLOOM_PROJECT": "vision",
        "SKYLOOM_RUN": "run_1",
        "SKYLOOM_ATTEMPT": "2",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "SKYLOOM_SHARED_FOLDER": str(tmp_path),
        "SKYLOOM_TASK_FOLDER": str(tmp_path / "task"),
        "SKYLOOM_URL": "http://127.0.0.1:1",
        "SKYLOOM_TOKEN_FILE": str(tmp_path / "token"),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    here = context()
    assert (here.job_id, here.run, here.project, here.attempt) == ("job_1", "run_1", "vision", 2)
    assert (here.rank, here.world_size, here.is_first) == (1, 4, False)
    assert here.shared_folder == tmp_path
    assert here.token == "secret"
    assert "secret" not in repr(here)
