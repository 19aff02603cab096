"""Nouns and operations of tracking. A run is a record of intent; how it goes is its job's state and its series."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name, ShortText
from skyloom.core.errors import NotFound
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.ports.series import Point
from skyloom.ports.store import Record
from skyloom.rooms.jobs.model import JobState

Scalar = bool | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float | Annotated[str, Meta(max_length=4_000)] | None
Value = Scalar | Annotated[tuple[Scalar, ...], Meta(max_length=1_000)]
Parameters = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=100)], Value], Meta(max_length=200)]
Labels = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=100)], ShortText], Meta(max_length=50)]


class Run(Record, frozen=True, kw_only=True):
    """One training, or one user script that measures something.

    Attributes:
        name: for people; not unique.
        job_id: the job that does the work; its state is the run's state.
        recipe: the ready recipe, or empty for a script.
        dataset, dataset_version: the data it trains on; empty and 0 for none.
        code_digest: digest of the script's files, or of the recipe's name and Skyloom's version.
        created_at: Unix seconds.
    """

    name: ShortText
    job_id: str
    recipe: str = ""
    dataset: str = ""
    dataset_version: int = 0
    target: str = ""
    parameters: Parameters = msgspec.field(default_factory=dict)
    code_digest: str = ""
    created_at: float
    labels: Labels = msgspec.field(default_factory=dict)


class RunMissing(NotFound):
    """No such run in this project."""


class RunProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A run with what is known about it now.

    Attributes:
        state, message: of its job.
        latest: the newest point of every measurement.
    """

    run: Run
    state: JobState
    message: str = ""
    latest: dict[str, Point] = {}


class SeriesSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Some points of a run, in the order they came."""

    run_id: str
    points: tuple[Point, ...]


@operation("runs.log", Right.WRITE, "POST /runs/{run_id}/measurements", audited=False)
class LogMeasurements(Operation[Done], frozen=True, kw_only=True):
    """Add measurements to a run. A batch (source and sequence) that was sent before is dropped, so sending again is safe.

    Attributes:
        source: who sends: one name for each process that counts its own batches.
        sequence: counts the batches of one source from 1.
    """

    run_id: Id
    source: Id
    sequence: Annotated[int, Meta(ge=1, le=2**53)]
    points: Annotated[tuple[Point, ...], Meta(max_length=10_000)]


@operation("runs.get", Right.READ, "GET /runs/{run_id}")
class GetRun(Operation[RunProgress], frozen=True, kw_only=True):
    """Show a run, its state and its newest measurements."""

    run_id: Id


@operation("runs.list", Right.READ, "GET /runs")
class ListRuns(Operation[Page[RunProgress]], frozen=True, kw_only=True):
    """List runs, newest first; ``dataset`` shows only those trained on it."""

    dataset: Name | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


@operation("runs.series", Right.READ, "GET /runs/{run_id}/series")
class GetSeries(Operation[SeriesSlice], frozen=True, kw_only=True):
    """Read measurements of a run: of one name, or of all, after a step."""

    run_id: Id
    name: ShortText | None = None
    after_step: Annotated[int, Meta(ge=-1, le=2**53)] = -1
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 10_000


OPERATIONS = (LogMeasurements, GetRun, ListRuns, GetSeries)
