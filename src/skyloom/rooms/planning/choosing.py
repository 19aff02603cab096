"""Which number of workers: the cheapest that meets a deadline, the fastest that a budget pays, else the knee of the curve."""

from collections.abc import Callable, Sequence

import msgspec

from skyloom.core.money import usd
from skyloom.rooms.planning.model import Aim, AimImpossible, Choice, Estimate
from skyloom.rooms.planning.wording import duration


def choose(estimates: Sequence[Estimate], aim: Aim) -> Choice:
    """Choose among estimates, one for each number of workers.

    The whole interval has to be within the aim. Where no number of workers is surely in time, one that probably is may be chosen;
    money is never bet on: even the longest time of the interval has to be paid for. Raises `AimImpossible`.
    """
    if aim.deadline_s is None and aim.budget_usd is None:
        return _choice(knee(estimates), "the knee: more workers cost more than they speed up", sure=True)
    sure = [one for one in estimates if _within(aim, one.high_s, one.high_cost_usd)]
    if sure:
        return _choice(min(sure, key=_wish(aim)), _reason(aim), sure=True)
    likely = [one for one in estimates if _within(aim, one.seconds, one.high_cost_usd)]
    if likely:
        best = min(likely, key=lambda one: (one.high_s, one.workers))
        return _choice(best, f"{_reason(aim)} — probably, but its interval reaches beyond", sure=False)
    raise _impossible(estimates, aim)


def knee(estimates: Sequence[Estimate]) -> Estimate:
    """Where efficiency for the time is best: the largest E/T, that is the smallest N·T² (Eager, Zahorjan & Lazowska, 1989).

    T is the upper end of the interval, so that workers far beyond the measured ones have to be worth their risk.
    """
    return min(estimates, key=lambda one: (one.workers * one.high_s**2, one.workers))


def _within(aim: Aim, seconds: float, cost_usd: float) -> bool:
    in_time = aim.deadline_s is None or seconds <= aim.deadline_s
    return in_time and (aim.budget_usd is None or cost_usd <= aim.budget_usd)


def _wish(aim: Aim) -> Callable[[Estimate], tuple[float, int]]:
    """Under a deadline the cheapest, by worker-seconds since a price may be zero; under a budget alone the fastest."""
    if aim.deadline_s is not None:
        return lambda one: (one.workers * one.seconds, one.workers)
    return lambda one: (one.seconds, one.workers)


def _reason(aim: Aim) -> str:
    if aim.deadline_s is None:
        return "the fastest within the budget"
    return "the cheapest in time" if aim.budget_usd is None else "the cheapest in time and within the budget"


def _choice(one: Estimate, reason: str, *, sure: bool) -> Choice:
    return Choice(**msgspec.structs.asdict(one), reason=reason, sure=sure)


def _impossible(estimates: Sequence[Estimate], aim: Aim) -> AimImpossible:
    fastest = min(estimates, key=lambda one: (one.seconds, one.workers))
    cheapest = min(estimates, key=lambda one: (one.high_cost_usd, one.workers))
    span = f"With {estimates[0].workers} to {estimates[-1].workers} workers"
    best_time = f"the fastest is {_count(fastest)} with {duration(fastest.seconds)} ({usd(fastest.cost_usd)})"
    most = f"at most about {usd(cheapest.high_cost_usd)}"
    best_cost = (
        f"the cheapest is {_count(cheapest)} for {usd(cheapest.cost_usd)}, {most} ({duration(cheapest.seconds)})"
    )
    if aim.budget_usd is None:
        return AimImpossible(
            f"{span} the deadline of {duration(aim.deadline_s or 0)} cannot be met: {best_time}.",
            next_action="Allow that long, do less work, or raise --max-workers.",
        )
    if aim.deadline_s is None:
        return AimImpossible(
            f"{span} a budget of {usd(aim.budget_usd)} does not surely pay for it: {best_cost}.",
            next_action="Raise the budget, or do less work.",
        )
    return AimImpossible(
        f"{span} {duration(aim.deadline_s)} and {usd(aim.budget_usd)} cannot both be kept: {best_time}; {best_cost}.",
        next_action="Raise one of them, or do less work.",
    )


def _count(one: Estimate) -> str:
    return f"{one.workers} worker{'s' if one.workers > 1 else ''}"
