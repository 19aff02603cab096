"""Series in memory: for tests, and the arithmetic that `series.local` shares."""

import math
import threading
from collections.abc import Sequence

import msgspec

from skyloom.ports.series import Point


def plain(point: Point) -> Point:
    """A point as it is stored: NaN and infinities become None."""
    if point.value is None or math.isfinite(point.value):
        return point
    return msgspec.structs.replace(point, value=None)


class Track:
    """What is known of one track without reading its points: the last batch of every source, the newest point of every name."""

    def __init__(self) -> None:
        self._sequences: dict[str, int] = {}
        self.latest: dict[str, Point] = {}

    def is_new(self, source: str, sequence: int) -> bool:
        """True for a batch that was not seen before."""
        return sequence > self._sequences.get(source, 0)

    def note(self, source: str, sequence: int, points: Sequence[Point]) -> None:
        """Remember a batch."""
        self._sequences[source] = max(sequence, self._sequences.get(source, 0))
        for point in points:
            known = self.latest.get(point.name)
            if known is None or point.step >= known.step:
                self.latest[point.name] = point


class MemorySeries:
    """Measurements that are gone when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}
        self._points: dict[str, list[Point]] = {}

    def append(self, track: str, source: str, sequence: int, points: Sequence[Point]) -> bool:
        with self._lock:
            known = self._tracks.setdefault(track, Track())
            if not known.is_new(source, sequence):
                return False
            stored = [plain(point) for point in points]
            known.note(source, sequence, stored)
            self._points.setdefault(track, []).extend(stored)
            return True

    def points(self, track: str, name: str | None = None, *, after_step: int = -1, limit: int = 10_000) -> list[Point]:
        with self._lock:
            found = (point for point in self._points.get(track, ()) if matches(point, name, after_step))
            return [point for point, _ in zip(found, range(limit), strict=False)]

    def latest(self, track: str) -> dict[str, Point]:
        with self._lock:
            return dict(self._tracks[track].latest) if track in self._tracks else {}

    def close(self) -> None:
        """Nothing is buffered."""


def matches(point: Point, name: str | None, after_step: int) -> bool:
    """True for a point that was asked for."""
    return point.step > after_step and (name is None or point.name == name)
