"""gRPC on top of HTTP/2 (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md): who may call, unary inference, streams, health, deadlines."""

import sys
import time
import traceback
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from skyloom.core.errors import NotFound, SkyloomError
from skyloom.inference.codec import unreadable
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.beside import Beside
from skyloom.inference.wire.grpc_desk import GrpcDesk, refused_call
from skyloom.inference.wire.grpc_framing import (
    OK,
    TYPE,
    framed,
    status_answer,
    too_large,
    unpack,
)
from skyloom.inference.wire.grpc_methods import SERVICE, Method, methods
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
        self._desk = GrpcDesk(plane)
        self._beside = Beside()
        # Those that are open, and the token they showed.
        self._talks: dict[InferStream | Conversation, bytes | None] = {}
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
                return refused_call(error)
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
            self._fail(error, request, exchange)

        try:
            alike = target == self._infer and self._desk.ask_alike(request, exchange)
            content, is_packed = (b"", False) if alike else _message(request, most)
        except Exception as error:
            self._fail(error, request, exchange)
            return
        if is_packed:
            request.body = b""
            encoding = request.head.headers.get(b"grpc-encoding", b"identity")
            unpack(content, encoding, most, self._beside, take, refuse)
        elif not alike:
            take(content)
        request.body = b""  # what it says is in tensors now, which are counted; the message is not

    def _take(self, content: bytes, request: Request, exchange: Streaming) -> None:
        """Answer a message."""
        target = request.head.target
        try:
            method = self._methods[target]
            message = method.request.FromString(content)
            if target == _WATCH:
                self._watchers.add(message.service, exchange)
            elif self._serve_guest(target, message, request, exchange):
                return
            elif target == self._infer:
                self._desk.ask(message, request, exchange)
            else:
                exchange.answer(_answered(method.answer(message)))
        except Exception as error:
            self._fail(error, request, exchange)

    def _fail(self, error: Exception, request: Request, exchange: Exchange) -> None:
        """Answer a call that came to nothing."""
        if isinstance(error, DecodeError):
            error = unreadable("The message is none of this method's.", "Use the protocol's own definition.")
        if isinstance(error, SkyloomError):
            exchange.answer(self._count(request, HTTP_STATUS[error.category], refused_call(error)))
        else:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exception(error, file=sys.stderr)
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

    def _serve_guest(self, target: bytes, message: Any, request: Request, exchange: Exchange) -> bool:
        """Answer for a model of the pack, as soon as it is in memory; False: it is none, or need not. Raises as `GuestHouse.ask`."""
        guests, asked = self._plane.guests, _NAMED.get(target)
        if guests is None or asked is None or not guests.has(name := getattr(message, asked)):
            return False
        guest = guests.get(name)

        def then(plane: DataPlane) -> None:
            if target != self._infer:
                exchange.answer(_answered(methods(plane)[target].answer(message)))
                return
            plane.grpc = plane.grpc or GrpcDesk(plane)
            assert isinstance(plane.grpc, GrpcDesk)
            plane.grpc.ask(message, request, exchange)

        def failed(error: SkyloomError) -> None:
            if target == self._infer:
                duration_s = time.perf_counter() - request.arrived_at
                guest.traffic.answered(HTTP_STATUS[error.category], duration_s)
            exchange.answer(refused_call(error))

        try:
            version = getattr(message, _VERSIONED.get(target, ""), "")
            given_up = guests.ask(name, version, then, failed, message.ByteSize())
        except SkyloomError as error:
            failed(error)
        else:
            exchange.on_cut = given_up or exchange.on_cut
        return True

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

    def _count(self, request: Request, status: int, response: Response) -> Response:
        """Count an answer if it is one to an inference."""
        return self._desk.count(request, status, response) if request.head.target == self._infer else response


def _message(request: Request, max_bytes: int) -> tuple[bytes, bool]:
    """The one message of a call; True when it is packed. Raises `RequestUnreadable`, `MessageTooLarge`."""
    body = request.body
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5 or body[0] > 1:
        raise unreadable("The call does not bring exactly one message.", "Send one message, then end the stream.")
    if len(body) - 5 > max_bytes:
        raise too_large(max_bytes)
    return body[5:], body[0] == 1


def _answered(message: Any, trailers: Fields = OK) -> Response:
    return Response(200, framed(message), TYPE, trailers=trailers)
