"""What was seen of an endpoint's load: sums for each second of a ring, and averages for each minute of the last days. Bounded memory.

It knows no clock. Moments come with the samples; a clock that is set back makes it begin anew, as after a restart, and so does one that
jumps ahead: what was not seen is not known.
"""

from array import array
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from skyloom.rooms.serving.scaling import Autoscaling, LoadSample, ScaleSignal

_STEP_BACK_S = 5.0  # a clock that is corrected by less is only late
_GAP_S = 15.0  # silence that is longer is time that nobody saw
_DAY_MIN = 1_440
_MIN_S = 60


class LoadMean(NamedTuple):
    """An average: of the signal, and of the requests a second; and how many seconds of the stretch were seen."""

    value: float
    rate: float
    seen_s: float


class LoadMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in each minute of the last days, to be kept over a restart: some 6 kB a day.

    Attributes:
        signal: of what.
        minute: the newest one, in minutes since 1970.
        means: of the minutes up to it, the oldest first, as float32; below zero where nobody looked.
    """

    signal: ScaleSignal
    minute: Annotated[int, Meta(ge=0, le=2**40)]
    means: Annotated[bytes, Meta(max_length=4 * 40 * _DAY_MIN)]


class LoadHistory:
    """The load of one endpoint by one signal. Not thread-safe.

    Attributes:
        lead_s: how long a replica takes to answer from the decision on, as measured.
        newest: the newest sample.
    """

    def __init__(self, signal: ScaleSignal, window_s: float, num_days: int = 0) -> None:
        self._signal = signal
        self._size = int(window_s) + 2
        # For each second, totals from the beginning on; a stretch is the difference of two of them.
        self._sums: list[tuple[float, float, float, float]] = [(0.0, 0.0, 0.0, 0.0)] * self._size
        self._first = self._last = 0  # seconds
        self._busy_at = self._seen_since = 0.0
        self._minutes = array("f", [-1.0]) * ((num_days + 1) * _DAY_MIN if num_days else 0)
        self._minute, self._minute_sum, self._minute_s = -1, 0.0, 0.0
        self.newest: LoadSample | None = None
        self.lead_s = 1.0

    @classmethod
    def of(cls, scaling: Autoscaling) -> "LoadHistory":
        """A load with the memory that a policy needs."""
        return cls(scaling.signal, scaling.window_s, scaling.foresight.num_days if scaling.foresight else 0)

    def add(self, sample: LoadSample) -> None:
        """Take a sample; they come in order of time."""
        at, span_s = sample.at, max(sample.span_s, 0.0)
        newest = self.newest
        if newest is not None and newest.at - _STEP_BACK_S <= at < newest.at:
            at = newest.at
        if newest is None or at < newest.at or at - span_s > newest.at + _GAP_S:
            self._begin(at, span_s)
        value, weight = self._valued(sample)
        self._advance(int(at))
        seen_s, total, weights, arrived = self._sums[self._last % self._size]
        now = (seen_s + span_s, total + value * weight, weights + weight, arrived + sample.arrived)
        self._sums[self._last % self._size] = now
        if sample.arrived or sample.held or sample.concurrency > 0:
            self._busy_at = at
        if self._minutes:
            self._remember(int(at) // _MIN_S, value * span_s, span_s)
        self.newest = sample if at == sample.at else _moved(sample, at)

    def mean(self, now: float, over_s: float) -> LoadMean:
        """The average over the last so many seconds, of that part of them which was seen."""
        if self.newest is None:
            return LoadMean(0.0, 0.0, 0.0)
        end = self._last
        start = int(max(now, self.newest.at)) - round(over_s)
        if start >= end:
            return LoadMean(0.0, 0.0, 0.0)
        oldest = max(self._first, end - self._size + 1)
        before = (0.0, 0.0, 0.0, 0.0) if start < self._first else self._sums[max(start, oldest) % self._size]
        seen_s, total, weights, arrived = (
            late - early for late, early in zip(self._sums[end % self._size], before, strict=True)
        )
        return LoadMean(total / weights if weights > 0 else 0.0, arrived / seen_s if seen_s > 0 else 0.0, seen_s)

    @property
    def quiet_s(self) -> float:
        """For how long it was seen, up to the newest sample, that nobody asked. What nobody reports is no quiet."""
        if self.newest is None:
            return 0.0
        return max(0.0, self.newest.at - max(self._busy_at, self._seen_since))

    def same_time(self, start: float, end: float, same_weekday: bool) -> Sequence[float]:
        """What the minutes between two moments (at most an hour apart) saw on earlier days: one value a day, the highest of its minutes."""
        num_days = len(self._minutes) // _DAY_MIN  # one more than is looked at: today
        days = {back: self._highest(start, end, back) for back in range(1, num_days)}
        known = {back: value for back, value in days.items() if value >= 0}
        weekly = [value for back, value in known.items() if back % 7 == 0]
        return weekly if same_weekday and weekly else list(known.values())

    @property
    def memory(self) -> LoadMemory | None:
        """The minutes that it knows of; None when it looks at no earlier days, or has seen nothing."""
        size = len(self._minutes)
        if not size or self._minute < 0:
            return None
        after = (self._minute + 1) % size
        return LoadMemory(
            signal=self._signal, minute=self._minute, means=(self._minutes[after:] + self._minutes[:after]).tobytes()
        )

    def recall(self, memory: LoadMemory) -> None:
        """Take over what was known before; of another signal, nothing. To be called before the first sample."""
        size = len(self._minutes)
        if memory.signal is not self._signal or not size or len(memory.means) % 4:
            return
        means = array("f", memory.means)[-size:]
        for place, value in enumerate(means):
            self._minutes[(memory.minute - len(means) + 1 + place) % size] = value
        self._minute = memory.minute

    def _begin(self, at: float, span_s: float) -> None:
        self._first = self._last = int(at)
        self._sums[self._last % self._size] = (0.0, 0.0, 0.0, 0.0)
        self._seen_since = self._busy_at = at - span_s

    def _advance(self, second: int) -> None:
        sums = self._sums[self._last % self._size]
        for passed in range(max(self._last + 1, second - self._size + 1), second + 1):
            self._sums[passed % self._size] = sums
        self._last = max(self._last, second)

    def _valued(self, sample: LoadSample) -> tuple[float, float]:
        """The signal of a sample, of all replicas together, and how much it counts."""
        span_s = max(sample.span_s, 0.0)
        match self._signal:
            case ScaleSignal.CONCURRENCY:
                return sample.concurrency, span_s
            case ScaleSignal.RATE:
                return (sample.arrived / span_s if span_s else 0.0), span_s
            case ScaleSignal.UTILISATION:
                return sample.utilisation * sample.replicas, span_s
            case ScaleSignal.GPU:
                # Nobody there is no work; somebody who does not say how busy it is tells nothing.
                known = sample.gpu is not None or not sample.replicas
                return (sample.gpu or 0.0) * sample.replicas, span_s if known else 0.0
            case ScaleSignal.QUEUE_DELAY:
                return max(sample.queue_delay_s, sample.oldest_held_s if sample.held else 0.0), span_s
        if sample.latency_s is None and not sample.held:
            return 0.0, 0.0
        return max(sample.latency_s or 0.0, sample.oldest_held_s if sample.held else 0.0), max(sample.arrived, 1)

    def _remember(self, minute: int, total: float, span_s: float) -> None:
        if minute != self._minute:
            size = len(self._minutes)
            if 0 <= self._minute < minute:  # minutes that nobody saw are not those of a round before
                for passed in range(self._minute + 1, min(minute, self._minute + size) + 1):
                    self._minutes[passed % size] = -1.0
            self._minute, self._minute_sum, self._minute_s = minute, 0.0, 0.0
        self._minute_sum += total
        self._minute_s += span_s
        if self._minute_s > 0:
            self._minutes[minute % len(self._minutes)] = self._minute_sum / self._minute_s

    def _highest(self, start: float, end: float, days_back: int) -> float:
        first = int(start) // _MIN_S - days_back * _DAY_MIN
        last = min(int(end) // _MIN_S - days_back * _DAY_MIN, first + _MIN_S)
        oldest = self._minute - len(self._minutes)
        return max(
            (
                self._minutes[minute % len(self._minutes)]
                for minute in range(first, last + 1)
                if oldest < minute < self._minute
            ),
            default=-1.0,
        )


def _moved(sample: LoadSample, at: float) -> LoadSample:
    return msgspec.structs.replace(sample, at=at)
