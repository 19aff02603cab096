"""Health as gRPC asks for it (grpc.health.v1), without protobuf: one field each way. The gateway serves until it stops."""

from skyloom.inference.gateway.words import GRPC, call_failed
from skyloom.inference.wire.messages import Fields, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import GrpcStatus

_SERVING, _NOT_SERVING = b"\x00\x00\x00\x00\x02\x08\x01", b"\x00\x00\x00\x00\x02\x08\x02"
_STOPPING: Fields = ((b"grpc-status", b"%d" % GrpcStatus.UNAVAILABLE), (b"grpc-message", b"this gateway is stopping"))
_SERVICE = "inference.GRPCInferenceService"
_MAX_WATCHERS = 1_024


def is_known_service(body: bytes, model: str) -> bool:
    """True when a ``HealthCheckRequest`` asks for the server, its service or its model. Its one field is a short string."""
    message = body[5:]
    if not message:
        return True
    name = message[2:]
    return message[0] == 0x0A and message[1:2] == bytes((len(name) & 0xFF,)) and name in _names(model)


def _names(model: str) -> tuple[bytes, ...]:
    return b"", _SERVICE.encode(), model.encode()


class Watching:
    """Those who want to hear when it is over."""

    def __init__(self) -> None:
        self._watchers: set[Streaming] = set()

    def add(self, exchange: Streaming) -> None:
        """Say that all is well, and remember who asked."""
        if len(self._watchers) >= _MAX_WATCHERS:
            exchange.answer(call_failed(GrpcStatus.RESOURCE_EXHAUSTED, "Too many watch. Use Health/Check."))
            return
        self._watchers.add(exchange)
        exchange.on_cut = lambda: self._watchers.discard(exchange)
        exchange.begin(Response(200, _SERVING, GRPC))

    def end(self) -> None:
        """Tell all that this is the end: who waits for them would wait for ever."""
        for exchange in list(self._watchers):
            exchange.push(_NOT_SERVING)
            exchange.finish(_STOPPING)
        self._watchers.clear()
