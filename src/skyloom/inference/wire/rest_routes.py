"""What a REST address is to the wire: who answers it, who may ask, and what its body may be. Each protocol brings a table of them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from skyloom.inference.wire.messages import Request, Response
from skyloom.inference.wire.site import Streaming

JSON_BODY = (b"application/json",)


def schema(name: str) -> Mapping[str, Any]:
    """A schema of the route's document by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


class RestRoute(NamedTuple):
    """One method of one address.

    Attributes:
        answer: answers a request, now or later; raises errors of ours.
        summary: one line for people.
        is_open: needs no token.
        is_inference: its answers are counted as the model's traffic.
        takes: content types of its body; ``b""`` stands for a request that names none; empty when a body means nothing.
        reads_in_place: a body of tensors behind JSON is read where it lies (`Request.in_place`).
        asks, gives: JSON Schemas of body and answer, for the route's description.
    """

    answer: Callable[[Request, Streaming], None]
    summary: str
    is_open: bool = False
    is_inference: bool = False
    takes: tuple[bytes, ...] = ()
    asks: Mapping[str, Any] | None = None
    gives: Mapping[str, Any] | None = None
    reads_in_place: bool = False


RestTable = dict[bytes, dict[bytes, RestRoute]]
"""Address → method → route."""


def at_once(answer: Callable[[Request], Response]) -> Callable[[Request, Streaming], None]:
    """An answer that is there without waiting."""
    return lambda request, exchange: exchange.answer(answer(request))
