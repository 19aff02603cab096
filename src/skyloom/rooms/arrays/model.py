"""Nouns of arrays. An array is one description and a size; each index becomes a job of its own when its turn comes.

The description never changes. What became of it is one small record beside it (`ArrayProgress`) and one entry of a log for each index
that has ended, so an array of 10,000 costs its owner one row in his lists and the store no more rows than have run.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Digest, Id, Limit
from skyloom.core.errors import InvalidInput, LimitExceeded, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.jobs.model import JobSpec, JobState, Reason

MAX_SIZE = 10_000

Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
Digests = Annotated[tuple[Digest, ...], Meta(max_length=1_000)]


class ArrayMissing(NotFound):
    """No such array in this project."""


class ArrayTooHeavy(LimitExceeded):
    """Its description, once for every index, is more than the database should hold."""


class InputsMismatch(InvalidInput):
    """There are not as many inputs as the array's size asks for."""


class Array(Record, frozen=True, kw_only=True):
    """Many jobs from one description.

    Attributes:
        spec: of every job; the environment of each also tells ``SKYLOOM_ARRAY_ID``, ``SKYLOOM_ARRAY_INDEX`` (from 0) and
            ``SKYLOOM_ARRAY_SIZE``.
        max_parallel: so many may be queued or run at a time; 0 leaves it to the scheduler.
        inputs: digests of uploaded files; index i finds ``inputs[i // per_input]`` as ``.skyloom-inputs.json`` in its working folder.
    """

    spec: JobSpec
    size: int
    max_parallel: int = 0
    inputs: tuple[str, ...] = ()
    per_input: int = 1
    submitted_at: float
    submitted_by: str


class ArrayFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An index that failed, and the job that tells more."""

    index: int
    job_id: str
    reason: Reason
    message: str


class ArrayProgress(Record, frozen=True, kw_only=True):
    """How far an array is. Its id is the array's.

    Attributes:
        next_index: jobs were made for all below it.
        open: indexes whose job was made and had not ended when this was written.
        num_succeeded, num_failed, num_cancelled: of all others below ``next_index``; an end is final, so they only grow.
        failures: the first few.
        active: something is left to do.
        stopped: why no more jobs are made: `Reason.CANCELLED`, that what it came after failed, or `Reason.LAUNCH_FAILED`: it names
            what is no longer there.
    """

    next_index: int = 0
    open: tuple[int, ...] = ()
    num_succeeded: int = 0
    num_failed: int = 0
    num_cancelled: int = 0
    failures: tuple[ArrayFailure, ...] = ()
    active: bool = True
    stopped: Reason = Reason.NONE
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class ArrayEnd(msgspec.Struct, frozen=True, kw_only=True):
    """One index has ended: an entry of the log that results are read by."""

    array_id: str
    index: int
    state: JobState
    reason: Reason
    message: str


class ArrayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An array and what has become of it.

    Attributes:
        num_waiting: not started, whether or not their job was made.
        failures: the first few indexes that failed.
    """

    array: Array
    state: JobState
    reason: Reason = Reason.NONE
    message: str = ""
    next_action: str = ""
    num_waiting: int = 0
    num_running: int = 0
    num_succeeded: int = 0
    num_failed: int = 0
    num_cancelled: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    failures: tuple[ArrayFailure, ...] = ()


class ArrayResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one index ended and what it left.

    Attributes:
        result_json: its ``result.json``; None when it left none.
    """

    index: int
    job_id: str
    state: JobState
    reason: Reason = Reason.NONE
    message: str = ""
    result_json: str | None = None


class ArrayResults(msgspec.Struct, frozen=True, kw_only=True):
    """Some results, in the order in which they came.

    Attributes:
        next: ask with this as ``after`` for what follows.
        ended: nothing more will come. What is missing then was cancelled before its job was made.
    """

    items: tuple[ArrayResult, ...]
    next: int
    ended: bool


@operation("arrays.submit", Right.RUN, "POST /arrays")
class SubmitArray(Operation[ArrayStatus], frozen=True, kw_only=True):
    """Queue one job for each index below ``size``, in one request."""

    spec: JobSpec
    size: Size
    max_parallel: Annotated[int, Meta(ge=0, le=MAX_SIZE)] = 0
    inputs: Digests = ()
    per_input: Size = 1


@operation("arrays.get", Right.READ, "GET /arrays/{array_id}")
class GetArray(Operation[ArrayStatus], frozen=True, kw_only=True):
    """Show one array: counts, and the first failures."""

    array_id: Id


@operation("arrays.list", Right.READ, "GET /arrays")
class ListArrays(Operation[Page[ArrayStatus]], frozen=True, kw_only=True):
    """List arrays, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("arrays.cancel", Right.RUN, "POST /arrays/{array_id}/cancel")
class CancelArray(Operation[ArrayStatus], frozen=True, kw_only=True):
    """Stop every job of an array, and make no more. Safe to repeat."""

    array_id: Id


@operation("arrays.results", Right.READ, "GET /arrays/{array_id}/results")
class ReadArrayResults(Operation[ArrayResults], frozen=True, kw_only=True):
    """Read what the indexes left, in the order in which they ended. Repeat to follow it."""

    array_id: Id
    after: Count = 0
    limit: Limit = 1_000


OPERATIONS = (SubmitArray, GetArray, ListArrays, CancelArray, ReadArrayResults)
