"""The pace is what was fastest, within its time."""

import threading

import numpy as np
import pytest

from skyloom.inference.model import ModelFailed
from skyloom.recipes.batch import stride as strides


class Clock:
    """Time that only models spend, each on its own thread."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._latest = 0.0

    def __call__(self) -> float:
        return getattr(self._own, "now", self._latest)

    def spend(self, duration_s: float) -> None:
        self._own.now = self() + duration_s
        self._latest = max(self._latest, self._own.now)


class Costly:
    """A model that takes ``fixed + row * rows`` seconds, with threads that help ``gain`` times."""

    def __init__(self, clock: Clock, fixed_s: float, row_s: float, gain: float) -> None:
        self._clock, self._fixed_s, self._row_s, self._gain = clock, fixed_s, row_s, gain

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        rows = len(inputs[0])
        slow = 10.0 if rows > 128 else 1.0  # a cache that overflows
        self._clock.spend((self._fixed_s + self._row_s * rows * slow) / self._gain)
        return inputs


def measured(fixed_s: float, row_s: float, gain: float, rows: int = 4_096, work: int = 10**9) -> strides.Stride:
    clock = Clock()
    return strides.measure(
        lambda threads: Costly(clock, fixed_s, row_s, gain if threads > 1 else 1.0),  # type: ignore[arg-type,return-value]
        [np.zeros((rows, 1), np.float32)],
        2.0,
        work,
        clock,
    )


def test_batches_grow_while_they_pay_and_no_further() -> None:
    assert measured(0.001, 0.00001, 1.0).batch == 128
    assert measured(0.001, 0.00001, 1.0, rows=20).batch == 8


@pytest.mark.parametrize(("gain", "workers"), [(1.0, 2), (2.1, 2), (3.0, 1)])
def test_threads_win_over_workers_only_when_they_clearly_help(gain: float, workers: int) -> None:
    pace = measured(0.001, 0.00001, gain)
    assert (pace.workers, pace.threads) == (workers, 3 - workers)


def test_one_row_that_takes_longer_than_the_budget_is_tried_alone() -> None:
    assert measured(5.0, 0.0, 1.0).batch == 1


def test_little_work_is_not_measured_for_long() -> None:
    assert measured(0.001, 0.00001, 1.0, work=100).batch == 32  # the first that is tried


def test_model_that_fails_says_so() -> None:
    class Broken:
        def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            raise ModelFailed("no", next_action="no")

    with pytest.raises(ModelFailed):
        strides.measure(lambda _: Broken(), [np.zeros((4, 1))], 2.0, 100)  # type: ignore[arg-type,return-value]
