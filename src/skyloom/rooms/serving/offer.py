"""What an endpoint offers beyond answering in turn: answers given again, and lanes for who is in a hurry. Part of a revision."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import ShortText
from skyloom.core.errors import InvalidInput

EVERYBODY = "*"


class OfferUnclear(InvalidInput):
    """What is offered cannot be meant."""


class CacheRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are given again to the same token, for exactly the same tensors, by the same revision.

    Attributes:
        size_bytes: of all answers that one replica keeps; 0 keeps none.
        ttl_s: how long one is good.
    """

    size_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 64 * 2**20
    ttl_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 60.0


class LaneRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Three lanes before the model: requests say ``priority`` 1 (first), 2 or 0 (as ever), 3 (what can wait).

    Attributes:
        urgent: names of the tokens that may say 1; ``*`` for all.
        share: of the batches that each lower lane gets at least, as long as it waits.
    """

    urgent: Annotated[tuple[ShortText, ...], Meta(max_length=100)] = ()
    share: Annotated[float, Meta(ge=0.01, le=0.25)] = 0.1


def check_offer(cache: CacheRule | None, memory_bytes: int) -> None:
    """Raise `OfferUnclear` for a cache that a replica has no memory for."""
    if cache is not None and cache.size_bytes > memory_bytes // 2:
        raise OfferUnclear(
            f"A cache of {cache.size_bytes} bytes is more than half of a replica's {memory_bytes}.",
            next_action="Ask for less (--cache), or give replicas more (--memory).",
        )
