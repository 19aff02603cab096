"""How long requests wait and how long the model works, counted as the protocol's statistics extension words it. Numbers only grow."""

import time
from typing import NamedTuple

import msgspec

_MAX_SIZES = 1_024  # sizes of batches that are told apart


class BatchTimes(NamedTuple):
    """One batch on its way through the model.

    Attributes:
        requests, rows: what travelled together.
        arrived_s: the requests' arrivals, added up, on the performance counter; so are the other moments.
        taken_at: they left the queue.
        join_s: putting their rows together.
        infer_s: the model's own time.
        done_at: all were answered or logged.
    """

    requests: int
    rows: int
    arrived_s: float
    taken_at: float
    join_s: float
    infer_s: float
    done_at: float


class StatisticDuration(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened, and how long all of it took together."""

    count: int = 0
    ns: int = 0


class InferStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Durations by part of the way, each counted once a request."""

    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration = StatisticDuration()
    cache_miss: StatisticDuration = StatisticDuration()


class BatchStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of all batches of one size, each counted once a batch."""

    batch_size: int
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class ModelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the answer of ``GET /v2/models/stats``.

    Attributes:
        last_inference: milliseconds since 1970; 0 before the first.
        inference_count: rows that were predicted.
        execution_count: batches that the model ran.
    """

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    batch_stats: tuple[BatchStatistics, ...]
    memory_usage: tuple[str, ...] = ()
    response_stats: dict[str, str] = {}


class Timekeeper:
    """Adds up what batches took. Lives on the event loop."""

    def __init__(self) -> None:
        self._rows = self._batches = self._successes = self._failures = 0
        self._success_s = self._fail_s = self._queue_s = 0.0
        self._parts_s = [0.0, 0.0, 0.0]
        self._by_rows: dict[int, list[float]] = {}
        self._last_at = self._again_s = 0.0
        self._again = self._in_vain = 0

    def ran(self, batch: BatchTimes, failed: bool) -> None:
        """Count a batch; one that goes again in parts is counted only as these."""
        requests, rows, arrived_s, taken_at, join_s, infer_s, done_at = batch
        took_s = requests * done_at - arrived_s
        if failed:
            self._failures += requests
            self._fail_s += took_s
            return
        output_s = max(done_at - taken_at - join_s - infer_s, 0.0)
        self._successes += requests
        self._success_s += took_s
        self._queue_s += requests * taken_at - arrived_s
        parts = self._parts_s
        parts[0] += requests * join_s
        parts[1] += requests * infer_s
        parts[2] += requests * output_s
        self._rows += rows
        self._batches += 1
        self._last_at = done_at
        size = self._by_rows.get(rows)
        if size is None:
            if len(self._by_rows) >= _MAX_SIZES:
                return
            size = self._by_rows[rows] = [0.0, 0.0, 0.0, 0.0]
        size[0] += 1
        size[1] += join_s
        size[2] += infer_s
        size[3] += output_s

    def gave_again(self, took_s: float) -> None:
        """Count a request that was answered by what the model had said before."""
        self._successes += 1
        self._success_s += took_s
        self._again += 1
        self._again_s += took_s
        self._last_at = time.perf_counter()

    def asked_in_vain(self) -> None:
        """Count a request that nothing was kept for."""
        self._in_vain += 1

    def snapshot(self, name: str, version: str) -> ModelStatistics:
        """All of it, now."""
        last_s = time.time() - (time.perf_counter() - self._last_at) if self._last_at else 0.0
        count, asked = self._successes, self._successes - self._again
        return ModelStatistics(
            name=name,
            version=version,
            last_inference=int(last_s * 1e3),
            inference_count=self._rows,
            execution_count=self._batches,
            inference_stats=InferStatistics(
                success=_duration(count, self._success_s),
                fail=_duration(self._failures, self._fail_s),
                queue=_duration(asked, self._queue_s),
                compute_input=_duration(asked, self._parts_s[0]),
                compute_infer=_duration(asked, self._parts_s[1]),
                compute_output=_duration(asked, self._parts_s[2]),
                cache_hit=_duration(self._again, self._again_s),
                cache_miss=_duration(self._in_vain, 0.0),
            ),
            batch_stats=tuple(
                BatchStatistics(
                    batch_size=rows,
                    compute_input=_duration(int(times[0]), times[1]),
                    compute_infer=_duration(int(times[0]), times[2]),
                    compute_output=_duration(int(times[0]), times[3]),
                )
                for rows, times in sorted(self._by_rows.items())
            ),
        )


def _duration(count: int, duration_s: float) -> StatisticDuration:
    return StatisticDuration(count=count, ns=max(int(duration_s * 1e9), 0))
