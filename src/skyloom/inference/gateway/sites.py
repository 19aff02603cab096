"""Who may pass: the gateway's two sites at one endpoint, before any request may wait for a replica or wake one.

Guards come in the order of `wire.rest`: Host, token, method, what can be passed on. What lies behind an address is the replica's to say.
"""

import sys
import time
import traceback
from collections.abc import Callable

import msgspec

from skyloom.core.errors import SkyloomError, Unavailable
from skyloom.inference.access import AccessList
from skyloom.inference.gateway.desk import RouteDesk
from skyloom.inference.gateway.forwarding import is_passable
from skyloom.inference.gateway.metrics import CONTENT_TYPE, render
from skyloom.inference.gateway.relay import Relay
from skyloom.inference.gateway.watching import Watching, is_known_service
from skyloom.inference.gateway.words import GRPC, call_failed, failed, refused
from skyloom.inference.wire.hosts import KnownHosts
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Listener, Streaming
from skyloom.inference.wire.status import GRPC_STATUS, GrpcStatus

_LIVE, _READY, _METRICS = b"/v2/health/live", b"/v2/health/ready", b"/metrics"
_HEALTH = frozenset({_LIVE, _READY})
_METHODS = (b"GET", b"POST")
_SERVICE = b"/inference.GRPCInferenceService/"
_CHECK, _WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
_REFLECT = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_STREAMS = frozenset({_SERVICE + b"ModelStreamInfer", _REFLECT})
_MAX_OPEN_BYTES = 2**10  # of a call that needs no token
_OPEN = frozenset({_SERVICE + b"ServerLive", _SERVICE + b"ServerReady", _CHECK, _WATCH})
_OK = ((b"grpc-status", b"0"),)
_YES = b"\x00\x00\x00\x00\x02\x08\x01"  # a message whose first field is true, or 1: live, ready, SERVING


class RouteGate:
    """What both sites of one endpoint share.

    Attributes:
        is_draining: nothing new is taken soon.
        hosts: names that a request may carry.
    """

    def __init__(self, desk: RouteDesk, access: AccessList) -> None:
        self.desk = desk
        self.access = access
        self.is_draining = False
        self._changes = 0
        self._looked = -1
        self.update(access)

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self.access.version + self._changes

    def update(self, access: AccessList) -> None:
        """The route is another one: take over who may come in, and the names that a request may carry in its Host header."""
        self.hosts = KnownHosts(self.desk.route.allowed_hosts)
        self._changes += 1
        if access is not self.access:
            self._changes += self.access.version
            self.access = access

    def look(self) -> None:
        """Turn away who waits with a token that was taken back: else a replica is woken to refuse him. Called about once a second,
        and some times a second while somebody waits."""
        if self._looked == self.epoch:
            return
        self._looked = self.epoch
        refusals: dict[bytes | None, SkyloomError | None] = {}

        def refusal(request: Request) -> SkyloomError | None:
            shown = request.head.headers.get(b"authorization")
            if shown not in refusals:
                try:
                    self.access.check(shown)
                except SkyloomError as error:
                    refusals[shown] = error
                else:
                    refusals[shown] = None
            return refusals[shown]

        self.desk.turn_away(refusal)


