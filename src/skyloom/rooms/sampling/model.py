"""Nouns of sampling: what is kept of an endpoint's requests, into which dataset, and how far that has come."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Id, Name, Text
from skyloom.core.errors import Conflict, InvalidInput
from skyloom.core.operation import Operation, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.serving.samples import RequestSampling

Days = Annotated[float, Meta(gt=0, le=36_500)]


class NotSampled(Conflict):
    """No requests of the endpoint are kept."""


class SamplingUnclear(InvalidInput):
    """What is to be kept or redacted cannot be meant. The message names the column."""


class SamplesTaken(Conflict):
    """The dataset takes the samples of another endpoint, or samples are being taken into one now."""


class SampleLog(Record, frozen=True, kw_only=True):
    """What is kept of an endpoint's requests. Its id is the endpoint's.

    Attributes:
        dataset: that the rows become versions of.
        columns: all that a row had when it was said what is redacted.
        every_s: how often samples are taken into the dataset.
        keep_days: newer versions leave out rows that are older.
        max_rows: of a version; beyond it the oldest are left out.
        max_bytes: of one replica's samples that wait.
        active: requests are kept; off, what waits is still taken.
        base: what was taken before into other datasets: replica → bytes.
        begun_at: when samples were last begun to be taken.
        asked: somebody wants them taken now.
    """

    endpoint_name: str
    dataset: str
    sampling: RequestSampling
    columns: tuple[str, ...]
    every_s: float
    keep_days: float
    max_rows: int
    max_bytes: int
    set_by: str
    active: bool = True
    base: dict[str, int] = msgspec.field(default_factory=dict)
    begun_at: float = 0.0
    asked: bool = False


class SamplingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A sample log and how far it has come.

    Attributes:
        waiting_bytes: sampled, and not yet in the dataset.
        draft: that is being made now, "" for none.
        newest, num_rows: the version of the dataset that was made last, and its rows.
        next_at: when samples are taken next, if any wait; None when nobody waits for a time.
        message: what keeps them from being taken, "" for nothing.
    """

    log: SampleLog
    waiting_bytes: Count = 0
    draft: str = ""
    newest: int | None = None
    num_rows: Count = 0
    next_at: float | None = None
    message: Text = ""


@operation("endpoints.log_to", Right.RUN, "PUT /endpoints/{name}/sampling")
class LogTo(Operation[SamplingStatus], frozen=True, kw_only=True):
    """Keep some of an endpoint's requests and answers as rows of a dataset, redacted before they are written. Whole: what was said before
    is replaced. It holds within a second, for live replicas too.

    Attributes:
        dataset: a new name, or one that holds samples already.
    """

    name: Id
    dataset: Name
    sampling: RequestSampling = msgspec.field(default_factory=RequestSampling)
    every_s: Annotated[float, Meta(ge=10, le=30 * 86_400)] = 3_600.0
    keep_days: Days = 30.0
    max_rows: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    max_bytes: Annotated[int, Meta(ge=2**20, le=2**36)] = 256 * 2**20


@operation("endpoints.sampling", Right.READ, "GET /endpoints/{name}/sampling")
class GetSampling(Operation[SamplingStatus], frozen=True, kw_only=True):
    """Show what is kept of an endpoint's requests, and how far that has come."""

    name: Id


@operation("endpoints.collect", Right.RUN, "POST /endpoints/{name}/sampling/collect")
class CollectSamples(Operation[SamplingStatus], frozen=True, kw_only=True):
    """Take the samples that wait into the dataset now. Safe to repeat."""

    name: Id


@operation("endpoints.log_off", Right.RUN, "DELETE /endpoints/{name}/sampling")
class LogOff(Operation[SamplingStatus], frozen=True, kw_only=True):
    """Keep no more requests. What waits is still taken into the dataset. Safe to repeat."""

    name: Id


OPERATIONS = (LogTo, GetSampling, CollectSamples, LogOff)
