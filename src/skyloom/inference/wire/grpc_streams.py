"""The two services that every gRPC tool asks for and that answer part by part: health (grpc.health.v1) and reflection (v1alpha)."""

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from skyloom.core.errors import LimitExceeded
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.grpc_framing import OK, TYPE, framed, trailers_of
from skyloom.inference.wire.messages import Fields, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import GrpcStatus

_STOPPING: Fields = ((b"grpc-status", b"%d" % GrpcStatus.UNAVAILABLE), (b"grpc-message", b"this replica is stopping"))
_INVALID: Fields = ((b"grpc-status", b"%d" % GrpcStatus.INVALID_ARGUMENT),)
_MAX_QUESTION_BYTES = 4_096
_MAX_QUESTIONS = 1_000
_HOPELESS_BYTES = 2**17
_MAX_WATCHERS = 1_024
_SERVICES = (
    pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name,
)


class TooManyWatchers(LimitExceeded):
    """No more watchers of health are taken."""


class Conversation:
    """Hears messages one by one and answers each at once (`Listener`). What is too long or too much ends the call."""

    wants_more = True

    def __init__(
        self,
        exchange: Streaming,
        request: Any,
        answer: Callable[[Any], Any],
        on_over: Callable[["Conversation"], None] = lambda _: None,
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._answer = answer
        self._on_over = on_over
        exchange.on_cut = lambda: on_over(self)
        self._heard = b""
        self._num_heard = 0
        self._is_over = False
        exchange.begin(Response(200, b"", TYPE))

    def heard(self, part: bytes) -> None:
        """Answer what is whole."""
        if self._is_over:
            return
        self._heard += part
        while len(self._heard) >= 5:
            length = int.from_bytes(self._heard[1:5], "big")
            over = self._num_heard >= _MAX_QUESTIONS or self._exchange.num_unsent > _HOPELESS_BYTES
            if self._heard[0] or length > _MAX_QUESTION_BYTES or over:
                self._refuse()
                return
            if len(self._heard) < 5 + length:
                return
            content, self._heard = self._heard[5 : 5 + length], self._heard[5 + length :]
            self._num_heard += 1
            try:
                asked = self._request.FromString(content)
            except DecodeError:
                self._refuse()
                return
            self._exchange.push(framed(self._answer(asked)))

    @property
    def num_kept(self) -> int:
        """Bytes of a question that is not whole yet."""
        return len(self._heard)

    def heard_all(self) -> None:
        """No more questions."""
        self._end(_INVALID if self._heard else OK)

    def stop(self) -> None:
        """No more answers."""
        self._end(_STOPPING)

    def end(self, code: GrpcStatus, why: str) -> None:
        """No more answers, and why."""
        self._end(trailers_of(code, why))

    def _refuse(self) -> None:
        self._end(_INVALID)

    def _end(self, trailers: Fields) -> None:
        self._heard, self._is_over = b"", True
        self._exchange.finish(trailers)
        self._on_over(self)


class Watchers:
    """Those who want to hear whenever the state of a service changes (``Health/Watch``)."""

    def __init__(self, status_of: Callable[[str], int]) -> None:
        self._status_of = status_of
        self._said: dict[Streaming, tuple[str, int]] = {}

    def add(self, service: str, exchange: Streaming) -> None:
        """Tell one the state now, and each change from now on."""
        if len(self._said) >= _MAX_WATCHERS:
            raise TooManyWatchers("Too many watch the health of this replica.", next_action="Use Health/Check.")
        status = self._status_of(service)
        self._said[exchange] = service, status
        exchange.on_cut = lambda: self._said.pop(exchange, None) and None
        exchange.begin(Response(200, framed(health_pb2.HealthCheckResponse(status=status)), TYPE))

    def look(self) -> None:
        """Tell what has changed. Called about once a second."""
        for exchange, (service, said) in list(self._said.items()):
            status = self._status_of(service)
            if status != said and exchange.num_unsent <= _HOPELESS_BYTES:
                self._said[exchange] = service, status
                exchange.push(framed(health_pb2.HealthCheckResponse(status=status)))

    def end(self) -> None:
        """Tell all that nothing is served any more, and that this is the end: who waits for them would wait for ever."""
        for exchange in list(self._said):
            exchange.push(framed(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)))
            exchange.finish(_STOPPING)
        self._said.clear()


def reflected(asked: Any) -> Any:
    """The answer to one ``ServerReflectionRequest``."""
    answer = reflection_pb2.ServerReflectionResponse(valid_host=asked.host, original_request=asked)
    kind = asked.WhichOneof("message_request")
    pool = descriptor_pool.Default()
    try:
        if kind == "list_services":
            for name in _SERVICES:
                answer.list_services_response.service.add(name=name)
            return answer
        if kind == "file_by_filename":
            found = pool.FindFileByName(asked.file_by_filename)
        elif kind == "file_containing_symbol":
            found = pool.FindFileContainingSymbol(asked.file_containing_symbol)
        else:
            raise KeyError(kind)
    except KeyError:
        answer.error_response.error_code = GrpcStatus.NOT_FOUND
        answer.error_response.error_message = f"There is nothing of that name: {kind}."
        return answer
    described = descriptor_pb2.FileDescriptorProto()
    found.CopyToProto(described)
    answer.file_descriptor_response.file_descriptor_proto.append(described.SerializeToString())
    return answer
