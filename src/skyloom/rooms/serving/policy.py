"""The rule of scaling: from what was asked for and what was seen to a number of replicas. No clock, no I/O, nothing by chance.

Signals that add up (concurrency, rate, utilisation, GPU) follow Knative's autoscaler: as many replicas as the average over the window
needs, a shorter window for bursts, no shrinking in a panic. Delays and latencies do not add up, so they grow step by step until the
target is kept, and try one replica less only where it was not learnt that so many are too few.

It never flaps under constant load: what is right has a band (a replica goes only when the others would stay below nine tenths of the
target), and what was too small for a load is not tried again for that load within an hour.
"""

import math
from typing import NamedTuple

import msgspec

from skyloom.rooms.serving.floors import FloorNow, floor_at
from skyloom.rooms.serving.load import LoadHistory, LoadMean
from skyloom.rooms.serving.scaling import (
    UNITS,
    Autoscaling,
    LoadSample,
    ScaleCourse,
    ScaleDecision,
    ScaleNote,
    ScaleReason,
    ScaleSignal,
    TooSmall,
)

_TINY = 1e-6
_BAND = 0.9  # of the target, which the replicas that stay must keep to before one goes
_SEEN = 0.75  # of the window, before one goes
_TOO_SLOW, _FAST = 1.1, 0.5  # of a target delay: above grows, below tries one less
_FORGET_S = 3_600.0
_STEP = 2.0  # the most that a delay grows by at once


class _Right(NamedTuple):
    """What would be right, before delays, rates and limits."""

    replicas: int
    reason: ScaleReason
    why: str
    panics: bool = False


def decide(
    scaling: Autoscaling, load: LoadHistory, current: int, now: float, course: ScaleCourse | None = None
) -> ScaleDecision:
    """Decide how many replicas there should be.

    Args:
        current: the number that was decided last; some of them may still be starting.
        course: of the decision before; None for the first, after a restart too.

    Raises:
        CronUnreadable, TimeZoneUnknown: a schedule that was never checked.
    """
    floor = floor_at(scaling, load, now)
    course = _at(course or ScaleCourse(base_at=now, base=current, highs=((now, current),), lows=((now, current),)), now)
    if now - course.base_at >= scaling.panic_window_s:
        course = msgspec.structs.replace(course, base_at=now, base=current)
    stable, burst = load.mean(now, scaling.window_s), load.mean(now, scaling.panic_window_s)
    if scaling.signal.adds_up:
        right, course = _proportional(scaling, stable, burst, current, now, course)
    else:
        right, course = _stepwise(scaling, load, stable, burst, current, now, course)
    right = _slept_or_woken(scaling, load, right, current, now)
    right = _known(scaling, right, stable, current)
    course = _with_high_and_low(course, scaling, right.replicas, now)
    held_back = _delayed(right, course, current)
    moderate = _at_rate(scaling, held_back, course, current)
    wanted, reason, why = _limited(scaling, moderate, floor, current)
    if wanted != current:
        course = msgspec.structs.replace(course, moved_at=now)
    again_at = min(floor.until, _due(scaling, load, course, now))
    return ScaleDecision(wanted=wanted, reason=reason, why=why, again_at=again_at, course=course)


def explained(scaling: Autoscaling, load: LoadHistory, decision: ScaleDecision, now: float) -> ScaleNote:
    """A decision with everything that it was made of, for people. Raises as `decide` does."""
    stable, burst = load.mean(now, scaling.window_s), load.mean(now, scaling.panic_window_s)
    floor, course, wanted = floor_at(scaling, load, now), decision.course, decision.wanted
    panic_until = None if course.panic_at is None else course.panic_at + scaling.window_s
    panic_until = None if panic_until is None or panic_until <= now else panic_until
    sleeps = wanted > 0 and floor.replicas == 0 and load.newest is not None
    return ScaleNote(
        at=now,
        wanted=wanted,
        reason=decision.reason,
        why=decision.why,
        seen=stable.value if stable.seen_s else None,
        burst=burst.value if burst.seen_s else None,
        needed=_needed(stable.value, scaling.target) if stable.seen_s and scaling.signal.adds_up else None,
        floor=floor.replicas,
        floor_why=floor.why,
        panic_until=panic_until,
        delay_until=_delay_ends(scaling, decision) if decision.reason is ScaleReason.DELAY else None,
        sleeps_at=max(now - load.quiet_s + scaling.scale_to_zero_after_s, panic_until or now) if sleeps else None,
    )


