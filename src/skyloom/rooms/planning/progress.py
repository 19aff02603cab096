"""A running training against its plan: when will it end now, is its deadline in danger, and would more workers help?"""

import itertools
import math
from collections.abc import Sequence
from statistics import median

from skyloom.ports.series import Point
from skyloom.rooms.planning.model import Breakdown, Danger, Estimate, NewEstimate, TimePlan
from skyloom.rooms.planning.wording import duration

_LEAST_STEPS = 2
_SURE_SHARE = 0.02  # even a steady rate is not known better
_NORMAL_90 = 1.645


def estimate(plan: TimePlan, points: Sequence[Point], now: float) -> NewEstimate | None:
    """Estimate the end anew from reported steps; None before there are enough of them."""
    part = nearest(plan.parts, plan.workers, plan.chosen.batch_size or 0)
    rate = _rate(points)
    if part is None or rate is None:
        return None
    step, at, seconds_each, spread = rate
    total = round(part.steps * plan.epochs_factor)
    left = max(0, total - step)
    ahead_s = left * seconds_each + part.finish_s
    reach_s = _NORMAL_90 * max(spread, _SURE_SHARE) * left * seconds_each + 0.5 * part.finish_s
    finish_at = max(now, at + ahead_s)
    high_at = max(finish_at, at + ahead_s + reach_s)
    danger = _danger(plan.deadline_at, finish_at, high_at)
    planned_s = _planned_step_s(plan, part)
    slowdown = seconds_each / planned_s if planned_s else 1.0
    better = _recommended(plan, part, left, slowdown, now) if danger is not Danger.NONE else None
    return NewEstimate(
        step=step,
        total_steps=total,
        steps_per_s=1 / seconds_each,
        slowdown=slowdown,
        finish_at=finish_at,
        finish_low_at=max(now, at + ahead_s - reach_s),
        finish_high_at=high_at,
        danger=danger,
        recommended_workers=better,
        message=_message(danger, plan, finish_at, better),
    )


def nearest(parts: Sequence[Breakdown], workers: int, batch_size: int = 0) -> Breakdown | None:
    """What was tried with the batch size, where that was a choice, and the number of workers that comes closest."""
    fitting = [part for part in parts if part.batch_size == batch_size] or parts
    return min(fitting, key=lambda part: abs(math.log(part.workers / max(1, workers))), default=None)


def _rate(points: Sequence[Point]) -> tuple[int, float, float, float] | None:
    """The newest step, its time, the middle time of a step, and the uncertainty of the mean, as a share of it."""
    # Of a step that was done again, the later time.
    newest: dict[int, float] = {point.step: point.at for point in points}
    steps = sorted(newest)
    last = steps[-1] if steps else 0
    pairs = [
        (newest[high] - newest[low]) / (high - low)
        for low, high in itertools.pairwise(steps)
        if newest[high] > newest[low]
    ]
    if len(pairs) < _LEAST_STEPS:
        return None
    middle = median(pairs)
    deviation = 1.4826 * median(abs(pair - middle) for pair in pairs)
    return last, newest[last], middle, 1.2533 * deviation / middle / math.sqrt(len(pairs))


def _planned_step_s(plan: TimePlan, part: Breakdown) -> float:
    """What a step was planned to take with the workers that the training really has."""
    planned = _of(plan.predictions, plan.workers)
    if planned is None or plan.workers == part.workers:
        return part.step_s
    steps_s = planned.seconds - part.startup_s - part.finish_s - part.checkpoints_s
    return max(0.0, steps_s) / max(1, round(part.steps * plan.epochs_factor))


def _danger(deadline_at: float | None, finish_at: float, high_at: float) -> Danger:
    if deadline_at is None or high_at <= deadline_at:
        return Danger.NONE
    return Danger.LATE if finish_at > deadline_at else Danger.AT_RISK


def _recommended(plan: TimePlan, part: Breakdown, left: int, slowdown: float, now: float) -> int | None:
    """The fewest workers with which the rest, after another start, would still be in time."""
    time_left_s = (plan.deadline_at or math.inf) - now
    share = left / max(1, round(part.steps * plan.epochs_factor))
    for one in plan.predictions:
        steps_s = max(0.0, one.seconds - part.startup_s - part.finish_s) * share * slowdown
        if one.workers > plan.workers and part.startup_s + steps_s + part.finish_s <= time_left_s:
            return one.workers
    return None


def _of(estimates: Sequence[Estimate], workers: int) -> Estimate | None:
    return next((one for one in estimates if one.workers == workers), None)


def _message(danger: Danger, plan: TimePlan, finish_at: float, better: int | None) -> str:
    if danger is Danger.NONE or plan.deadline_at is None:
        return ""
    by_s = finish_at - plan.deadline_at
    late = f"it is expected {duration(by_s)} late" if danger is Danger.LATE else "its interval reaches beyond it"
    help_ = f"with {better} workers it would be in time" if better else "no number of workers planned for would help"
    return f"The deadline is in danger: {late}; {help_}."
