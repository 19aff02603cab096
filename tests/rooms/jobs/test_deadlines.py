"""How a job stands to its deadline, in words."""

import msgspec
import pytest

from skyloom.rooms.jobs.deadlines import judged
from skyloom.rooms.jobs.model import DeadlineState, JobState, JobStatus
from skyloom.rooms.scheduling.forecast import GangForecast, LikelyTime
from tests.rooms.jobs.test_rules import a_job

LATE = GangForecast(
    gang="job_a", starts=LikelyTime(), ends=LikelyTime(likely_at=1_300.0), basis="from one", num_rollouts=1
)
AT_1000 = {"deadline_s": 999.0}  # it was submitted at 1


def standing(state: JobState, now: float, spec: dict[str, float] = AT_1000, **more: object) -> tuple[str, str]:
    status = JobStatus(job=a_job(**spec), state=state)
    due = judged(msgspec.structs.replace(status, **more), now).deadline
    assert due is not None and due.at == 1_000.0
    return due.state.value, due.message


def test_job_without_a_deadline_has_none() -> None:
    status = JobStatus(job=a_job(), state=JobState.RUNNING)
    assert judged(status, 5.0) is status


def test_job_that_succeeded_has_met_or_missed_it() -> None:
    assert standing(JobState.SUCCEEDED, 5_000.0, ended_at=940.0) == ("met", "its deadline was met, 60 s before it")
    assert standing(JobState.SUCCEEDED, 5_000.0, ended_at=1_002.0) == ("missed", "its deadline was missed by 2 s")
    assert standing(JobState.SUCCEEDED, 5_000.0, {"deadline_at": 1_000.0}, ended_at=1_000.0)[0] == DeadlineState.MET


@pytest.mark.parametrize(("state", "how"), [(JobState.FAILED, "failed"), (JobState.CANCELLED, "was cancelled")])
def test_job_that_did_not_succeed_has_missed_it(state: JobState, how: str) -> None:
    assert standing(state, 5_000.0, ended_at=500.0) == ("missed", f"its deadline was missed: it {how} before that")
    assert standing(state, 5_000.0, ended_at=1_060.0) == ("missed", "its deadline was missed by 60 s")


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.QUEUED, JobState.RUNNING])
def test_open_job_past_it_has_missed_it(state: JobState) -> None:
    assert standing(state, 1_090.0, forecast=LATE) == ("missed", "its deadline passed 90 s ago")


def test_open_job_that_will_likely_end_late_is_at_risk() -> None:
    words = "its deadline in 10 min is at risk: likely to end 5 min after it"
    assert standing(JobState.QUEUED, 400.0, forecast=LATE) == ("at_risk", words)
    expected = {**AT_1000, "expected_duration_s": 700.0}
    assert standing(JobState.QUEUED, 400.0, expected)[0] == "at_risk"
    assert standing(JobState.RUNNING, 400.0, expected, started_at=200.0) == ("ahead", "its deadline is in 10 min")
    assert standing(JobState.RUNNING, 400.0) == ("ahead", "its deadline is in 10 min")