def _delay_ends(scaling: Autoscaling, decision: ScaleDecision) -> float:
    """When the number that is right now will have been right for long enough."""
    highs, lows = decision.course.highs, decision.course.lows
    if len(highs) > 1:
        return highs[0][0] + scaling.scale_down_delay_s
    return lows[0][0] + scaling.scale_up_delay_s


def _proportional(
    scaling: Autoscaling, stable: LoadMean, burst: LoadMean, current: int, now: float, course: ScaleCourse
) -> tuple[_Right, ScaleCourse]:
    """As many replicas as the load is times the target; in a panic by the short window, and none fewer."""
    low = _needed(stable.value, scaling.target)
    high = _needed(stable.value, scaling.target * _BAND)
    unit = UNITS[scaling.signal]
    why = f"{stable.value:.3g} {unit} over {scaling.window_s:g} s, at a target of {scaling.target:g} each."
    fitting = min(max(current, low), high)
    right = _Right(fitting, ScaleReason.STEADY if fitting == current else ScaleReason.LOAD, why)
    peak = _needed(burst.value, scaling.target)
    if scaling.panic_threshold and peak >= scaling.panic_threshold * max(1, current) and peak > current:
        course = msgspec.structs.replace(course, panic_at=now)
    if course.panic_at is None or now - course.panic_at >= scaling.window_s:
        return right, course
    most = max(peak, low, current)
    if most > current:
        why = f"A burst: {burst.value:.3g} {unit} over {scaling.panic_window_s:g} s, at a target of {scaling.target:g} each."
    else:
        why = f"After a burst nothing is taken away for {scaling.window_s:g} s; now {burst.value:.3g} {unit}."
    return _Right(most, ScaleReason.PANIC, why, panics=True), course


def _stepwise(
    scaling: Autoscaling,
    load: LoadHistory,
    stable: LoadMean,
    burst: LoadMean,
    current: int,
    now: float,
    course: ScaleCourse,
) -> tuple[_Right, ScaleCourse]:
    """More while it is too slow, once those that were added last have had time to help; one fewer while it is fast."""
    unit = UNITS[scaling.signal]
    since_s = math.inf if course.moved_at is None else now - course.moved_at
    known = tuple(one for one in course.too_small if now - one.at < _FORGET_S)
    course = msgspec.structs.replace(course, too_small=known)
    if burst.value > _TOO_SLOW * scaling.target:
        why = f"{burst.value:.3g} {unit} over {scaling.panic_window_s:g} s; the target is {scaling.target:g}."
        if since_s < scaling.panic_window_s + load.lead_s:
            return _Right(current, ScaleReason.STEADY, why), course
        learnt = TooSmall(current, burst.rate, now)
        others = tuple(one for one in known if one.replicas != current)
        course = msgspec.structs.replace(course, too_small=(*others, learnt))
        more = math.ceil(current * (min(burst.value / scaling.target, _STEP) - 1) - _TINY)
        return _Right(current + max(1, more), ScaleReason.LOAD, why), course
    why = f"{stable.value:.3g} {unit} over {scaling.window_s:g} s; the target is {scaling.target:g}."
    too_few = any(one.replicas >= current - 1 and one.rate <= stable.rate * _TOO_SLOW for one in known)
    if stable.value < _FAST * scaling.target and not too_few and since_s >= scaling.window_s and current > 1:
        return _Right(current - 1, ScaleReason.LOAD, why), course
    return _Right(current, ScaleReason.STEADY, why), course


def _slept_or_woken(scaling: Autoscaling, load: LoadHistory, right: _Right, current: int, now: float) -> _Right:
    """Between one replica and none there is no proportion: somebody asks, or nobody has for long enough."""
    newest = load.newest
    if current == 0:
        if newest is None or not _asked(newest):
            return _Right(0, ScaleReason.STEADY, "Nobody asks.")
        first = max(1, right.replicas)
        if scaling.signal is ScaleSignal.CONCURRENCY:
            first = max(first, _needed(max(newest.concurrency, newest.held), scaling.target))
        return _Right(first, ScaleReason.WAKE, "Somebody asks, and there is no replica.", panics=True)
    if newest is None:
        return _Right(min(current, scaling.max_replicas), ScaleReason.UNSEEN, "Nothing was heard of its load yet.")
    quiet_s = load.quiet_s
    if quiet_s >= scaling.scale_to_zero_after_s and not right.panics:
        return _Right(0, ScaleReason.IDLE, f"Nobody asked for {scaling.scale_to_zero_after_s:g} s.")
    if right.replicas < 1:
        reason = ScaleReason.STEADY if current == 1 else ScaleReason.LOAD
        return _Right(1, reason, f"Nobody asked for {quiet_s:.0f} s of {scaling.scale_to_zero_after_s:g} s.")
    return right


