"""What comes before the queue where an endpoint offers it: answers that are given again, and who may go first.

Replicas of plain endpoints have none of it: their requests go straight to the queue.
"""

import asyncio
import functools
from collections.abc import Callable

from skyloom.core.errors import Denied, InvalidInput, SkyloomError
from skyloom.inference.access import AccessList, TokenRefused
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.response_cache import ResponseCache
from skyloom.inference.wire.desk import Asking

PRIORITY = b"skyloom-priority"
_NO_PRIORITY = ("0", "1", "2", "3")


class PriorityUnknown(InvalidInput):
    """The priority is none of the lanes'."""


class PriorityDenied(Denied):
    """The token may not go first."""


class OfferDesk:
    """Stands before the queue of one model.

    Args:
        cache: shared by all models of a replica; None for none.
        urgent: who may say priority 1; None for nobody. Without lanes priorities mean nothing.
    """

    def __init__(self, plane: DataPlane, cache: ResponseCache | None, urgent: AccessList | None) -> None:
        self._plane = plane
        self._cache = cache
        self._urgent = urgent
        self._model = plane.plan.manifest or f"{plane.plan.model}:{plane.plan.model_version}"
        self._has_lanes = plane.plan.lanes is not None
        self._again: list[Ticket] = []

    @property
    def is_idle(self) -> bool:
        """No kept answer is on its way."""
        return not self._again

    def take(self, ticket: Ticket, timeout_s: float, queue: Callable[[Ticket, float], None]) -> None:
        """Answer a request by what was said before, or queue it. Raises `PriorityDenied`, `PriorityUnknown`, and what ``queue`` raises."""
        if not isinstance(ticket, Asking):  # a stream's
            queue(ticket, timeout_s)
            return
        headers = ticket.request.head.headers
        if self._has_lanes:
            self._rank(ticket, headers.get(PRIORITY, b""), headers.get(b"authorization"))
        if self._cache is None or ticket.request.head.target.endswith(b"_stream"):
            queue(ticket, timeout_s)
            return
        key = self._cache.key(headers.get(b"authorization", b""), self._model, ticket.call)
        kept = self._cache.find(key)
        if kept is None:
            self._plane.times.asked_in_vain()
            ticket.on_done = functools.partial(self._answered, key, ticket.on_done)
            queue(ticket, timeout_s)
            return
        ticket.outputs, ticket.cached_from = kept.outputs, kept.prediction_id
        if not self._again:
            asyncio.get_running_loop().call_soon(self._give)
        self._again.append(ticket)

    def _rank(self, ticket: Asking, written: bytes, authorization: bytes | None) -> None:
        """The parameter, or else the header."""
        priority = ticket.priority
        if written and not priority:
            if written.decode("latin-1") not in _NO_PRIORITY:
                raise _unknown()
            priority = ticket.priority = int(written)
        if not 0 <= priority <= 3:
            raise _unknown()
        if priority == 1:
            try:
                if self._urgent is not None:
                    self._urgent.check(authorization)
                    return
            except TokenRefused:
                pass
            raise PriorityDenied(
                "This token may not go first here.",
                next_action="Send priority 2, or have the token's name added: skyloom deploy --urgent NAME.",
            )

    def _answered(self, key: bytes, on_done: Callable[[Ticket], None], ticket: Ticket) -> None:
        outputs = ticket.outputs
        try:
            if self._cache is not None and ticket.failure is None and outputs is not None:
                self._cache.keep(key, outputs, ticket.prediction_id)
        finally:  # who waits is answered, whether there was memory to keep it or not
            on_done(ticket)

    def _give(self) -> None:
        tickets, self._again = self._again, []
        self._plane.give_again([ticket for ticket in tickets if not ticket.cancelled])


def _unknown() -> SkyloomError:
    return PriorityUnknown(
        "The priority is no number from 0 to 3.", next_action="1 is first, 2 or 0 as ever, 3 can wait."
    )
