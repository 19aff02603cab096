"""Identifiers: a noun's prefix and 128 sortable bits, for example ``job_01k9...``.

The shape is a ULID (48 bits of milliseconds, 80 random bits) in lower-case Crockford base 32, so ids sort by
the time they were made. See https://github.com/ulid/spec.
"""

import secrets
import time
from typing import Protocol

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_BODY_LENGTH = 26


class Ids(Protocol):
    """Makes identifiers. Injected wherever one is needed, so that tests can name things."""

    def new(self, prefix: str) -> str:
        """Return a fresh id that starts with ``prefix`` and an underscore. Thread-safe; never repeats."""
        ...


class RandomIds:
    """Ids for production: time-ordered, 80 random bits each."""

    def new(self, prefix: str) -> str:
        bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        return f"{prefix}_{encode(bits)}"


class CountingIds:
    """Ids for tests: 1, 2, 3, … in the order they were asked for."""

    def __init__(self) -> None:
        self._last = 0

    def new(self, prefix: str) -> str:
        self._last += 1
        return f"{prefix}_{encode(self._last)}"


def encode(bits: int) -> str:
    """Write 128 bits as 26 characters."""
    return "".join(ALPHABET[(bits >> shift) & 31] for shift in range(5 * (_BODY_LENGTH - 1), -1, -5))


def made_at(identifier: str) -> float:
    """Return when an id was made, in Unix seconds. Raises ``ValueError`` on text that is no id."""
    body = identifier.rpartition("_")[2]
    if len(body) != _BODY_LENGTH:
        raise ValueError(f"{identifier!r} is not an id")
    bits = 0
    for character in body:
        bits = bits << 5 | ALPHABET.index(character)
    return (bits >> 80) / 1000
