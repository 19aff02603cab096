"""gRPC on top of HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md): who may call, unary inference, streams, health, deadlines."""

import functools
import re
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from skyloom.core.errors import NotFound, SkyloomError
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import timeout_of, unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.call_moulds import AnswerMoulds, CallMoulds
from skyloom.inference.wire.calls import call_of
from skyloom.inference.wire.desk import Asking
from skyloom.inference.wire.grpc_framing import (
    ENCODINGS,
    OK,
    TYPE,
    CompressionUnknown,
    framed,
    status_answer,
    too_large,
    unpacked_message,
)
from skyloom.inference.wire.grpc_methods import SERVICE, Method, methods, parameters_of
from skyloom.inference.wire.grpc_stream import InferStream
from skyloom.inference.wire.grpc_streams import Conversation, Watchers, reflected
from skyloom.inference.wire.messages import Fields, Request, Response
from skyloom.inference.wire.site import Exchange, Listener, Streaming
from skyloom.inference.wire.status import GRPC_STATUS, HTTP_STATUS, GrpcStatus

_CHECK, _WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
_REFLECT = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_STREAM = SERVICE + b"ModelStreamInfer"
_OPEN = frozenset({SERVICE + b"ServerLive", SERVICE + b"ServerReady", _CHECK, _WATCH})
_MAX_QUESTION_BYTES = 2**16  # of every call but an inference
_MAX_OPEN_BYTES = 2**10  # of one that needs no token
_MAX_OPEN_HEAD_BYTES = 2**11
(_GOOD,) = OK
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# What a proxy or a wire without words for it answers, as gRPC's table of HTTP statuses has it.
_OF_HTTP = {
    408: GrpcStatus.DEADLINE_EXCEEDED,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    431: GrpcStatus.RESOURCE_EXHAUSTED,
}


class ServiceUnknown(NotFound):
    """Health was asked of a service that is not here."""


