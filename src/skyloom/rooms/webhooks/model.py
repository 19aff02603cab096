"""Nouns of webhooks: who wants to hear of what, and what is sent."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Id, Limit
from skyloom.core.errors import LimitExceeded, NotFound
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.ports.store import Record

Url = Annotated[str, Meta(min_length=8, max_length=2_000, pattern=r"^https?://[\x21-\x7e]+$(?!\n)")]
MAX_WEBHOOKS = 50


class WebhookMissing(NotFound):
    """No such webhook in this project."""


class TooManyWebhooks(LimitExceeded):
    """The project has as many webhooks as one may have."""


class NewsKind(enum.StrEnum):
    """What can be heard of."""

    JOB_ENDED = "job_ended"
    ALERT = "alert"  # one fires, was seen, or is over
    BUDGET = "budget"  # one of its thresholds was reached, or is over


class Webhook(Record, frozen=True, kw_only=True):
    """An address that wants to hear news of a project.

    Everything is sent at least once and in the order in which it happened; what cannot be sent for a day is dropped. News wait in the
    log of events, so that a deaf address costs no room.

    Attributes:
        cursor: number of the newest event that was dealt with.
        num_sent, num_dropped: news that were taken, and that were given up.
        failures: how often in a row the address did not take the next one.
        next_try_at: Unix seconds.
        last_error: why it did not take it; empty once it did.
    """

    url: Url
    kinds: tuple[NewsKind, ...]
    created_by: str
    created_at: float
    cursor: int
    num_sent: int = 0
    num_dropped: int = 0
    failures: int = 0
    next_try_at: float = 0.0
    last_error: str = ""


class IssuedWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A new webhook with the secret that its news are signed with, which is shown this once."""

    webhook: Webhook
    secret: str


class News(msgspec.Struct, frozen=True, kw_only=True):
    """The body of what is sent, as JSON.

    Attributes:
        id: the same each time that this is sent; a receiver takes the first and drops the others.
        at: Unix seconds when it happened.
        subject: id of the job, alert or budget.
        what: its state, or the threshold in percent.
    """

    id: str
    kind: NewsKind
    project: str
    at: float
    subject: str
    what: str
    reason: str = ""
    message: str = ""


@operation("webhooks.create", Right.ADMIN, "POST /webhooks")
class CreateWebhook(Operation[IssuedWebhook], frozen=True, kw_only=True):
    """Send news of the project, from now on, to an address. The answer holds the secret; it is never shown again.

    An address whose name leads inside is refused; a name that nobody knows now is taken, and ``last_error`` says so.

    Each request carries ``Skyloom-Signature: t=<unix seconds>,v1=<hex>``: the HMAC-SHA256 of ``<t>.<body>`` with the secret.
    """

    url: Url
    kinds: Annotated[tuple[NewsKind, ...], Meta(min_length=1, max_length=10)] = tuple(NewsKind)


@operation("webhooks.list", Right.ADMIN, "GET /webhooks")
class ListWebhooks(Operation[Page[Webhook]], frozen=True, kw_only=True):
    """List the project's webhooks and how they fare."""

    limit: Limit = 100


@operation("webhooks.delete", Right.ADMIN, "DELETE /webhooks/{webhook_id}")
class DeleteWebhook(Operation[Done], frozen=True, kw_only=True):
    """Send nothing more to an address."""

    webhook_id: Id


OPERATIONS = (CreateWebhook, ListWebhooks, DeleteWebhook)
