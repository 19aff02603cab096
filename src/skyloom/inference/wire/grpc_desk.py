"""Where calls to one model are handed in over gRPC, and their answers worded and counted."""

import functools
import re
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from skyloom.core.errors import SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import priority_of, timeout_of, unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire.call_moulds import AnswerMoulds, CallMoulds
from skyloom.inference.wire.calls import call_of
from skyloom.inference.wire.desk import Asking, prediction_header
from skyloom.inference.wire.grpc_framing import ENCODINGS, OK, TYPE, CompressionUnknown, status_answer
from skyloom.inference.wire.grpc_methods import parameters_of
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Exchange
from skyloom.inference.wire.status import GRPC_STATUS, HTTP_STATUS, GrpcStatus

(_GOOD,) = OK
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class GrpcDesk:
    """Takes calls to one model, and gives and counts their answers."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._calls, self._answers = CallMoulds(plane), AnswerMoulds(plane)

    def ask_alike(self, request: Request, exchange: Exchange) -> bool:
        """Let the model answer a call whose like came before; False: it must be read. Raises as `ask` does."""
        call = self._calls.find(request.body)
        if call is None:
            return False
        self._ask(call, request, exchange, _timeout_s(request.head.headers))
        return True

    def ask(self, message: Any, request: Request, exchange: Exchange) -> None:
        """Let the model answer a message. Raises `TensorRefused`, `RequestUnreadable`, `ModelUnknown`, and as `DataPlane.queue` does."""
        timeout_s = _timeout_s(request.head.headers)
        self._plane.check_model(message.model_name, message.model_version)
        call = call_of(message, self._plane.contract)
        priority = 0
        if message.parameters:
            parameters = parameters_of(message.parameters)
            asked_s, priority = timeout_of(parameters), priority_of(parameters)
            timeout_s = asked_s if timeout_s is None else min(timeout_s, asked_s or timeout_s)
        if request.body:  # gone where the message came packed, or waited for its model
            self._calls.keep(request.body, message, call)
        self._ask(call, request, exchange, timeout_s, priority)

    def count(self, request: Request, status: int, response: Any) -> Any:
        """Count an answer to an inference."""
        self._plane.traffic.answered(status, time.perf_counter() - request.arrived_at)
        return response

    def _ask(self, call: Any, request: Request, exchange: Exchange, timeout_s: float | None, priority: int = 0) -> None:
        ticket = Asking(call, self._answer, request, exchange, self._worded, priority)
        self._plane.queue(ticket, timeout_s)
        exchange.on_cut = functools.partial(self._cut, ticket)

    def _answer(self, ticket: Asking) -> None:
        request, exchange = ticket.request, ticket.exchange
        if ticket.failure is not None:
            error = ticket.failure
            exchange.answer(self.count(request, HTTP_STATUS[error.category], refused_call(error)))
            return
        try:
            made = ticket.worded(ticket)
        except Exception:  # a defect of ours must not keep the rest of the batch waiting
            traceback.print_exc(file=sys.stderr)
            exchange.answer(self.count(request, 500, status_answer(GrpcStatus.INTERNAL, "The server made a mistake.")))
            return
        exchange.answer(self.count(request, 200, made))

    def _worded(self, ticket: Ticket) -> Response:
        trailers = (_GOOD, *prediction_header(ticket))
        return Response(200, self._answers.write(ticket), TYPE, trailers=trailers)

    def _cut(self, ticket: Asking) -> None:
        ticket.cancelled = True
        self.count(ticket.request, 499, None)


def refused_call(error: SkyloomError) -> Response:
    """Word an error of ours."""
    if isinstance(
        error, CompressionUnknown
    ):  # the protocol asks for this word, and for what would have been understood
        return status_answer(GrpcStatus.UNIMPLEMENTED, str(error), ((b"grpc-accept-encoding", ENCODINGS),))
    return status_answer(GRPC_STATUS[error.category], str(error))


def _timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the caller waits. Raises `RequestUnreadable`."""
    written = headers.get(b"grpc-timeout")
    if written is None:
        return None
    found = _TIMEOUT.fullmatch(written)
    if found is None:
        raise unreadable("grpc-timeout cannot be read.", "Send up to 8 digits and one of H, M, S, m, u, n.")
    return int(found[1]) * _UNITS_S[found[2]]
