"""How a room offers its operations to the door (`skyloom.cloud.Cloud.do`), and how news leaves a room.

A `Change` runs inside the door's transaction, so that its rights, its idempotency key, its audit record and its effect commit together.
A `Query` reads by itself and never changes anything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from skyloom.core.events import Event, EventBody, Origin
from skyloom.core.operation import Caller, Operation
from skyloom.ports.clock import Clock
from skyloom.ports.store import Log, Transaction

EVENTS = Log("events", Event, keys=("project", "subject"))


def _as_it_is(answer: Any) -> Any:
    return answer


@dataclass(frozen=True)
class Change:
    """An operation that changes something.

    Attributes:
        run: decides and writes; must not wait for anything outside of the transaction.
        before: checks that need the outside (do these blobs exist?), run before the transaction, for a repeated request too; raises
            to refuse.
        kept: what of the answer is stored for a repeat of the request; leaves out secrets.
        shown: makes a stored answer whole again.
    """

    run: Callable[[Transaction, Any, Caller], Any]
    before: Callable[[Any, Caller], None] | None = None
    kept: Callable[[Any], Any] = _as_it_is
    shown: Callable[[Any], Any] = _as_it_is


@dataclass(frozen=True)
class Query:
    """An operation that only looks."""

    run: Callable[[Any, Caller], Any]


Handlers = Mapping[type[Operation[Any]], Change | Query]


class RoomService(Protocol):
    """What offers operations to the door."""

    def handlers(self) -> Handlers:
        """Who carries out which operation."""
        ...


Subscriber = Callable[[Transaction, Event], None]


_CAUSE: ContextVar[Origin | None] = ContextVar("cause", default=None)


@contextmanager
def because(cause: Origin | None) -> Iterator[None]:
    """What is written inside came of this delivery of a trigger, unless something inside says otherwise."""
    token = _CAUSE.set(cause)
    try:
        yield
    finally:
        _CAUSE.reset(token)


def present_cause() -> Origin | None:
    """The delivery of a trigger that what is done now comes of; None for what people and clocks begin."""
    return _CAUSE.get()


@dataclass
class Outbox:
    """Appends events to the log and shows each to the subscribers, all inside the publisher's transaction."""

    clock: Clock
    subscribers: Sequence[Subscriber] = field(default_factory=list)

    def publish(
        self, tx: Transaction, project: str, subject: str, body: EventBody, cause: Origin | None = None
    ) -> None:
        """Record that ``body`` happened to ``subject``, because of ``cause`` or else of what is done now (`because`)."""
        event = Event(at=self.clock.now(), project=project, subject=subject, body=body, cause=cause or present_cause())
        tx.append(EVENTS, event)
        for subscriber in self.subscribers:
            subscriber(tx, event)
