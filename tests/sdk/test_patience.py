"""How one who follows something waits out an outage of the cloud."""

from typing import Any

import pytest

from skyloom.core.operation import Caller
from skyloom.ports.engine import Command
from skyloom.rooms.data.making import Clean, Deduplicate
from skyloom.rooms.data.model import Draft, DraftState, DraftStatus
from skyloom.rooms.jobs.model import Job, JobSpec, JobState, JobStatus, LogChunk
from skyloom.sdk import notebook
from skyloom.sdk.client import Client
from skyloom.sdk.data import DataCalls
from skyloom.sdk.http import CloudUnreachable, HttpTransport
from skyloom.sdk.jobs import JobFailed
from skyloom.sdk.patience import Patient, patient, patient_with_job
from skyloom.sdk.transport import InProcess
from skyloom.sdk.tunnel import TunnelNotOpened


def outage(had_answered: bool) -> CloudUnreachable:
    error = CloudUnreachable("Nobody answers at http://there (ConnectError).", next_action="Start the cloud.")
    error.had_answered = had_answered
    return error


def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("skyloom.sdk.patience.say", said.append)
    return said


def far(*answers: object) -> InProcess:
    """A cloud that gives these answers, the last of them for ever."""
    left = list(answers)

    def door(*_ask: Any) -> object:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return InProcess(door, Caller(principal="ann", project="p", scope="p", rights=frozenset()), None)  # type: ignore[arg-type]


def test_outage_is_told_once_and_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch)
    transport = patient_with_job(far(outage(True), outage(True), outage(True), "here", outage(True), "again"), "job_a")
    assert transport.send(None) == "here"  # type: ignore[arg-type]
    assert [line for line in said if "Job job_a goes on. Trying again for 60 s" in line] == said[:1]
    assert said[1:] == [" answers again."]
    assert transport.send(None) == "again"  # type: ignore[arg-type]
    assert len(said) == 4


def test_patience_ends_with_how_to_follow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch)
    transport = patient_with_job(far(outage(True)), "job_a", timeout_s=0)
    with pytest.raises(CloudUnreachable, match="Job job_a goes on without it") as caught:
        transport.send(None)  # type: ignore[arg-type]
    assert "skyloom job logs -f job_a" in caught.value.next_action
    assert len(said) == 1


def test_cloud_that_never_answered_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch)
    with pytest.raises(CloudUnreachable, match="ConnectError"):
        patient_with_job(far(outage(False)), "job_a").send(None)  # type: ignore[arg-type]
    assert said == []


def test_who_is_patient_already_does_not_wait_twice() -> None:
    one = patient(HttpTransport("http://127.0.0.1:9", "t", "p"), "Array array_a", "skyloom array wait array_a")
    assert isinstance(one, Patient)
    assert patient_with_job(one, "job_a") is one


def test_draft_is_waited_for_through_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch)
    step = Clean(steps=(Deduplicate(),))
    draft = Draft(
        id="a",
        project="p",
        dataset_id="d",
        parent=1,
        making=step,
        job_id="job_a",
        number=2,
        created_at=1,
        created_by="i",
    )
    done = DraftStatus(draft=draft, state=DraftState.DONE)
    data = DataCalls(far(outage(True), done, outage(True), "version 2"))
    version: object = data.finish(DraftStatus(draft=draft, state=DraftState.WORKING))
    assert version == "version 2"
    assert sum("Job job_a goes on" in line for line in said) == 2


def test_notebook_is_waited_for_through_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch)

    def silent(*_ask: object) -> None:
        raise TunnelNotOpened("The control plane opens no connection.", next_action="Try again.")

    monkeypatch.setattr("skyloom.sdk.notebook.open_tunnel", silent)
    job = Job(id="job_a", project="p", spec=JobSpec(entry=Command(argv=("x",))), submitted_at=1.0, submitted_by="i")
    here, gone = (JobStatus(job=job, state=state) for state in (JobState.RUNNING, JobState.CANCELLED))
    nothing = LogChunk(text="", next_offset=0, ended=False)
    cloud = Client(far(here, "a session", outage(True), nothing, outage(True), gone, nothing))
    with pytest.raises(JobFailed):
        notebook.address(cloud, "job_a", lambda _: None)
    assert sum("Job job_a goes on" in line for line in said) == 2
