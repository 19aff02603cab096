"""How long batches take, and how many rows travel best together: measured when a model is loaded, learnt while it serves.

Larger batches save what every call costs, and lose what no longer fits into the caches; where the two meet depends on the model and on the
machine. A network of small matrices gains up to hundreds of rows, a sentence model up to eight, a convolution network loses from two on.

A model that computes on the thread that calls it is measured in that thread's CPU time: seconds on the wall would say how busy the machine
was while it was loaded, and one batch that had to wait for its core would look several times as dear as the next size.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol, Self

_GAIN = 0.95  # a larger batch must take less than this for each row to be worth the others' waiting
_RUNS = 4
_LONG_S = 0.02  # a batch that takes longer is timed once
_PROBE_EVERY = 32  # full batches
_LEARN = 0.05
_SLOWEST = 50.0
_LEARN_CURVE = 0.1
_DEAREST = 1.5  # one batch that was held up moves the curve by less than what decides (`_GAIN`)


class Rehearsal(Protocol):
    """What `Pace.measure` times."""

    def __call__(self, rows: int) -> Callable[[], object]:
        """Prepare a batch of so many rows; calling the answer runs it."""
        ...


class Pace:
    """The cost of batches: a curve over their rows, in seconds of work, stretched to the seconds on the wall that are seen now.

    Args:
        curve: rows → seconds, for powers of two from 1 on.
        max_rows: no batch is to be larger.
    """

    def __init__(self, curve: Mapping[int, float], max_rows: int = 256) -> None:
        self._curve = {rows: max(seconds, 1e-7) for rows, seconds in curve.items()}
        self._max_rows = max_rows
        self._stretch = 1.0
        self._apart_s = 0.0  # what a batch costs beside the model
        self._num_full = 0
        self.limit = 1
        self._fixed_s = self._row_s = 0.0
        self._settle()

    @classmethod
    def measure(
        cls,
        rehearsal: Rehearsal,
        max_rows: int = 256,
        budget_s: float = 0.3,
        clock: Callable[[], float] = time.perf_counter,
        work: Callable[[], float] | None = None,
    ) -> Self:
        """Time batches of 1, 2, 4, … rows for as long as they get cheaper by the row, and not for much longer than ``budget_s`` on the
        ``clock``. ``work`` counts what a batch costs (`Model.work_clock`); None: the clock does."""
        curve: dict[int, float] = {}
        cheapest, rows, began = float("inf"), 1, clock()
        while rows <= max_rows and (rows <= 2 or clock() - began < budget_s):
            curve[rows] = _timed(rehearsal(rows), clock, work or clock)
            if rows > 2 and curve[rows] / rows > cheapest / _GAIN:
                break
            cheapest = min(cheapest, curve[rows] / rows)
            rows *= 2
        return cls(curve, max_rows)

    @property
    def joins(self) -> bool:
        """True when rows travel cheaper together than alone."""
        return self.limit > 1

    def take(self) -> int:
        """How many rows the next batch may have. Now and then another size is tried, while there are rows enough for it."""
        step = self._num_full % _PROBE_EVERY
        if step == _PROBE_EVERY // 2 and self.joins:
            return self.limit // 2
        if step == _PROBE_EVERY - 1 and self.limit * 2 <= self._max_rows:
            return self.limit * 2
        return self.limit

    def expect_s(self, batches: int, rows: int) -> float:
        """Seconds that ``rows`` in so many batches will take."""
        return self._stretch * (batches * self._fixed_s + rows * self._row_s)

    def saw(self, rows: int, duration_s: float, work_s: float | None = None) -> None:
        """Learn from one batch: how long it took, and what it cost where that is counted apart."""
        seen = duration_s / max(self._fixed_s + rows * self._row_s, 1e-9)
        self._stretch += _LEARN * (min(seen, _SLOWEST) - self._stretch)
        if rows in (self.limit // 2, self.limit, self.limit * 2):
            self._num_full += 1
            usual_s = duration_s / max(self._stretch, 1e-9) if work_s is None else max(work_s, 1e-7)
            known_s = self._curve.get(rows, usual_s)
            self._curve[rows] = known_s + _LEARN_CURVE * (min(usual_s, _DEAREST * known_s) - known_s)
            self._settle()

    def answered(self, work_s: float) -> None:
        """Learn what a batch of one request cost beside the model: its log line, its answer, its turn of the loop. Larger ones share it."""
        self._apart_s += _LEARN_CURVE * (work_s - self._apart_s)

    def _settle(self) -> None:
        """Choose the smallest batch that no other beats clearly, and the line through it that expectations follow."""
        apart_s, max_rows = self._apart_s, self._max_rows
        each = {rows: (seconds + apart_s) / rows for rows, seconds in self._curve.items() if rows <= max_rows}
        self.limit = min(rows for rows, row_s in each.items() if row_s <= min(each.values()) / _GAIN)
        far = self.limit if self.joins else max(self._curve)
        one_s = self._curve[1]
        self._row_s = max((self._curve[far] - one_s) / (far - 1), 1e-7) if far > 1 else one_s
        self._fixed_s = max(one_s - self._row_s, 1e-6)


def _timed(run: Callable[[], object], clock: Callable[[], float], work: Callable[[], float]) -> float:
    """The cheapest of some runs; the first of each size is left out, as it finds memory and threads unprepared."""
    cheapest = float("inf")
    for number in range(_RUNS + 1):
        began, before = clock(), work()
        run()
        work_s, duration_s = work() - before, clock() - began
        if number:
            cheapest = min(cheapest, work_s)
        if number and duration_s > _LONG_S:
            break
    return cheapest