class GrpcSite:
    """The site that a replica's HTTP/2 connections serve."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._max_bytes = plane.plan.limits.max_body_bytes
        self._infer = SERVICE + b"ModelInfer"
        self._methods: dict[bytes, Method] = {
            **methods(plane),
            self._infer: Method(pb.ModelInferRequest, lambda _: None),
            _CHECK: Method(health_pb2.HealthCheckRequest, self._health),
            _WATCH: Method(health_pb2.HealthCheckRequest, lambda _: None),
        }
        self._calls, self._answers = CallMoulds(plane), AnswerMoulds(plane)
        self._streams: set[InferStream] = set()
        self._conversations: set[Conversation] = set()
        self._watchers = Watchers(self._status_of)

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._plane.access.version

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        method, target, headers = request.head
        if method != b"POST" or not headers.get(b"content-type", b"").startswith(TYPE):
            return Response(415, b"This port speaks gRPC.", b"text/plain")
        if target not in _OPEN:
            try:
                self._plane.access.check(headers.get(b"authorization"))
            except SkyloomError as error:
                return _failed(error)
        else:
            request.is_open, request.max_bytes = True, _MAX_OPEN_BYTES
            if sum(len(name) + len(value) for name, value in headers.items()) > _MAX_OPEN_HEAD_BYTES:
                return status_answer(GrpcStatus.RESOURCE_EXHAUSTED, "The request's headers are too large.")
        if target == self._infer:
            return None
        if target not in self._methods and target not in (_REFLECT, _STREAM):
            return status_answer(GrpcStatus.UNIMPLEMENTED, f"There is no method {target.decode('latin-1')[:200]}.")
        request.max_bytes = request.max_bytes or _MAX_QUESTION_BYTES
        return None

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer; an inference later, everything else at once."""
        target = request.head.target
        if target in (_STREAM, _REFLECT):  # whole requests come over a wire without streams
            exchange.answer(status_answer(GrpcStatus.UNIMPLEMENTED, "A stream needs HTTP/2."))
            return
        try:
            if target == self._infer:
                self._begin(request, exchange)
                return
            method = self._methods[target]
            message = method.request.FromString(_message(request, _MAX_QUESTION_BYTES))
            if target == _WATCH:
                self._watchers.add(message.service, exchange)
            else:
                exchange.answer(_answered(method.answer(message)))
        except SkyloomError as error:
            exchange.answer(self._count(request, HTTP_STATUS[error.category], _failed(error)))
        except DecodeError:
            broken = unreadable("The message is none of this method's.", "Use the protocol's own definition.")
            exchange.answer(self._count(request, HTTP_STATUS[broken.category], _failed(broken)))
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            exchange.answer(self._count(request, 500, status_answer(GrpcStatus.INTERNAL, "The server made a mistake.")))

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """Reflection and a stream of inferences are conversations; all other methods take one message."""
        if request.head.target == _STREAM:
            stream = InferStream(self._plane, request, exchange, self._streams.discard)
            self._streams.add(stream)
            return stream
        if request.head.target == _REFLECT:
            talk = Conversation(
                exchange, reflection_pb2.ServerReflectionRequest, reflected, self._conversations.discard
            )
            self._conversations.add(talk)
            return talk
        return None

    def look(self) -> None:
        """Tell those who watch health what has changed. Called about once a second."""
        self._watchers.look()

    def drain(self) -> None:
        """End the calls that would never end by themselves."""
        self._watchers.end()
        for talk in list(self._conversations):
            talk.stop()
        for stream in list(self._streams):
            stream.stop()

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return status_answer(_OF_HTTP.get(status, GrpcStatus.INTERNAL), message)

    def _begin(self, request: Request, exchange: Exchange) -> None:
        plane = self._plane
        timeout_s = _timeout_s(request.head.headers)
        call = self._calls.find(request.body)
        if call is None:
            message = pb.ModelInferRequest.FromString(_message(request, self._max_bytes))
            plane.check_model(message.model_name, message.model_version)
            call = call_of(message, plane.contract)
            if message.parameters:
                asked_s = timeout_of(parameters_of(message.parameters))
                timeout_s = asked_s if timeout_s is None else min(timeout_s, asked_s or timeout_s)
            self._calls.keep(request.body, message, call)
        ticket = Asking(call, self._answer, request, exchange, self._worded)
        plane.queue(ticket, timeout_s)
        exchange.on_cut = functools.partial(self._cut, ticket)

    def _answer(self, ticket: Asking) -> None:
        request, exchange = ticket.request, ticket.exchange
        if ticket.failure is not None:
            error = ticket.failure
            exchange.answer(self._count(request, HTTP_STATUS[error.category], _failed(error)))
            return
        try:
            made = ticket.worded(ticket)
        except Exception:  # a defect of ours must not keep the rest of the batch waiting
            traceback.print_exc(file=sys.stderr)
            exchange.answer(self._count(request, 500, status_answer(GrpcStatus.INTERNAL, "The server made a mistake.")))
            return
        exchange.answer(self._count(request, 200, made))

    def _worded(self, ticket: Ticket) -> Response:
        trailers = (_GOOD, (b"skyloom-prediction-id", ticket.prediction_id.encode()))
        return Response(200, self._answers.write(ticket), TYPE, trailers=trailers)

    def _cut(self, ticket: Asking) -> None:
        ticket.cancelled = True
        self._count(ticket.request, 499, None)

    def _health(self, message: Any) -> Any:
        status = self._status_of(message.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise ServiceUnknown(
                f"There is no service {message.service[:200]!r}.", next_action="Leave it empty to ask for the server."
            )
        return health_pb2.HealthCheckResponse(status=status)

    def _status_of(self, service: str) -> int:
        states = health_pb2.HealthCheckResponse
        if service not in ("", SERVICE.decode().strip("/"), self._plane.plan.model):
            return int(states.SERVICE_UNKNOWN)
        return int(states.SERVING if self._plane.ready else states.NOT_SERVING)

    def _count(self, request: Request, status: int, response: Any) -> Any:
        """Count an answer if it is one to an inference."""
        if request.head.target == self._infer:
            self._plane.traffic.answered(status, time.perf_counter() - request.arrived_at)
        return response


def _message(request: Request, max_bytes: int) -> bytes:
    """The one message of a call. Raises `RequestUnreadable`, `MessageTooLarge`, `CompressionUnknown`."""
    body = request.body
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5 or body[0] > 1:
        raise unreadable("The call does not bring exactly one message.", "Send one message, then end the stream.")
    if body[0] == 0:
        if len(body) - 5 > max_bytes:
            raise too_large(max_bytes)
        return body[5:]
    return unpacked_message(body[5:], request.head.headers.get(b"grpc-encoding", b"identity"), max_bytes)


def _timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the caller waits. Raises `RequestUnreadable`."""
    written = headers.get(b"grpc-timeout")
    if written is None:
        return None
    found = _TIMEOUT.fullmatch(written)
    if found is None:
        raise unreadable("grpc-timeout cannot be read.", "Send up to 8 digits and one of H, M, S, m, u, n.")
    return int(found[1]) * _UNITS_S[found[2]]


def _answered(message: Any, trailers: Fields = OK) -> Response:
    return Response(200, framed(message), TYPE, trailers=trailers)


def _failed(error: SkyloomError) -> Response:
    if isinstance(
        error, CompressionUnknown
    ):  # the protocol asks for this word, and for what would have been understood
        return status_answer(GrpcStatus.UNIMPLEMENTED, str(error), ((b"grpc-accept-encoding", ENCODINGS),))
    return status_answer(GRPC_STATUS[error.category], str(error))
