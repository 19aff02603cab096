"""Pure decisions of arrays: which indexes get a job now, how ends add up, what the whole is doing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.ports.engine import INPUTS_FILE
from skyloom.ports.store import changed
from skyloom.rooms.arrays.model import (
    Array,
    ArrayEnd,
    ArrayFailure,
    ArrayProgress,
    ArrayStatus,
    ArrayTooHeavy,
    InputsMismatch,
    SubmitArray,
)
from skyloom.rooms.jobs import rules as jobs_rules
from skyloom.rooms.jobs.model import ENDED, Job, JobSpec, JobState, JobStatus, Reason

# So many jobs of one array are queued or run at a time, however large it is: enough to keep a pool busy between two looks.
WINDOW = 256
MAX_FAILURES = 10
_MAX_BYTES = 2**28
_PREFIX = "array_"


def check(ask: SubmitArray) -> None:
    """Refuse an array that cannot be meant, or that is too heavy to be kept. Raises `InputsMismatch`, `ArrayTooHeavy`."""
    needed = -(-ask.size // ask.per_input) if ask.inputs else 0
    if len(ask.inputs) != needed:
        raise InputsMismatch(
            f"An array of {ask.size} with {ask.per_input} to an input needs {needed} inputs, not {len(ask.inputs)}.",
            next_action="Give one input for every per_input indexes.",
        )
    weight = len(msgspec.json.encode(ask.spec)) * ask.size
    if weight > _MAX_BYTES:
        raise ArrayTooHeavy(
            f"The description of each job has {weight // ask.size:,} bytes; {ask.size:,} of them are more than {_MAX_BYTES:,}.",
            next_action="Put its arguments or files into one uploaded file, or submit several arrays.",
        )


def job_id(array_id: str, index: int) -> str:
    """The id of the job of an index: known before it is made, so that it is never made twice."""
    return f"job_{array_id.removeprefix(_PREFIX)}-{index:05}"


def job(array: Array, index: int, now: float) -> Job:
    """The job of an index."""
    told = {
        "SKYLOOM_ARRAY_ID": array.id,
        "SKYLOOM_ARRAY_INDEX": str(index),
        "SKYLOOM_ARRAY_SIZE": str(array.size),
    }
    inputs = {INPUTS_FILE: array.inputs[index // array.per_input]} if array.inputs else {}
    if inputs:
        told["SKYLOOM_ARRAY_OFFSET"] = str(index % array.per_input)
    spec: JobSpec = msgspec.structs.replace(
        array.spec, environment={**array.spec.environment, **told}, files={**array.spec.files, **inputs}, after=()
    )
    return Job(
        id=job_id(array.id, index),
        project=array.project,
        spec=spec,
        submitted_at=now,
        submitted_by=array.submitted_by,
        array=array.id,
    )


def due(array: Array, progress: ArrayProgress) -> range:
    """The indexes whose jobs are to be made now."""
    if progress.stopped:
        return range(0)
    room = max(0, min(array.max_parallel or WINDOW, WINDOW) - len(progress.open))
    return range(progress.next_index, min(array.size, progress.next_index + room))


def made(progress: ArrayProgress, indexes: range) -> ArrayProgress:
    """The progress once jobs were made for some more indexes."""
    return changed(progress, {"next_index": progress.next_index + len(indexes), "open": (*progress.open, *indexes)})


def folded(array: Array, progress: ArrayProgress, ends: Sequence[ArrayEnd], now: float) -> ArrayProgress:
    """The progress once some open indexes ended."""
    counts = Counter(end.state for end in ends)
    over = {end.index for end in ends}
    failed = [
        ArrayFailure(index=end.index, job_id=job_id(array.id, end.index), reason=end.reason, message=end.message)
        for end in ends
        if end.state is JobState.FAILED
    ]
    still = tuple(index for index in progress.open if index not in over)
    active = bool(still) or (not progress.stopped and progress.next_index < array.size)
    return changed(
        progress,
        {
            "open": still,
            "num_succeeded": progress.num_succeeded + counts[JobState.SUCCEEDED],
            "num_failed": progress.num_failed + counts[JobState.FAILED],
            "num_cancelled": progress.num_cancelled + counts[JobState.CANCELLED],
            "failures": (*progress.failures, *failed)[:MAX_FAILURES],
            "active": active,
            "ended_at": None if active else now,
        },
    )


def stopped(array: Array, progress: ArrayProgress, reason: Reason, message: str, now: float) -> ArrayProgress:
    """The progress once no more jobs are to be made: what has none yet counts as cancelled."""
    never = array.size - progress.next_index
    return changed(
        progress,
        {
            "stopped": reason,
            "message": message,
            "next_index": array.size,
            "num_cancelled": progress.num_cancelled + never,
            "active": bool(progress.open),
            "ended_at": None if progress.open else now,
        },
    )


def is_waiting(array: Array, progress: ArrayProgress) -> bool:
    """No job was made yet, because of what the array comes after."""
    return bool(array.spec.after) and progress.next_index == 0


def status(array: Array, progress: ArrayProgress, open_states: Mapping[int, JobState]) -> ArrayStatus:
    """An array and what has become of it.

    Args:
        open_states: of the jobs of ``progress.open``, which may have ended since it was written.
    """
    waits = jobs_rules.waits_for(array.spec.after) if is_waiting(array, progress) else ""
    now_so = Counter(open_states.values())
    counts = {
        "num_succeeded": progress.num_succeeded + now_so[JobState.SUCCEEDED],
        "num_failed": progress.num_failed + now_so[JobState.FAILED],
        "num_cancelled": progress.num_cancelled + now_so[JobState.CANCELLED],
        "num_running": now_so[JobState.STARTING] + now_so[JobState.RUNNING] + now_so[JobState.STOPPING],
        "num_waiting": now_so[JobState.QUEUED] + array.size - progress.next_index,
    }
    state = _state(array, progress, counts)
    reason = progress.stopped or (Reason.WAITING_FOR_DEPENDENCIES if waits else Reason.NONE)
    first = progress.failures[0] if progress.failures else None
    said = [progress.message or waits]
    if first is not None:
        said.insert(0, f"{counts['num_failed']} of {array.size} failed; index {first.index}: {first.message}")
        reason = reason or first.reason
    return ArrayStatus(
        array=array,
        state=state,
        reason=reason,
        message="; ".join(filter(None, said)),
        next_action=f"Read what it printed: skyloom job logs {first.job_id}." if first else "",
        started_at=progress.started_at,
        ended_at=progress.ended_at,
        failures=progress.failures,
        **counts,
    )


def held_up(status: ArrayStatus, open_states: Mapping[int, JobState]) -> int | None:
    """The index whose job says what an array waits for of which nothing runs; none when it has something else to say."""
    if status.num_running or status.message or status.state in ENDED:
        return None
    return min((index for index, state in open_states.items() if state is JobState.QUEUED), default=None)


def told(status: ArrayStatus, first: JobStatus) -> ArrayStatus:
    """An array that waits for what the first of its jobs waits for."""
    return msgspec.structs.replace(status, reason=first.reason, message=first.message, next_action=first.next_action)


def _state(array: Array, progress: ArrayProgress, counts: Mapping[str, int]) -> JobState:
    if progress.active and counts["num_running"] + counts["num_waiting"]:
        if progress.stopped:
            return JobState.STOPPING
        if is_waiting(array, progress):
            return JobState.WAITING
        begun = array.size > counts["num_waiting"]
        return JobState.RUNNING if begun else JobState.QUEUED
    if progress.stopped:
        return JobState.CANCELLED
    return JobState.FAILED if counts["num_failed"] else _cancelled_or_succeeded(counts)


def _cancelled_or_succeeded(counts: Mapping[str, int]) -> JobState:
    """Single jobs may be cancelled by themselves; an array that lost some has not succeeded."""
    return JobState.CANCELLED if counts["num_cancelled"] else JobState.SUCCEEDED


def ends_of(array: Array, statuses: Iterable[tuple[int, JobState, Reason, str]]) -> tuple[ArrayEnd, ...]:
    """The entries of the log for the open jobs that have ended."""
    return tuple(
        ArrayEnd(array_id=array.id, index=index, state=state, reason=reason, message=message)
        for index, state, reason, message in statuses
        if state in ENDED
    )
