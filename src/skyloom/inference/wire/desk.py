"""Where all REST protocols hand in a call and get their answer worded; and how errors are worded for all of them."""

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from skyloom.core.errors import Category, SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.tensors import Call
from skyloom.inference.wire.messages import Fields, Request, Response
from skyloom.inference.wire.packing import UnpackedTooLarge, packed
from skyloom.inference.wire.site import Exchange
from skyloom.inference.wire.status import HTTP_STATUS

_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
CACHE_HIT = (b"skyloom-cache", b"hit")
_RETRY = ((b"retry-after", b"1"),)


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the protocol words it: ``error``; the code and category are Skyloom's."""

    error: str
    code: str
    category: Category


class Asking(Ticket):
    """A call, who asked it, and how its answer is worded.

    Attributes:
        priority: as the request's parameters have it; 0 for none. It means something where the endpoint has lanes.
    """

    __slots__ = ("exchange", "priority", "request", "worded")

    def __init__(
        self,
        call: Call,
        on_done: Callable[[Any], None],
        request: Request,
        exchange: Exchange,
        worded: Callable[[Ticket], Response],
        priority: int = 0,
    ) -> None:
        super().__init__(call, time.perf_counter(), on_done)
        self.priority = priority
        self.request = request
        self.exchange = exchange
        self.worded = worded


class Desk:
    """Takes calls to the model, and gives and counts their answers."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def ask(
        self,
        request: Request,
        exchange: Exchange,
        call: Call,
        worded: Callable[[Ticket], Response],
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> None:
        """Let the model answer a call; ``worded`` makes its answer. Raises `QueueFull`, `ReplicaDraining` at once."""

        ticket = Asking(call, self._answer, request, exchange, worded, priority)
        self._plane.queue(ticket, timeout_s)
        exchange.on_cut = ticket.cancel

    def _answer(self, ticket: "Asking") -> None:
        request = ticket.request
        if ticket.failure is not None:
            response = failed(ticket.failure, ticket.prediction_id)
        else:
            try:
                response = packed(ticket.worded(ticket), request.head.headers)
            except Exception:  # a defect of ours must not keep the rest of the batch waiting
                traceback.print_exc(file=sys.stderr)
                response = refusal(500, "The server made a mistake.")
        self._plane.traffic.answered(response.status, time.perf_counter() - request.arrived_at)
        ticket.exchange.answer(response)

    def count(self, request: Request, response: Response) -> Response:
        """Count an answer to an inference."""
        duration_s = time.perf_counter() - request.arrived_at if request.arrived_at else 0.0
        self._plane.traffic.answered(response.status, duration_s)
        return response


def prediction_header(ticket: Ticket) -> Fields:
    """Which prediction an answer is."""
    named = (b"skyloom-prediction-id", ticket.prediction_id.encode())
    return (named, CACHE_HIT) if ticket.cached_from else (named,)


def failed(error: SkyloomError, prediction_id: str = "") -> Response:
    """Word an error of ours."""
    headers = _CHALLENGE if error.category is Category.UNAUTHENTICATED else ()
    status = HTTP_STATUS[error.category]
    if isinstance(error, UnpackedTooLarge):
        status = 413
    elif error.category in (Category.LIMIT, Category.UNAVAILABLE, Category.STORAGE_FULL):
        headers = _RETRY
    if prediction_id and error.category is not Category.STORAGE_FULL:
        headers = (*headers, (b"skyloom-prediction-id", prediction_id.encode()))
    body = ErrorAnswer(error=str(error), code=error.code, category=error.category)
    return Response(status, msgspec.json.encode(body), headers=headers)


def refusal(status: int, message: str, headers: Fields = ()) -> Response:
    """Word an error that has no exception of its own."""
    category = next((kind for kind, number in HTTP_STATUS.items() if number == status), Category.INVALID)
    if category in (Category.LIMIT, Category.UNAVAILABLE):
        headers = (*headers, *_RETRY)
    body = ErrorAnswer(error=message, code=f"http_{status}", category=category)
    return Response(status, msgspec.json.encode(body), headers=headers)


def json_answer(value: object) -> Response:
    """A value as an answer."""
    return Response(200, msgspec.json.encode(value))
