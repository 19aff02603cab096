"""How a job stands to its deadline. Snapshot in, finding out: no clock or store is known here."""

import msgspec

from skyloom.rooms.jobs.model import ENDED, Deadline, DeadlineState, Job, JobState, JobStatus
from skyloom.rooms.jobs.rules import deadline_of, span


def judged(status: JobStatus, now: float) -> JobStatus:
    """A status that also tells how its job stands to its deadline; one without a deadline as it is."""
    at = deadline_of(status.job)
    if at is None:
        return status
    state, message = _ended(status, at) if status.state in ENDED else _open(status, at, now)
    return msgspec.structs.replace(status, deadline=Deadline(at=at, state=state, message=message))


def _ended(status: JobStatus, at: float) -> tuple[DeadlineState, str]:
    ended_at = at if status.ended_at is None else status.ended_at
    if status.state is JobState.SUCCEEDED and ended_at <= at:
        return DeadlineState.MET, f"its deadline was met, {span(at - ended_at)} before it"
    if ended_at > at:
        return DeadlineState.MISSED, f"its deadline was missed by {span(ended_at - at)}"
    how = "failed" if status.state is JobState.FAILED else "was cancelled"
    return DeadlineState.MISSED, f"its deadline was missed: it {how} before that"


def _open(status: JobStatus, at: float, now: float) -> tuple[DeadlineState, str]:
    if now > at:
        return DeadlineState.MISSED, f"its deadline passed {span(now - at)} ago"
    likely_at = _likely_end(status, now)
    if likely_at is not None and likely_at > at:
        late = span(likely_at - at)
        return DeadlineState.AT_RISK, f"its deadline in {span(at - now)} is at risk: likely to end {late} after it"
    return DeadlineState.AHEAD, f"its deadline is in {span(at - now)}"


def _likely_end(status: JobStatus, now: float) -> float | None:
    """When it will probably end: by its forecast, else by what its owner expects and if it starts at once."""
    if status.forecast is not None and status.forecast.ends.likely_at is not None:
        return status.forecast.ends.likely_at
    return _expected_end(status.job, status.started_at, now)


def _expected_end(job: Job, started_at: float | None, now: float) -> float | None:
    expected_s = job.spec.expected_duration_s
    return None if expected_s is None else max(now, (now if started_at is None else started_at) + expected_s)
