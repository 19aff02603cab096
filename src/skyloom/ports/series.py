"""Series: measurements over steps and time, outside the decision database.

A *track* is an id that measurements belong to: a run, an endpoint. Every point has a name ("train/loss"), a step, a time and a value.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One measurement. ``at`` is Unix seconds. NaN and infinities are stored, sent and read back as None (null)."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    step: Annotated[int, Meta(ge=0, le=2**53)]
    at: float
    value: float | None


class Series(Protocol):
    """Append-only measurements. Thread-safe."""

    def append(self, track: str, source: str, sequence: int, points: Sequence[Point]) -> bool:
        """Add points; durable against a crash of this process when it returns, on disk within a second.

        ``sequence`` counts the batches of one ``source`` from 1: a batch seen before is dropped and False is returned, so a sender
        may always send again. Raises `StorageFull`.
        """
        ...

    def points(self, track: str, name: str | None = None, *, after_step: int = -1, limit: int = 10_000) -> list[Point]:
        """Return points in the order they came, of one name or of all. Empty for an unknown track."""
        ...

    def latest(self, track: str) -> dict[str, Point]:
        """The newest point of every name, by step and then by arrival."""
        ...

    def close(self) -> None:
        """Write out what is buffered."""
        ...
