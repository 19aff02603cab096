"""How far it is, in one line a second: a bar, rows, rows per second, time left."""

import sys
import threading
import time
from collections.abc import Callable

_WIDTH = 20
_EVERY_S = 1.0
Say = Callable[[str], None]


def line(done: int, total: int, rows_per_s: float) -> str:
    """One line of progress."""
    share = done / total if total else 1.0
    full = int(share * _WIDTH)
    left = f"{_clock((total - done) / rows_per_s)} left" if rows_per_s > 0 else "…"
    bar = f"[{'#' * full}{'.' * (_WIDTH - full)}]"
    return f"{bar} {share:4.0%}  {done:,} of {total:,} rows  {rows_per_s:,.0f} rows/s  {left}"


def is_line(text: str) -> bool:
    """Whether a line of output is one of these, which a terminal may show in place of the last."""
    return text.startswith("[") and text[1 : 2 + _WIDTH].strip("#.") == "]"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _print(text: str) -> None:
    print(text, flush=True, file=sys.stdout)


class BatchProgress:
    """Counts rows of several threads, and says so about once a second. Rates are of this attempt: earlier rows took no time in it."""

    def __init__(self, total: int, before: int, say: Say = _print, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._before, self._say, self._clock = total, before, say, clock
        self._done, self._begun, self._due = before, clock(), clock() + _EVERY_S
        self._lock = threading.Lock()

    @property
    def rows_per_s(self) -> float:
        """Of this attempt so far."""
        return (self._done - self._before) / max(self._clock() - self._begun, 1e-9)

    @property
    def new_rows(self) -> int:
        """Rows of this attempt."""
        return self._done - self._before

    @property
    def duration_s(self) -> float:
        """Since this attempt began to predict."""
        return self._clock() - self._begun

    def add(self, rows: int) -> None:
        """So many more are done."""
        with self._lock:
            self._done += rows
            if self._clock() >= self._due or self._done == self._total:
                self._due = self._clock() + _EVERY_S
                self._say(line(self._done, self._total, self.rows_per_s))
