"""Exit codes that are no error's: the end of a job as a number. Errors have theirs in `core.exit_codes`.

``job run`` and ``job logs -f`` answer with the job's own exit code, or 128 and the signal's number; what has neither is in the table.
"""

from skyloom.rooms.arrays.model import ArrayStatus
from skyloom.rooms.jobs.model import JobState, JobStatus, Reason

# The numbers that timeout(1), env(1) and shells use for the same ends.
JOB_CODES: dict[Reason, int] = {
    Reason.BUDGET_EXHAUSTED: 122,  # EDQUOT
    Reason.TIME_LIMIT: 124,
    Reason.SHIM_LOST: 125,
    Reason.NODE_LOST: 125,
    Reason.LAUNCH_FAILED: 126,
    Reason.CANCELLED: 130,
    Reason.DEPENDENCY_FAILED: 130,
    Reason.OUT_OF_MEMORY: 137,
    Reason.STOPPED: 143,
}
_FAILED, _SIGNALLED = 1, 128


def of_job(status: JobStatus) -> int:
    """The exit code that stands for how a job ended."""
    if status.state is JobState.SUCCEEDED:
        return 0
    if status.reason in JOB_CODES:
        return JOB_CODES[status.reason]
    decisive = next((task for task in status.tasks if task.reason is status.reason), None)
    if decisive is None:
        return _FAILED
    return decisive.exit_code or (_SIGNALLED + decisive.signal if decisive.signal else _FAILED)


def of_array(status: ArrayStatus) -> int:
    """The exit code that stands for how an array ended."""
    if status.state is JobState.SUCCEEDED:
        return 0
    return JOB_CODES[Reason.CANCELLED] if status.state is JobState.CANCELLED else _FAILED
