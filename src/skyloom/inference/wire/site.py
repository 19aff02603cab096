"""The seam between the wires and what they serve: HTTP/1.1 and HTTP/2 below it, REST and gRPC above."""

from collections.abc import Callable
from typing import Protocol

from skyloom.inference.wire.messages import Fields, Request, Response


class Exchange(Protocol):
    """A request that waits for its answer.

    Attributes:
        on_cut: called when nobody waits any more.
    """

    on_cut: Callable[[], None] | None

    def answer(self, response: Response) -> None:
        """Give the answer, once; a second one is dropped."""
        ...


class Streaming(Exchange, Protocol):
    """A request that may be answered part by part, on both wires.

    Whoever makes parts faster than the client takes them looks at `num_unsent` after a push, stops at a bound of its own, and goes on
    when `on_room` is called. A client that takes nothing is cut (`Limits.write_timeout_s`); then, as when it leaves, `on_cut` is called.

    Attributes:
        on_room: called when the client has taken what was pushed; never from inside of a push.
    """

    on_room: Callable[[], None] | None

    def begin(self, response: Response) -> None:
        """Give the head of the answer, once, and the first part of its body; more follows. Nothing after an `answer`."""
        ...

    def push(self, part: bytes) -> None:
        """Give more of the body. What the client does not take now is kept, up to 16 MiB: beyond it, the client is cut off."""
        ...

    def finish(self, trailers: Fields = ()) -> None:
        """There is no more. Over HTTP/1.1 trailers are sent behind the last chunk; HTTP/1.0 drops them."""
        ...

    def break_off(self) -> None:
        """The rest will never come: end so that the client cannot take what it has for all."""
        ...

    def resume(self) -> None:
        """The request's listener wants more again."""
        ...

    @property
    def num_unsent(self) -> int:
        """Bytes that wait for the client to take them. Who pushes without end looks at it."""
        ...


class Listener(Protocol):
    """Hears a request's body part by part, as it comes.

    Attributes:
        num_kept: bytes of it that are kept; they count as those of bodies that are not whole yet.
        wants_more: False while the client has to wait: it may still send what it has a window for. `Streaming.resume` ends the wait.
    """

    @property
    def num_kept(self) -> int: ...

    @property
    def wants_more(self) -> bool: ...

    def heard(self, part: bytes) -> None:
        """Take a part."""
        ...

    def heard_all(self) -> None:
        """There is no more."""
        ...


class Site(Protocol):
    """What a connection serves.

    Attributes:
        epoch: grows when a request that was admitted may not be admitted again.
    """

    @property
    def epoch(self) -> int: ...

    def admit(self, request: Request) -> Response | None:
        """Look at a request's head before its body is read; a `Response` refuses it."""
        ...

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer a whole request, now or later, by `Exchange.answer`, or part by part."""
        ...

    def listener(self, request: Request, exchange: Streaming) -> Listener | None:
        """Who hears an admitted request part by part; None: it is served whole. HTTP/2 asks for it."""
        ...

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        ...
