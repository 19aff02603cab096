"""``skyloom notebook`` while it waits: what the job prints is shown, and commands no terminal."""

from typing import Any

import pytest

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import Job, JobSpec, JobState, JobStatus, Reason
from skyloom.sdk import notebook
from skyloom.sdk.jobs import JobFailed
from tests.terminal import Terminal

JOB = Job(id="job_a", project="p", spec=JobSpec(entry=Command(argv=("x",))), submitted_at=1.0, submitted_by="me")
STATUS = JobStatus(job=JOB, state=JobState.FAILED, reason=Reason.LAUNCH_FAILED)


def test_output_and_end_of_a_notebook_that_fails_are_harmless_for_a_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_cloud: object, _job_id: str, tell: Any) -> None:
        tell("building\n\x1b]0;mine\x07")
        error = JobFailed("No such package: \x1b[2J.", next_action="Correct it.")
        error.status = STATUS
        raise error

    monkeypatch.setattr(notebook, "find", lambda *_: STATUS)
    monkeypatch.setattr(notebook, "address", fails)
    said = terminal("notebook")
    assert said.code == 126
    assert "building\n" in said.err and "No such package" in said.err and "next: Correct it." in said.err
    assert "\x1b" not in said.err
