"""How many rows go through the model at once, and on how many threads: measured for a second on the first rows, not guessed."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from skyloom.inference.model import Model
from skyloom.inference.tensors import Array

_SIZES = (1, 4, 16, 64, 256, 1_024, 4_096)
_TRY_S, _BUDGET_S = 0.06, 2.0
_CLEARLY = 1.15  # fewer workers must be this much faster: reading and writing want the cores too
_WORSE = 0.9  # a size that is slower than this share of the best ends the search
Load = Callable[[int], Model]


class Stride(msgspec.Struct, frozen=True, kw_only=True):
    """How rows travel.

    Attributes:
        workers: loops that each have the model, on ``threads`` cores each.
        batch: rows that go through the model together.
        rows_per_s: of all workers, as measured.
    """

    workers: int
    threads: int
    batch: int
    rows_per_s: float


def measure(load: Load, rows: Sequence[Array], cpus: float, clock: Callable[[], float] = time.perf_counter) -> Stride:
    """Try the ways to share the cores and a few batch sizes on real rows, for two seconds at most.

    Args:
        load: loads the model for so many threads.
        rows: as the model takes them; batches larger than these are not tried.
    """
    cores, ends_at = max(1, math.floor(cpus + 1e-6)), clock() + _BUDGET_S
    best: Stride | None = None
    for workers, threads in dict.fromkeys(((cores, 1), (1, cores))):
        models = [load(threads) for _ in range(workers)]
        for tried in _sizes(models, rows, threads, clock, ends_at):
            if best is None or tried.rows_per_s > best.rows_per_s * (_CLEARLY if tried.workers < best.workers else 1.0):
                best = tried
    assert best is not None, "the first size is always tried"
    return best


def _sizes(
    models: Sequence[Model], rows: Sequence[Array], threads: int, clock: Callable[[], float], ends_at: float
) -> Iterator[Stride]:
    """Larger and larger batches until they stop paying."""
    best = 0.0
    for size in _SIZES:
        if size > len(rows[0]) or (best and clock() > ends_at):
            return
        some = [tensor[:size] for tensor in rows]
        rate = _together([_loop(model, some, clock) for model in models])
        yield Stride(workers=len(models), threads=threads, batch=size, rows_per_s=rate)
        if rate < _WORSE * best:
            return
        best = max(best, rate)


def _loop(model: Model, rows: Sequence[Array], clock: Callable[[], float]) -> Callable[[], float]:
    """Runs a model for a moment; returns rows per second."""

    def run() -> float:
        model.run(rows)  # a new shape costs once
        begun, count = clock(), 0
        while not count or clock() - begun < _TRY_S:
            model.run(rows)
            count += 1
        return count * len(rows[0]) / max(clock() - begun, 1e-9)

    return run


def _together(runs: Sequence[Callable[[], float]]) -> float:
    """The sum of what all reach at the same time. Raises what one of them raised."""
    rates, failures = [0.0] * len(runs), []

    def work(place: int) -> None:
        try:
            rates[place] = runs[place]()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(rates)
