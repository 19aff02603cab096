"""What a replica answers behind a gateway: REST, and on the same port gRPC calls that travel as plain HTTP/1.1 requests.

A gateway speaks HTTP/2 with clients and passes a call's message on as the body of a POST. The status, which gRPC puts behind the body,
stands in the headers of a whole answer, and behind the last chunk of one in parts. A stream is asked message by message.
"""

from collections.abc import Callable

from skyloom.inference.wire.grpc_framing import TYPE, status_answer
from skyloom.inference.wire.grpc_site import GrpcSite
from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Listener, Site, Streaming
from skyloom.inference.wire.status import GrpcStatus

_WATCH = b"/grpc.health.v1.Health/Watch"


class PrivateSite:
    """What is asked by REST and what `GrpcSite` answers, on one port; a request's content type says whose it is."""

    def __init__(self, rest: Site, grpc: GrpcSite) -> None:
        self._rest = rest
        self._grpc = grpc

    @property
    def epoch(self) -> int:
        """Grows when a request that was admitted may not be admitted again."""
        return self._rest.epoch

    def admit(self, request: Request) -> Response | None:
        """Refuse by the head alone."""
        if not is_call(request):
            return self._rest.admit(request)
        if request.head.target == _WATCH:
            return status_answer(GrpcStatus.UNIMPLEMENTED, "The gateway answers for health.")
        return self._grpc.admit(request)

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer, by whom it was meant for."""
        if not is_call(request):
            self._rest.serve(request, exchange)
            return
        lifted = LiftedTrailers(exchange)
        listener = self._grpc.listener(request, lifted)
        if listener is None:
            self._grpc.serve(request, lifted)
        else:
            listener.heard(request.body)
            listener.heard_all()

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """Calls are whole messages here."""
        return None if is_call(request) else self._rest.listener(request, exchange)

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        return self._rest.refusal(status, message)


class LiftedTrailers:
    """An exchange whose whole answers have their trailers among the headers: HTTP/1.1 has no room behind a body of known length."""

    def __init__(self, exchange: Streaming) -> None:
        self._exchange = exchange
        self.begin = exchange.begin
        self.push = exchange.push
        self.finish = exchange.finish
        self.break_off = exchange.break_off
        self.resume = exchange.resume

    @property
    def on_cut(self) -> Callable[[], None] | None:
        """Called when nobody waits any more."""
        return self._exchange.on_cut

    @on_cut.setter
    def on_cut(self, call: Callable[[], None] | None) -> None:
        self._exchange.on_cut = call

    @property
    def on_room(self) -> Callable[[], None] | None:
        """Called when the client has taken what was pushed."""
        return self._exchange.on_room

    @on_room.setter
    def on_room(self, call: Callable[[], None] | None) -> None:
        self._exchange.on_room = call

    @property
    def num_unsent(self) -> int:
        """Bytes that wait for the client to take them."""
        return self._exchange.num_unsent

    def answer(self, response: Response) -> None:
        """Give the answer, once."""
        response.headers = (*response.headers, *response.trailers)
        response.trailers = ()
        self._exchange.answer(response)


def is_call(request: Request) -> bool:
    """True for a gRPC call."""
    return request.head.headers.get(b"content-type", b"").startswith(TYPE)
