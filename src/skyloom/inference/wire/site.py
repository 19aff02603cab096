"""The seam between the wires and what they serve: HTTP/1.1 and HTTP/2 below it, REST and gRPC above."""

from collections.abc import Callable
from typing import Protocol

from skyloom.inference.wire.messages import Request, Response


class Exchange(Protocol):
    """A request that waits for its answer.

    Attributes:
        on_cut: called when nobody waits any more.
    """

    on_cut: Callable[[], None] | None

    def answer(self, response: Response) -> None:
        """Give the answer, once; a second one is dropped."""
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

    def serve(self, request: Request, exchange: Exchange) -> None:
        """Answer a whole request, now or later, by `Exchange.answer`."""
        ...

    def refusal(self, status: int, message: str) -> Response:
        """Word an error that the wire itself found."""
        ...
