"""Nouns of the overview. Nothing here is stored: all of it is read off the other rooms when somebody asks."""

import msgspec

from skyloom.core.bounds import Id
from skyloom.core.errors import NotFound
from skyloom.core.operation import Operation, Right, operation
from skyloom.core.resources import Resources


class SubjectMissing(NotFound):
    """Nothing in this project has that id."""


class CloudStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A cloud at a glance.

    Attributes:
        pid: of the process of this control plane, on its machine.
        uptime_s: since it started.
        capacity, used: of the whole pool, by everybody.
        disk_free_bytes: where the data folder lies.
        counts: noun → state → how many, of what the caller's token opens: ``{"jobs": {"running": 2}}``.
    """

    version: str
    url: str
    pid: int
    uptime_s: float
    capacity: Resources
    used: Resources
    disk_free_bytes: int
    counts: dict[str, dict[str, int]] = {}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to the subject."""

    at: float
    what: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is in its state.

    Attributes:
        reason: typed, one of the noun's own; "" when there is nothing to explain.
        message: the finding in one sentence.
        next_action: what to do; "" when nothing has to be done.
        evidence: what happened, newest last.
    """

    subject: str
    noun: str
    state: str
    reason: str = ""
    message: str = ""
    next_action: str = ""
    evidence: tuple[Evidence, ...] = ()


@operation("overview.status", Right.READ, "GET /status", global_=True)
class GetStatus(Operation[CloudStatus], frozen=True):
    """Show the cloud: version, capacity, what runs."""


@operation("overview.why", Right.READ, "GET /why/{subject}")
class Why(Operation[Explanation], frozen=True):
    """Explain why a thing is in its state, with evidence and the next action."""

    subject: Id


OPERATIONS = (GetStatus, Why)
