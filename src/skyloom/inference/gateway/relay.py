"""A conversation over gRPC whose every message is answered by itself (reflection): each is brought to a replica as a call of its own.

So a replica needs no stream from the gateway, and the gateway needs to understand none of the messages.
"""

from collections import deque
from collections.abc import Callable

from skyloom.inference.gateway.desk import RouteDesk
from skyloom.inference.gateway.words import GRPC
from skyloom.inference.wire.messages import Fields, Head, Request, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import GrpcStatus

REFLECT = b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_MAX_QUESTION_BYTES = 4_096
_MAX_QUESTIONS = 1_000
_HOPELESS_BYTES = 2**17
_OK: Fields = ((b"grpc-status", b"0"),)
_INVALID: Fields = ((b"grpc-status", b"%d" % GrpcStatus.INVALID_ARGUMENT),)


class Relay:
    """Hears messages one by one (`Listener`); asks for each when the one before is answered. What is too long or too much ends it.

    Args:
        clock: seconds, as `Request.arrived_at` has them.
    """

    wants_more = True  # what is too much ends it

    def __init__(self, desk: RouteDesk, head: Head, exchange: Streaming, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._head = head
        self._exchange = exchange
        self._clock = clock
        self._heard = b""
        self._waiting: deque[bytes] = deque()
        self._asked: RelayedQuestion | None = None
        self._num_heard = 0
        self._is_ending = self._is_over = False
        exchange.on_cut = self._cut
        exchange.begin(Response(200, b"", GRPC))

    @property
    def num_kept(self) -> int:
        """Bytes of questions that wait."""
        return len(self._heard) + sum(map(len, self._waiting))

    def heard(self, part: bytes) -> None:
        """Take what is whole."""
        if self._is_over:
            return
        self._heard += part
        while len(self._heard) >= 5:
            length = int.from_bytes(self._heard[1:5], "big")
            over = self._num_heard >= _MAX_QUESTIONS or self._exchange.num_unsent > _HOPELESS_BYTES
            if self._heard[0] or length > _MAX_QUESTION_BYTES or over:
                self._end(_INVALID)
                return
            if len(self._heard) < 5 + length:
                return
            question, self._heard = self._heard[: 5 + length], self._heard[5 + length :]
            self._num_heard += 1
            self._waiting.append(question)
        self._ask_next()

    def heard_all(self) -> None:
        """No more questions; those that wait are still answered."""
        self._is_ending = True
        self._ask_next()

    def answered(self, response: Response) -> None:
        """The question that was asked has its answer, or its status says why not."""
        self._asked = None
        status = dict((*response.headers, *response.trailers)).get(b"grpc-status")
        if status == b"0" and response.body:
            self._exchange.push(response.body)
            self._ask_next()
        else:
            self._end(tuple(field for field in response.headers if field[0].startswith(b"grpc-")))

    def _ask_next(self) -> None:
        if self._is_over or self._asked is not None:
            return
        if self._waiting:
            request = Request(self._head)
            request.body, request.arrived_at = self._waiting.popleft(), self._clock()
            self._asked = RelayedQuestion(self)
            self._desk.take(request, self._asked, is_call=True)
        elif self._is_ending:
            self._end(_INVALID if self._heard else _OK)

    def _end(self, trailers: Fields) -> None:
        self._heard, self._is_over = b"", True
        self._waiting.clear()
        self._exchange.finish(trailers)

    def _cut(self) -> None:
        self._is_over = True
        self._waiting.clear()
        if self._asked is not None and self._asked.on_cut is not None:
            self._asked.on_cut()


class RelayedQuestion:
    """Waits for the answer to one message; a `Streaming` exchange. Calls are answered whole, so it has no parts."""

    num_unsent = 0

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.on_cut: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None

    def answer(self, response: Response) -> None:
        """Pass it on."""
        self.on_cut = None
        self._relay.answered(response)

    def begin(self, response: Response) -> None:
        """An answer in parts is none to a question of one message."""
        self.answer(Response(200, b"", GRPC, ((b"grpc-status", b"%d" % GrpcStatus.INTERNAL),)))

    def push(self, part: bytes) -> None:
        """Dropped."""

    def finish(self, trailers: Fields = ()) -> None:
        """Nothing waits any more."""

    def break_off(self) -> None:
        """Nothing waits any more."""

    def resume(self) -> None:
        """It has one message, which is there."""
