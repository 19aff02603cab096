"""Operations of safe change: how traffic is split, going back, and what becomes of a canary."""

from typing import Annotated

from msgspec import Meta

from skyloom.core.bounds import Id
from skyloom.core.errors import Conflict, InvalidInput, NotFound
from skyloom.core.operation import Operation, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.split import KEEP_S, Comparison, TrafficSplit


class RevisionMissing(NotFound):
    """The endpoint has no revision of that number."""


class SplitUnclear(InvalidInput):
    """The shares cannot be meant together."""


class NothingToGoBackTo(Conflict):
    """No other revision had the traffic before."""


class NoCanary(Conflict):
    """No canary of the endpoint is going on."""


class CanaryGoesOn(Conflict):
    """A canary decides about the traffic now."""


class NothingServes(Conflict):
    """There is no one revision with all the traffic that a new one could be held against."""


class EndpointStopped(Conflict):
    """The endpoint was stopped, so that it has no traffic to share."""


class GatewayRun(Record, frozen=True, kw_only=True):
    """The process that stands before the endpoints of one project. It is made together with its job, in one transaction.

    Attributes:
        stopped_at: when it was told to stop; None while it should go on.
        ended_at: when its job was seen to be over.
        failed: it ended without having been told to.
        message: why it ended.
    """

    job_id: str
    created_at: float
    stopped_at: float | None = None
    ended_at: float | None = None
    failed: bool = False
    message: str = ""


@operation("endpoints.route", Right.RUN, "PUT /endpoints/{name}/split")
class SetSplit(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Say how an endpoint's traffic is shared over its revisions, whole. It comes into force when their replicas answer; until then the one
    before holds. Not while a canary goes on.

    Attributes:
        keep_s: how long the replicas of a revision that loses all its traffic are kept, so that `endpoints.rollback` needs no start.
    """

    name: Id
    split: TrafficSplit
    keep_s: Annotated[float, Meta(ge=0, le=7 * 86_400)] = KEEP_S


@operation("endpoints.rollback", Right.RUN, "POST /endpoints/{name}/rollback")
class RollBack(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Give all the traffic back to the revision that had all of it before; a canary that goes on ends as rolled back.

    At once where its replicas are still kept. Else, as after a plain deploy, when they have been started and answer: until then the present
    revision goes on answering, and no request fails.
    """

    name: Id


@operation("endpoints.promote", Right.RUN, "POST /endpoints/{name}/canary/promote")
class PromoteCanary(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Give the canary all the traffic now, whatever its step."""

    name: Id


@operation("endpoints.abort", Right.RUN, "POST /endpoints/{name}/canary/abort")
class AbortCanary(Operation[EndpointStatus], frozen=True, kw_only=True):
    """End the canary: its traffic goes back to the stable revision."""

    name: Id


@operation("endpoints.compare", Right.READ, "GET /endpoints/{name}/comparison")
class CompareRevisions(Operation[Comparison], frozen=True, kw_only=True):
    """Show the revisions that share an endpoint's traffic side by side, since the split came into force: requests, errors, latency, and
    whether one errs more than the baseline, by a test that may be looked at as often as one likes."""

    name: Id


OPERATIONS = (SetSplit, RollBack, PromoteCanary, AbortCanary, CompareRevisions)
