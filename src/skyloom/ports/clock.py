"""Time, injected. Durations come from the monotonic clock, dates from the wall clock; the two are never mixed."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Thread-safe; never blocks."""

    def now(self) -> float:
        """Unix seconds. May jump when the host's clock is set: never subtract two of these to decide a lease."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward, from an unknown start that changes with each process."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class MemoryClock:
    """A clock for tests: it moves when told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, duration_s: float) -> None:
        """Move both clocks forward."""
        self._now += duration_s
