"""gRPC on top of HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md): who may call, unary inference, streams, health, deadlines."""

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
from skyloom.inference.traffic import TrafficCounter
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.calls import answer_of, call_of
from skyloom.inference.wire.grpc_framing import (
    ENCODINGS,
    OK,
    TYPE,
    CompressionUnknown,
    framed,
    status_answer,
    too_large,
    unpack,
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
# Calls that are answered when a model is in memory: the field of its name, and that of its version.
_NAMED = {
    SERVICE + b"ModelInfer": "model_name",
    SERVICE + b"ModelMetadata": "name",
    SERVICE + b"ModelConfig": "name",
    SERVICE + b"RepositoryModelLoad": "model_name",
}
_VERSIONED = {
    SERVICE + b"ModelInfer": "model_version",
    SERVICE + b"ModelMetadata": "version",
    SERVICE + b"ModelConfig": "version",
}
_MAX_QUESTION_BYTES = 2**16  # of every call but an inference
_MAX_OPEN_BYTES = 2**10  # of one that needs no token
_MAX_OPEN_HEAD_BYTES = 2**11
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
        self._beside = Beside()
        self._talks: dict[
            InferStream | Conversation, bytes | None
        ] = {}  # those that are open, and the token they showed
        self._version = self.epoch
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
        most = self._max_bytes if target == self._infer else _MAX_QUESTION_BYTES

        def take(content: bytes) -> None:
            self._take(content, request, exchange)

        def refuse(error: SkyloomError) -> None:
            exchange.answer(self._count(request, HTTP_STATUS[error.category], _failed(error)))

        try:
            content, is_packed = _message(request, most)
        except SkyloomError as error:
            refuse(error)
            return
        request.body = b""  # what it says is in tensors soon, which are counted; the message is not
        if is_packed:
            encoding = request.head.headers.get(b"grpc-encoding", b"identity")
            unpack(content, encoding, most, self._beside, take, refuse)
        else:
            take(content)

    def _take(self, content: bytes, request: Request, exchange: Streaming) -> None:
        """Answer a message."""
        target = request.head.target
        try:
            method = self._methods[target]
            message = method.request.FromString(content)
            if target == _WATCH:
                self._watchers.add(message.service, exchange)
            elif not self._serve_guest(target, message, request, exchange):
                self._answer(self._plane, message, request, exchange)
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
            return self._opened(InferStream(self._plane, request, exchange, self._is_over, self._beside), request)
        if request.head.target == _REFLECT:
            talk = Conversation(exchange, reflection_pb2.ServerReflectionRequest, reflected, self._is_over)
            return self._opened(talk, request)
        return None

    def look(self) -> None:
        """Tell those who watch health what has changed, and end streams whose token was taken back. Called about once a second."""
        self._watchers.look()
        if self._version == self.epoch:
            return
        self._version = self.epoch
        for talk, shown in list(self._talks.items()):
            try:
                self._plane.access.check(shown)
            except SkyloomError as error:
                talk.end(GRPC_STATUS[error.category], str(error))

    def _opened(self, talk: InferStream | Conversation, request: Request) -> Listener:
        self._talks[talk] = request.head.headers.get(b"authorization")
        return talk

    def _is_over(self, talk: InferStream | Conversation) -> None:
        self._talks.pop(talk, None)

    def drain(self) -> None:
        """End the calls that would never end by themselves."""
        self._watchers.end()
        for talk in list(self._talks):
            talk.stop()

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return status_answer(_OF_HTTP.get(status, GrpcStatus.INTERNAL), message)

    def _answer(self, plane: DataPlane, message: Any, request: Request, exchange: Exchange) -> None:
        """Answer for one model that is in memory."""
        target = request.head.target
        if target == self._infer:
            self._begin(plane, message, request, exchange)
            return
        answering = self._methods if plane is self._plane else methods(plane)
        exchange.answer(_answered(answering[target].answer(message)))

    def _serve_guest(self, target: bytes, message: Any, request: Request, exchange: Exchange) -> bool:
        """Answer for a model of the pack, as soon as it is in memory; False: it is none, or need not. Raises as `GuestHouse.ask` does."""
        guests, asked = self._plane.guests, _NAMED.get(target)
        if guests is None or asked is None or not guests.has(getattr(message, asked)):
            return False
        name = getattr(message, asked)
        guest = guests.get(name)

        def failed(error: SkyloomError) -> None:
            exchange.answer(self._count(request, HTTP_STATUS[error.category], _failed(error), guest.traffic))

        version = getattr(message, _VERSIONED.get(target, ""), "")
        given_up = guests.ask(
            name, version, lambda plane: self._answer(plane, message, request, exchange), failed, message.ByteSize()
        )
        exchange.on_cut = given_up or exchange.on_cut
        return True

    def _begin(self, plane: DataPlane, message: Any, request: Request, exchange: Exchange) -> None:
        plane.check_model(message.model_name, message.model_version)
        call = call_of(message, plane.contract)

        def answer(ticket: Ticket) -> None:
            if ticket.failure is not None:
                error = ticket.failure
                exchange.answer(self._count(request, HTTP_STATUS[error.category], _failed(error), plane.traffic))
                return
            try:
                trailers = (*OK, (b"skyloom-prediction-id", ticket.prediction_id.encode()))
                made = _answered(answer_of(ticket, plane), trailers)
            except Exception:  # a defect of ours must not keep the rest of the batch waiting
                traceback.print_exc(file=sys.stderr)
                exchange.answer(
                    self._count(
                        request, 500, status_answer(GrpcStatus.INTERNAL, "The server made a mistake."), plane.traffic
                    )
                )
                return
            exchange.answer(self._count(request, 200, made, plane.traffic))

        timeout_s = _timeout_s(request.head.headers)
        if message.parameters:
            asked_s = timeout_of(parameters_of(message.parameters))
            timeout_s = asked_s if timeout_s is None else min(timeout_s, asked_s or timeout_s)
        ticket = plane.infer(call, answer, timeout_s)

        def cut() -> None:
            ticket.cancelled = True
            self._count(request, 499, None, plane.traffic)

        exchange.on_cut = cut

    def _health(self, message: Any) -> Any:
        status = self._status_of(message.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise ServiceUnknown(
                f"There is no service {message.service[:200]!r}.", next_action="Leave it empty to ask for the server."
            )
        return health_pb2.HealthCheckResponse(status=status)

    def _status_of(self, service: str) -> int:
        states = health_pb2.HealthCheckResponse
        guests = self._plane.guests
        known = service in ("", SERVICE.decode().strip("/"), self._plane.plan.model)
        if not known and (guests is None or not guests.has(service)):
            return int(states.SERVICE_UNKNOWN)
        return int(states.SERVING if self._plane.ready else states.NOT_SERVING)

    def _count(self, request: Request, status: int, response: Any, traffic: TrafficCounter | None = None) -> Any:
        """Count an answer if it is one to an inference."""
        if request.head.target == self._infer:
            (traffic or self._plane.traffic).answered(status, time.perf_counter() - request.arrived_at)
        return response


def _message(request: Request, max_bytes: int) -> tuple[bytes, bool]:
    """The one message of a call; True when it is packed. Raises `RequestUnreadable`, `MessageTooLarge`."""
    body = request.body
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5 or body[0] > 1:
        raise unreadable("The call does not bring exactly one message.", "Send one message, then end the stream.")
    if len(body) - 5 > max_bytes:
        raise too_large(max_bytes)
    return body[5:], body[0] == 1


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
