"""A stream of messages over gRPC (inferences, reflection): each is brought to a replica as a call of its own, a few at a time.

Answers come in the order of the messages. So a replica needs no stream from the gateway, a stream may outlive its replicas, and
the gateway needs to understand none of the messages.
"""

from collections import deque
from collections.abc import Callable

from skyloom.inference.gateway.desk import RouteDesk
from skyloom.inference.gateway.words import GRPC, call_failed
from skyloom.inference.wire.messages import Fields, Head, Request, Response
from skyloom.inference.wire.site import Streaming
from skyloom.inference.wire.status import GrpcStatus

_MAX_WAITING = 16
_AT_ONCE = 8
_MAX_UNSENT_BYTES = 2**18
_OK: Fields = ((b"grpc-status", b"0"),)
_INVALID: Fields = ((b"grpc-status", b"%d" % GrpcStatus.INVALID_ARGUMENT),)
_LOST: Fields = ((b"grpc-status", b"%d" % GrpcStatus.UNAVAILABLE),)
_STOPPING: Fields = (*_LOST, (b"grpc-message", b"this gateway is stopping"))


class Relay:
    """Hears messages (`Listener`). A client that sends faster than it is answered is not read meanwhile.

    Args:
        max_bytes: of one message.
        clock: seconds, as `Request.arrived_at` has them.
        on_over: called when it has ended.
    """

    def __init__(
        self,
        desk: RouteDesk,
        head: Head,
        exchange: Streaming,
        max_bytes: int,
        clock: Callable[[], float],
        on_over: Callable[["Relay"], None],
    ) -> None:
        self._desk = desk
        self._head = head
        self._exchange = exchange
        self._max_bytes = max_bytes
        self._clock = clock
        self._on_over = on_over
        self._kept = bytearray()
        self._waiting: deque[bytes] = deque()
        self._asked: deque[RelayedQuestion] = (
            deque()
        )  # in the order of their messages; the first one's answer goes to the client
        self._is_last = self._is_over = self._is_stopping = self._is_asking = False
        exchange.on_cut = self._cut
        exchange.on_room = self._go_on
        exchange.begin(Response(200, b"", GRPC))

    @property
    def num_kept(self) -> int:
        """Bytes that are kept: of messages until they are whole and asked, of answers until it is their turn."""
        return len(self._kept) + sum(map(len, self._waiting)) + self._num_ahead

    @property
    def _num_ahead(self) -> int:
        """Bytes of answers that came before those to earlier messages."""
        return sum(question.num_kept for question in self._asked)

    @property
    def wants_more(self) -> bool:
        """False while the client has to wait."""
        return len(self._waiting) < _MAX_WAITING and self._exchange.num_unsent <= _MAX_UNSENT_BYTES

    def heard(self, part: bytes) -> None:
        """Take a part of the stream."""
        if self._is_over or self._is_stopping:
            return
        self._kept += part
        while len(self._kept) >= 5:
            length = int.from_bytes(self._kept[1:5], "big")
            if self._kept[0] > 1 or length > self._max_bytes:
                self._end(_INVALID)
                return
            if len(self._kept) < 5 + length:
                break
            self._waiting.append(bytes(self._kept[: 5 + length]))
            del self._kept[: 5 + length]
        self._ask_next()

    def heard_all(self) -> None:
        """No more messages; those that wait are still answered."""
        self._is_last = True
        self._ask_next()

    def stop(self) -> None:
        """Finish what was asked, and ask nothing more."""
        self._is_stopping = True
        self._waiting.clear()
        self._ask_next()

    def end(self, code: GrpcStatus, why: str) -> None:
        """No more answers, and why; what was asked is given up."""
        self._end(call_failed(code, why).headers)

    def told(self, question: "RelayedQuestion", part: bytes) -> int:
        """A part of an answer; returns what of it could not go to the client yet."""
        if question is not self._asked[0]:
            return question.keep(part)
        self._exchange.push(part)
        return self._exchange.num_unsent

    def answered(self) -> None:
        """A message has its whole answer, or its status says why not. Whose turn it is goes to the client."""
        while self._asked and (status := self._asked[0].status) is not None:
            self._asked.popleft()
            if dict(status).get(b"grpc-status") != b"0":
                self._end(tuple(field for field in status if field[0].startswith(b"grpc-")) or _LOST)
                return
            for part in self._asked[0].take_kept() if self._asked else ():
                self._exchange.push(part)
        self._go_on()

    def _go_on(self) -> None:
        """The client took what it was sent, or an answer is whole."""
        if self._asked and self._asked[0].on_room is not None:
            self._asked[0].on_room()
        self._ask_next()
        if not self._is_over and self.wants_more:
            self._exchange.resume()

    def _ask_next(self) -> None:
        if self._is_asking:  # a message that is answered at once is one of those that are being asked
            return
        self._is_asking = True
        while not self._is_over and self._waiting and self._may_ask():
            request = Request(self._head)
            request.body, request.arrived_at = self._waiting.popleft(), self._clock()
            question = RelayedQuestion(self)
            self._asked.append(question)
            self._desk.take(request, question, is_call=True)
        self._is_asking = False
        if self._is_over or self._asked or self._waiting:
            return
        if self._is_stopping:
            self._end(_STOPPING)
        elif self._is_last:
            self._end(_INVALID if self._kept else _OK)

    def _may_ask(self) -> bool:
        """A few at a time, and fewer where answers are large."""
        return not self._asked or (len(self._asked) < _AT_ONCE and self._num_ahead <= _MAX_UNSENT_BYTES)

    def _end(self, trailers: Fields) -> None:
        self._forget()
        self._exchange.finish(trailers)

    def _cut(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Nothing more is asked, and nobody waits for what was."""
        asked, self._asked = self._asked, deque()
        self._is_over = True
        self._kept.clear()
        self._waiting.clear()
        self._on_over(self)
        for question in asked:
            if question.on_cut is not None:
                question.on_cut()


class RelayedQuestion:
    """Waits for the answer to one message; a `Streaming` exchange.

    Attributes:
        status: how the answer ended; None before.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._num_unsent = 0
        self._kept: list[bytes] = []
        self.num_kept = 0
        self.status: Fields | None = None
        self.on_cut: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None

    @property
    def num_unsent(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._num_unsent

    def keep(self, part: bytes) -> int:
        """Keep a part until it is this one's turn; returns the bytes that are kept."""
        self._kept.append(part)
        self.num_kept += len(part)
        return self.num_kept

    def take_kept(self) -> list[bytes]:
        """What was kept: it is this one's turn."""
        kept, self._kept, self.num_kept = self._kept, [], 0
        return kept

    def answer(self, response: Response) -> None:
        """A whole answer."""
        if response.body:
            self.push(response.body)
        self.finish((*response.headers, *response.trailers))

    def begin(self, response: Response) -> None:
        """An answer in parts: its head was given with the stream's."""

    def push(self, part: bytes) -> None:
        """Pass a part on."""
        self._num_unsent = self._relay.told(self, part)

    def finish(self, trailers: Fields = ()) -> None:
        """It was all."""
        self.on_cut = self.on_room = None
        self.status = trailers
        self._relay.answered()

    def break_off(self) -> None:
        """The rest is lost."""
        self.finish(_LOST)

    def resume(self) -> None:
        """Nothing: a message is asked whole."""