def _asked(sample: LoadSample) -> bool:
    return bool(sample.held or sample.arrived or sample.concurrency > 0)


def _known(scaling: Autoscaling, right: _Right, stable: LoadMean, current: int) -> _Right:
    """What was not seen is no reason to take anything away: after a restart, without reports, when the clock was set."""
    kept = min(current, scaling.max_replicas)
    if right.replicas >= kept or stable.seen_s >= _SEEN * scaling.window_s:
        return right
    why = f"Only {stable.seen_s:.0f} s of the last {scaling.window_s:g} s were seen, too little to take anything away."
    return _Right(kept, ScaleReason.UNSEEN, why)


def _with_high_and_low(course: ScaleCourse, scaling: Autoscaling, right: int, now: float) -> ScaleCourse:
    right = min(right, scaling.max_replicas + 1)  # so that both stairs have few steps
    highs = tuple(one for one in course.highs if one[1] > right and now - one[0] < scaling.scale_down_delay_s)
    lows = tuple(one for one in course.lows if one[1] < right and now - one[0] < scaling.scale_up_delay_s)
    return msgspec.structs.replace(course, highs=(*highs, (now, right)), lows=(*lows, (now, right)))


def _delayed(right: _Right, course: ScaleCourse, current: int) -> _Right:
    """The most that was right within the delay of shrinking, the least within that of growing. A quiet time was a delay already."""
    most, least = course.highs[0][1], course.lows[0][1]
    if right.reason is ScaleReason.IDLE:
        return right
    if right.replicas < current:
        replicas = min(most, current)
    elif right.replicas > current and not right.panics:
        replicas = max(least, current)
    else:
        return right
    if replicas == right.replicas:
        return right
    why = f"{right.replicas} would do, but not for long enough yet. {right.why}"
    return _Right(replicas, ScaleReason.DELAY, why, right.panics)


def _at_rate(scaling: Autoscaling, right: _Right, course: ScaleCourse, current: int) -> _Right:
    base = course.base
    if right.replicas >= current:
        most = max(base + 1, math.ceil(base * scaling.max_up_rate - _TINY), math.floor(scaling.max_up_rate))
        return right._replace(replicas=max(min(right.replicas, most), current))
    least = min(base - 1, math.floor(base / scaling.max_down_rate))
    return right._replace(replicas=min(max(right.replicas, least), current))


def _limited(scaling: Autoscaling, right: _Right, floor: FloorNow, current: int) -> tuple[int, ScaleReason, str]:
    if floor.replicas > right.replicas:
        wanted, reason, why = floor.replicas, floor.reason, floor.why
        if wanted == current:
            reason = reason if reason is not ScaleReason.LIMIT else ScaleReason.STEADY
    elif right.replicas > scaling.max_replicas:
        wanted, reason = scaling.max_replicas, ScaleReason.LIMIT
        why = f"{right.replicas} would be right, and at most {scaling.max_replicas} are allowed. {right.why}"
    else:
        wanted, reason, why = right.replicas, right.reason, right.why
    return wanted, reason, why


def _due(scaling: Autoscaling, load: LoadHistory, course: ScaleCourse, now: float) -> float:
    """When something may change by the mere passing of time."""
    moments = [now + scaling.window_s, course.base_at + scaling.panic_window_s]
    if course.panic_at is not None:
        moments.append(course.panic_at + scaling.window_s)
    if len(course.highs) > 1:
        moments.append(course.highs[0][0] + scaling.scale_down_delay_s)
    if len(course.lows) > 1:
        moments.append(course.lows[0][0] + scaling.scale_up_delay_s)
    moments.append(now - load.quiet_s + scaling.scale_to_zero_after_s)
    return min(moment for moment in moments if moment > now)


def _needed(load: float, each: float) -> int:
    return math.ceil(load / each - _TINY)


def _at(course: ScaleCourse, now: float) -> ScaleCourse:
    """A course whose moments all lie in the past, also when the clock was set back."""
    if max(course.base_at, course.panic_at or 0.0, course.moved_at or 0.0, course.highs[-1][0]) <= now:
        return course
    return msgspec.structs.replace(
        course,
        panic_at=None if course.panic_at is None else min(course.panic_at, now),
        moved_at=None if course.moved_at is None else min(course.moved_at, now),
        base_at=min(course.base_at, now),
        highs=tuple((min(at, now), replicas) for at, replicas in course.highs),
        lows=tuple((min(at, now), replicas) for at, replicas in course.lows),
        too_small=tuple(msgspec.structs.replace(one, at=min(one.at, now)) for one in course.too_small),
    )
