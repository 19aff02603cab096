"""Pure decisions of planning: measurements and an aim become a forecast. No clock, store or job is known here."""

import math
from collections.abc import Sequence

import msgspec

from skyloom.ports.curves import Curves
from skyloom.rooms.planning import checking, predicting
from skyloom.rooms.planning.choosing import choose
from skyloom.rooms.planning.fitting import fit
from skyloom.rooms.planning.model import (
    Aim,
    Estimate,
    Forecast,
    Measurement,
    MeasurementsUnusable,
    TimeModel,
)
from skyloom.rooms.planning.terms import Load
from skyloom.rooms.planning.wording import duration

_BATCH_SIZES = 16  # tried between the smallest and the largest that was measured


def forecast(
    measurements: Sequence[Measurement],
    aim: Aim,
    curves: Curves,
    run_noise: float = 0.0,
    tried_sizes: tuple[int, ...] = (),
) -> Forecast:
    """Fit, predict every number of workers, choose. Raises `MeasurementsUnusable`, `AimUnclear`, `AimImpossible`.

    Args:
        run_noise: how much whole runs differ beyond what the measurements can show, as a share of their time.
        tried_sizes: the batch sizes to choose from; by default any between the smallest measured and the largest.
    """
    checking.check(measurements, aim)
    model = msgspec.structs.replace(fit(measurements, curves), run_noise_share=run_noise)
    if checking.needs_more(measurements, aim):
        raise _too_few(measurements, aim, model, curves)
    sizes = (tried_sizes or batch_sizes(measurements)) if model.by_batch else (0,)
    if model.by_batch and aim.base_batch_size is None:
        aim = msgspec.structs.replace(aim, base_batch_size=sizes[0])
    span = range(aim.min_workers, aim.max_workers + 1)
    predictions = tuple(_best(model, workers, sizes, aim, curves) for workers in span)
    chosen = choose(predictions, aim)
    notes = checking.notes_of(measurements, aim, chosen.workers)
    found = Forecast(chosen=chosen, predictions=predictions, model=model, aim=aim, notes=notes)
    return msgspec.structs.replace(found, notes=(*notes, *_notes_on_batch(found)))


def priced(estimate: Estimate, usd_per_worker_hour: float) -> Estimate:
    """An estimate with what all its workers cost."""
    rate = estimate.workers * usd_per_worker_hour / 3600
    return msgspec.structs.replace(estimate, cost_usd=estimate.seconds * rate, high_cost_usd=estimate.high_s * rate)


def efficiency(batch_size: int, base: int, noise_scale_rows: float) -> float:
    """How much a row of a larger batch teaches, against one of the base batch (Pollux, OSDI 2021): (φ+B₀)/(φ+B)."""
    return (noise_scale_rows + base) / (noise_scale_rows + batch_size)


def epochs_factor(found: Forecast) -> float:
    """How many times the epochs the chosen batch size needs to learn as much; 1 where the batch size never changes."""
    aim, size = found.aim, found.chosen.batch_size
    if size is None or aim.noise_scale_rows is None or aim.base_batch_size is None:
        return 1.0
    return 1 / efficiency(size, aim.base_batch_size, aim.noise_scale_rows)


def batch_sizes(measurements: Sequence[Measurement]) -> tuple[int, ...]:
    """Sizes to try: from the smallest measured to the largest, evenly in logarithms."""
    known = sorted({one.batch_size or 1 for one in measurements})
    low, high = math.log(known[0]), math.log(known[-1])
    steps = (low + (high - low) * place / (_BATCH_SIZES - 1) for place in range(_BATCH_SIZES))
    return tuple(sorted({*known, *(round(math.exp(step)) for step in steps)}))


def _best(model: TimeModel, workers: int, sizes: Sequence[int], aim: Aim, curves: Curves) -> Estimate:
    """The estimate for the best batch size; a larger one has fewer steps, but its rows teach less."""
    base = aim.base_batch_size or 0
    if not model.by_batch:
        loads = [Load(workers=workers, data_fraction=aim.data_fraction)]
    elif aim.noise_scale_rows is None:
        loads = [Load(workers=workers, data_fraction=aim.data_fraction, batch_size=base)]
    else:
        loads = [
            Load(
                workers=workers,
                data_fraction=aim.data_fraction / efficiency(size, base, aim.noise_scale_rows),
                batch_size=size,
            )
            for size in sizes
            if size >= workers
        ] or [Load(workers=workers, data_fraction=aim.data_fraction, batch_size=base)]
    best = min(loads, key=lambda load: predicting.seconds(model, load))
    return priced(predicting.estimate(model, best, curves), aim.price_usd_per_worker_hour)


def _notes_on_batch(found: Forecast) -> tuple[str, ...]:
    """What a person has to know who lets the batch size change."""
    aim, size = found.aim, found.chosen.batch_size
    if not found.model.by_batch:
        return ()
    if aim.noise_scale_rows is None:
        known = "trials with two workers tell it, or --noise-scale"
        return (f"The gradient noise scale is not known, so the batch size stays {size}; {known}.",)
    factor = epochs_factor(found)
    told = f"gradient noise scale {aim.noise_scale_rows:.4g} rows; it is small in the first steps, and grows"
    return (f"A batch of {size} needs {factor:.3g} times the epochs of one of {aim.base_batch_size} ({told}).",)


def _too_few(measurements: Sequence[Measurement], aim: Aim, model: TimeModel, curves: Curves) -> MeasurementsUnusable:
    workers = measurements[0].workers
    some = f"{workers} worker{'s' if workers > 1 else ''}"
    fractions = {one.data_fraction for one in measurements}
    if len(fractions) > 1 or fractions == {aim.data_fraction}:
        load = Load(workers=workers, data_fraction=aim.data_fraction, batch_size=measurements[0].batch_size or 0)
        known = predicting.estimate(model, load, curves)
        can = f"With {some} it takes about {duration(known.seconds)} ({duration(known.low_s)} to {duration(known.high_s)})"
    else:
        can = f"Not even the time with {some} can be known, from one data fraction that is not the asked one"
    return MeasurementsUnusable(
        f"All measurements are of {some}. {can}; what more or fewer workers do cannot be known.",
        next_action="Measure with at least two numbers of workers, better three: 1, 2 and 4.",
    )
