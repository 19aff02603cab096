"""What made a caller act: the call of a function that he says he acts for, or what his job came of."""

from skyloom.core.events import Origin
from skyloom.core.operation import Caller
from skyloom.ports.store import Snapshot
from skyloom.rooms.functions.ports import INVOCATIONS
from skyloom.rooms.jobs.ports import JOBS


def cause_of(view: Snapshot, by: Caller) -> Origin | None:
    """The delivery that a caller's doing comes of. Somebody who names another's is as if he named none."""
    if by.because:
        found = view.get(INVOCATIONS, by.because)
        if found is not None and found.project == by.project:
            return found.cause
    job = view.get(JOBS, by.job_id) if by.task_id else None
    return job.cause if job else None
