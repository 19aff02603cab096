"""From trials to measurements of whole trainings. Robust: the middle of the steps counts, not their mean.

Steps are taken in blocks, so that what happens every tenth step is in each block; the quartiles of the blocks stand for a trial, so
that a block which something else on the machine slowed down moves nothing.
"""

import itertools
from collections.abc import Sequence
from statistics import fmean, median

import msgspec

from skyloom.rooms.planning.model import Breakdown, Measurement, MeasurementsUnusable, TrialRun

_BLOCKS = 9
_LEAST_STEPS = 3


def check(trials: Sequence[TrialRun]) -> None:
    """Raise `MeasurementsUnusable` for trials that say nothing, or not of one training."""
    for trial in trials:
        if not trial.times.total_steps:
            raise MeasurementsUnusable(
                "The training does not say how many steps it has in all.",
                next_action="Give --steps, or count them with skyloom.runtime.steps in the script.",
            )
        if len(trial.times.step_s) < _LEAST_STEPS or not sum(trial.times.step_s):
            raise MeasurementsUnusable(
                f"The trial with {trial.workers} workers timed {len(trial.times.step_s)} steps; it needs {_LEAST_STEPS}.",
                next_action="Try more of it: --trial-share 0.2. Or just run it: it is that short.",
            )


def breakdowns(trials: Sequence[TrialRun]) -> tuple[Breakdown, ...]:
    """Where the time of the whole training will go, by workers.

    More workers never start or finish faster, so a start that was slower than that of more workers was an accident: a cold cache.
    """
    parts = [_part(trial) for trial in trials]
    return tuple(
        msgspec.structs.replace(
            part,
            startup_s=min(other.startup_s for other in parts if other.workers >= part.workers),
            finish_s=min(other.finish_s for other in parts if other.workers >= part.workers),
        )
        for part in parts
    )


def _part(trial: TrialRun) -> Breakdown:
    times = trial.times
    middle = median(_blocks(times.step_s))
    return Breakdown(
        workers=trial.workers,
        batch_size=times.batch_size,
        # A script that only reports is timed from its first report on; the steps before it are no start-up.
        startup_s=max(0.0, times.began_at - trial.started_at - times.first_step * middle),
        step_s=middle,
        steps=times.total_steps,
        checkpoints_s=times.checkpoint_s * times.num_checkpoints,
        finish_s=max(0.0, trial.ended_at - times.ended_at),
    )


def noise_scale(trials: Sequence[TrialRun]) -> float | None:
    """The middle of the gradient noise scales that trials of several workers measured."""
    known = [trial.times.noise_scale_rows for trial in trials if trial.times.noise_scale_rows is not None]
    return median(known) if known else None


def measurements(trials: Sequence[TrialRun], *, by_batch: bool = False) -> tuple[Measurement, ...]:
    """Each trial as three whole trainings: with the steps of its lower, middle and upper quartile."""
    found = []
    for trial, part in zip(trials, breakdowns(trials), strict=True):
        once_s = part.startup_s + part.checkpoints_s + part.finish_s
        found += [
            Measurement(
                workers=trial.workers,
                data_fraction=1.0,
                seconds=max(1e-6, once_s + part.steps * step_s),
                batch_size=trial.times.batch_size or None if by_batch else None,
            )
            for step_s in _quartiles(_blocks(trial.times.step_s))
        ]
    return tuple(found)


def _blocks(step_s: Sequence[float]) -> list[float]:
    """Means of equal blocks of consecutive steps."""
    count = min(_BLOCKS, len(step_s))
    borders = [place * len(step_s) // count for place in range(count + 1)]
    return [fmean(step_s[low:high]) for low, high in itertools.pairwise(borders)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    half = len(ordered) // 2
    return median(ordered[:half] or ordered), median(ordered), median(ordered[-half:] or ordered)
