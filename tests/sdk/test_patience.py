"""How one who follows something waits out an outage of the cloud."""

from typing import Any

import pytest

from skyloom.core.operation import Caller
from skyloom.sdk.http import CloudUnreachable, HttpTransport
from skyloom.sdk.patience import Patient, patient, patient_with_job
from skyloom.sdk.transport import InProcess


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
