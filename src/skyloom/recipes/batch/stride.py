"""How many rows go through the model at once, and on how many threads: measured for a second on the first rows, not guessed."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from skyloom.inference.model import Model
from skyloom.inference.tensors import Array

_SIZES = (32, 8, 128, 512, 2_048, 1)  # the likely ones first: little work leaves no time for many
_TRY_S, _SHORTEST_TRY_S, _TRIES = 0.04, 0.004, 2
_LONGEST_S, _SHARE = 2.0, 0.03  # of the whole work
_TRIES_OF_ALL = 16  # so many at most are to fit into that
_CLEARLY = 1.15  # fewer workers must be this much faster: reading and writing want the cores too
_WORSE = 0.8  # two sizes in a row that are slower than this share of the best end the search
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


def measure(
    load: Load, rows: Sequence[Array], cpus: float, num_rows: int, clock: Callable[[], float] = time.perf_counter
) -> Stride:
    """Try the ways to share the cores and a few batch sizes on real rows, for a thirtieth of the work and two seconds at most.

    Args:
        num_rows: of the whole work.
        load: loads the model for so many threads.
        rows: as the model takes them; batches larger than these are not tried.
    """
    cores = max(1, math.floor(cpus + 1e-6))
    best: Stride | None = None
    for workers, threads in dict.fromkeys(((cores, 1), (1, cores))):
        models = [load(threads) for _ in range(workers)]
        begun = clock()
        # What is best for one thread tells where to look with several.
        sizes = _SIZES if best is None else (best.batch, 4 * best.batch)
        for tried in _sizes(models, rows, threads, sizes, num_rows / cores, clock):
            if best is None or tried.rows_per_s > best.rows_per_s * (_CLEARLY if tried.workers < best.workers else 1.0):
                best = tried
            if clock() - begun > min(_LONGEST_S, _SHARE * num_rows / best.rows_per_s) / 2:
                break
    assert best is not None, "the first size is always tried"
    return best


def _sizes(
    models: Sequence[Model],
    rows: Sequence[Array],
    threads: int,
    sizes: Sequence[int],
    rows_a_core: float,
    clock: Callable[[], float],
) -> Iterator[Stride]:
    """The sizes that there are rows for, until two in a row do not pay."""
    best, worse = 0.0, 0
    begun = clock()
    models[0].run([tensor[:1] for tensor in rows])
    row_s = max(clock() - begun, 1e-6)
    most = max(1, min(len(rows[0]), int(_LONGEST_S / 2 / row_s)))
    try_s = min(_TRY_S, max(_SHORTEST_TRY_S, rows_a_core * row_s * _SHARE / _TRIES_OF_ALL))
    for size in [size for size in sizes if size <= most]:
        some = [tensor[:size] for tensor in rows]
        rate = max(_together([_loop(model, some, try_s, clock) for model in models]) for _ in range(_TRIES))
        yield Stride(workers=len(models), threads=threads, batch=size, rows_per_s=rate)
        worse = worse + 1 if rate < _WORSE * best else 0
        if worse == 2:
            return
        best = max(best, rate)


def _loop(model: Model, rows: Sequence[Array], try_s: float, clock: Callable[[], float]) -> Callable[[], float]:
    """Runs a model for a moment; returns rows per second."""

    def run() -> float:
        model.run(rows)  # a new shape costs once
        begun, count = clock(), 0
        while not count or clock() - begun < try_s:
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