class GateRest:
    """The site of an endpoint's HTTP/1.1 connections."""

    def __init__(self, gate: RouteGate) -> None:
        self._gate = gate
        self._own: dict[bytes, Callable[[], Response]] = {
            _LIVE: lambda: Response(200, msgspec.json.encode({"live": True})),
            _READY: self._ready,
            _METRICS: lambda: Response(200, render(gate.desk.traffic(closes=False)), CONTENT_TYPE),
        }

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._gate.epoch

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        method, target, headers = request.head
        if not self._gate.hosts.knows(headers.get(b"host")):
            return refused(421, "The Host header names another server.")
        request.is_open = target in _HEALTH
        if not request.is_open:
            try:
                self._gate.access.check(headers.get(b"authorization"))
            except SkyloomError as error:
                return failed(error, is_call=False)
        if method not in ((b"GET",) if target in self._own else _METHODS):
            allowed = b"GET" if target in self._own else b"GET, POST"
            return refused(405, f"Use {allowed.decode()} here.", ((b"allow", allowed),))
        if headers.get(b"content-type", b"").startswith(GRPC):
            return refused(415, "gRPC has a port of its own.")  # behind the gateway this type means a call
        if not is_passable(request.head):
            return refused(400, "The headers cannot be passed on.")
        return None

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer what is the gateway's own; bring the rest to a replica."""
        own = self._own.get(request.head.target)
        if own is not None:
            exchange.answer(own())
            return
        try:
            self._gate.desk.take(request, exchange, is_call=False)
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            exchange.answer(refused(500, "The gateway made a mistake."))

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """Bodies are passed on whole."""
        return None

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return refused(status, message)

    def _ready(self) -> Response:
        """It takes requests, even while all replicas sleep: the first one wakes them."""
        if not self._gate.is_draining:
            return Response(200, msgspec.json.encode({"ready": True}))
        error = Unavailable("The gateway takes no requests.", next_action="Send again: another one answers.")
        return failed(error, is_call=False)


class GateCalls:
    """The site of an endpoint's HTTP/2 connections: every message is brought to a replica as a call of its own.

    Args:
        max_bytes: of one message in a stream.
    """

    def __init__(self, gate: RouteGate, max_bytes: int) -> None:
        self._gate = gate
        self._max_bytes = max_bytes
        self._watching = Watching()
        self._relays: dict[Relay, bytes | None] = {}  # those that are open, and the token they showed
        self._epoch = gate.epoch

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._gate.epoch

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        method, target, headers = request.head
        if method != b"POST" or not headers.get(b"content-type", b"").startswith(GRPC):
            return Response(415, b"This port speaks gRPC.", b"text/plain")
        if target in _OPEN:
            request.is_open, request.max_bytes = True, _MAX_OPEN_BYTES
        else:
            try:
                self._gate.access.check(headers.get(b"authorization"))
            except SkyloomError as error:
                return failed(error, is_call=True)
        if not is_passable(request.head):
            return call_failed(GrpcStatus.INVALID_ARGUMENT, "The headers cannot be passed on.")
        return None

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer what is the gateway's own; bring the rest to a replica."""
        target = request.head.target
        if target not in _OPEN:
            self._take(request, exchange)
        elif target in (_CHECK, _WATCH) and not is_known_service(request.body, self._gate.desk.route.model):
            exchange.answer(call_failed(GrpcStatus.NOT_FOUND, "There is no such service."))
        elif target == _WATCH:
            self._watching.add(exchange)
        elif self._gate.is_draining and target != _SERVICE + b"ServerLive":
            exchange.answer(call_failed(GrpcStatus.UNAVAILABLE, "The gateway takes no requests."))
        else:
            exchange.answer(Response(200, _YES, GRPC, trailers=_OK))

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """Streams are passed on message by message; all other calls are whole."""
        if request.head.target not in _STREAMS:
            return None
        relay = Relay(self._gate.desk, request.head, exchange, self._max_bytes, time.perf_counter, self._is_over)
        self._relays[relay] = request.head.headers.get(b"authorization")
        return relay

    def look(self) -> None:
        """End streams whose token was taken back, and what they asked. Called about once a second."""
        if self._epoch == self._gate.epoch:
            return
        self._epoch = self._gate.epoch
        for relay, shown in list(self._relays.items()):
            try:
                self._gate.access.check(shown)
            except SkyloomError as error:
                relay.end(GRPC_STATUS[error.category], str(error))

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return refused(status, message, is_call=True)

    def _take(self, request: Request, exchange: Streaming) -> None:
        try:
            self._gate.desk.take(request, exchange, is_call=True)
        except Exception:  # a defect of ours; the client gets an answer and no detail
            traceback.print_exc(file=sys.stderr)
            exchange.answer(call_failed(GrpcStatus.INTERNAL, "The gateway made a mistake."))

    def _is_over(self, relay: Relay) -> None:
        self._relays.pop(relay, None)

    def drain(self) -> None:
        """End the calls that would never end by themselves."""
        self._watching.end()
        for relay in list(self._relays):
            relay.stop()
