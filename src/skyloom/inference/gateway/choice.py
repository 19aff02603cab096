"""Which revision takes a request. Pure: a route and a head in, a revision out."""

import bisect
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

from skyloom.rooms.serving.routes import EndpointRoute

_HASH_BITS = 64


class RouteSplit:
    """How one route shares its requests. Made once per table, asked for every request.

    Header rules come first, then the sticky header, then chance. Only a rule may name a revision of weight 0.
    """

    def __init__(self, route: EndpointRoute) -> None:
        known = {share.revision for share in route.shares}
        self._rules = [
            (rule.header.encode(), rule.value.encode(), rule.revision)
            for rule in route.rules
            if rule.revision in known  # a rule for what is gone would answer nobody
        ]
        self._sticky = route.sticky_header.encode()
        self._weights = [(share.revision, share.weight) for share in route.shares if share.weight > 0]
        self._ends = list(itertools.accumulate(weight for _, weight in self._weights))

    def choose(self, headers: Mapping[bytes, bytes], draw: float) -> str:
        """The revision for a request; "" when none takes any. ``draw`` is a chance in [0, 1)."""
        for name, value, revision in self._rules:
            if headers.get(name) == value:
                return revision
        if len(self._weights) <= 1:
            return self._weights[0][0] if self._weights else ""
        if self._sticky and (value := headers.get(self._sticky, b"")):
            return rendezvous(value, self._weights)
        place = bisect.bisect_right(self._ends, draw * self._ends[-1])
        return self._weights[min(place, len(self._weights) - 1)][0]


def rendezvous(value: bytes, weights: Sequence[tuple[str, float]]) -> str:
    """The revision of a value: always the same while the weights stand, and as few values move as possible when one changes.

    Weighted highest-random-weight hashing (Thaler and Ravishankar 1998; the logarithm makes the parts equal the weights): every revision
    draws a waiting time from the value's own hash, and the shortest wins. A changed weight changes that revision's times only.
    """
    return min(weights, key=lambda each: _waiting(value, each[0]) / each[1])[0]


def _waiting(value: bytes, revision: str) -> float:
    """An exponentially distributed number that belongs to this pair."""
    digest = hashlib.blake2b(value + b"\0" + revision.encode(), digest_size=_HASH_BITS // 8).digest()
    return -math.log((int.from_bytes(digest) + 0.5) / 2.0**_HASH_BITS)
