"""Pure decisions of budgets: what a job is promised, who has to stop now so that nothing goes over, when to look again.

A *pot* is one budget as it stands. Of what is left in it, jobs that have been promised something use up their promise first and take
nothing from anybody; jobs beyond their promise (*loose* ones) share what is promised to nobody. What it takes to stop a job, its grace
and `NOTICE_S` at its rate, is set aside for every job that runs. When nothing is left beside that, the loose ones are told to stop, and
by the time that they are gone they have used at most what was set aside for them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skyloom.core.money import Money, short
from skyloom.core.resources import Resources
from skyloom.rooms.cost.budget import MIN_WORK_S, NOTICE_S, THRESHOLDS, Allowance, BudgetState, Meters, Wish
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.usage import US_PER_HOUR, Usage, held

METERS = ("nano_usd", "gpu_us", "cpu_us")
_UNITS = {"nano_usd": 10**9, "gpu_us": US_PER_HOUR, "cpu_us": US_PER_HOUR}
_WORDS = {"gpu_us": "GPU-hours", "cpu_us": "CPU-hours"}
_A_SECOND = 10**6


@dataclass(frozen=True)
class Member:
    """A job in a pot that holds resources.

    Attributes:
        rate: what it uses up in a second.
        accrued: what its running tasks have used.
        promised: what it had been promised before those began.
        stop_s: how long stopping it may take from now.
        stopping: it has been told.
    """

    job_id: str
    rate: Meters
    accrued: Meters
    promised: Meters
    stop_s: float
    stopping: bool = False


@dataclass(frozen=True)
class Pot:
    """A budget as it stands.

    Attributes:
        name: for people: "The budget of project p".
        limits: None where a meter has none.
        spent: in the period, by all of its jobs, running tasks included.
        promised: the sum of all promises to its jobs, less what their ended tasks have used.
        members: its jobs that hold resources.
        thresholds: shares of the limits that somebody is to be told of.
    """

    name: str
    limits: dict[str, int]
    spent: Meters
    promised: Meters
    members: Sequence[Member]
    thresholds: tuple[float, ...] = ()


def limits_of(limits: Allowance) -> dict[str, int]:
    """The limits that there are, in the units of the meters."""
    amounts = zip(METERS, limits.amounts, strict=True)
    return {meter: round(amount * _UNITS[meter]) for meter, amount in amounts if amount is not None}


def metered(usage: Usage) -> Meters:
    """The part of a usage that budgets look at."""
    return Meters(nano_usd=usage.cost.nano_usd, gpu_us=usage.gpu_us, cpu_us=usage.cpu_us)


def rate(resources: Resources, count: int, prices: PriceBook) -> Meters:
    """What ``count`` tasks use up in a second."""
    one = metered(held(resources, _A_SECOND, prices))
    return Meters(**{meter: getattr(one, meter) * count for meter in METERS})


def at_least_nothing(meters: Meters) -> Meters:
    """No meter below zero."""
    return Meters(**{meter: max(0, getattr(meters, meter)) for meter in METERS})


def minimum(wish: Wish, per_s: Meters) -> Meters:
    """The least that lets a job do anything: a second of work and its whole grace."""
    least_s = MIN_WORK_S + NOTICE_S + wish.grace_s
    return Meters(**{meter: round(getattr(per_s, meter) * least_s) for meter in METERS})


def promise(wish: Wish, per_s: Meters) -> Meters:
    """What a job is promised when it is let in: its own budget, or what it costs for as long as it says it may run and may then take to
    stop, whichever is less; without either, the `minimum`."""
    own, least = limits_of(wish.limits), minimum(wish, per_s)
    found = {}
    for meter in METERS:
        floor = getattr(least, meter)
        known = [own[meter]] if meter in own else []
        if wish.expected_s is not None:
            known.append(max(floor, round(getattr(per_s, meter) * (wish.expected_s + wish.grace_s + NOTICE_S))))
        found[meter] = min(known, default=floor)
    return Meters(**found)


def free(pot: Pot) -> dict[str, int]:
    """What is left in a pot, by limited meter, beside all that is promised or set aside. Below zero when it is short."""
    asides = [(member, _aside(member)) for member in pot.members]
    found = {}
    for meter, limit in pot.limits.items():
        others = getattr(pot.promised, meter) - sum(getattr(member.promised, meter) for member in pot.members)
        aside = sum(getattr(amount, meter) for _, amount in asides)
        found[meter] = limit - getattr(pot.spent, meter) - max(0, others) - aside
    return found


def lacks(pot: Pot, wanted: Meters) -> str:
    """What a pot is short of for a promise, in words; empty when it can be given."""
    for meter, left in free(pot).items():
        need = getattr(wanted, meter)
        if need > max(0, left):
            return f"the job needs {amount(meter, need)} and {amount(meter, max(0, left))} of {amount(meter, pot.limits[meter])} is left"
    return ""


def to_halt(pot: Pot) -> dict[str, str]:
    """The jobs that have to stop now, each with the reason in words.

    First the loose ones. Jobs within their promise are stopped only when the pot cannot keep it (its limit was lowered, a price rose)
    and nothing else is about to give way; the youngest first, as few as will do.
    """
    for meter, left in free(pot).items():
        if left > 0:
            continue
        running = [member for member in pot.members if getattr(member.rate, meter)]
        loose = [member for member in running if is_loose(member, meter)]
        chosen = [member for member in loose if not member.stopping]
        if not loose and left < 0:
            chosen = _youngest(running, meter, -left)
        if chosen:
            words = _exhausted(pot, meter)
            return {member.job_id: words for member in chosen}
    return {}


def look_again_s(pot: Pot) -> float | None:
    """When something will have to be decided about a pot, or said of it, if its members go on as they are."""
    found = []
    for meter, left in free(pot).items():
        going = [member for member in pot.members if not member.stopping and getattr(member.rate, meter)]
        loose = sum(getattr(member.rate, meter) for member in going if is_loose(member, meter))
        if loose:
            found.append(max(0, left) / loose)
        found += [_promise_lasts_s(member, meter) for member in going if not is_loose(member, meter)]
        total, spent = sum(getattr(member.rate, meter) for member in pot.members), getattr(pot.spent, meter)
        ahead = [share * pot.limits[meter] - spent for share in pot.thresholds]
        found += [amount / total for amount in ahead if total and amount > 0]
    return min(found, default=None)


def exhausted_in_s(pot: Pot) -> float | None:
    """When the first limit will be reached if the members go on as they are; None when none will."""
    found = []
    for meter, limit in pot.limits.items():
        total = sum(getattr(member.rate, meter) for member in pot.members)
        left = limit - getattr(pot.spent, meter)
        found += [max(0.0, left / total)] if total else [0.0] if left <= 0 else []
    return min(found, default=None)


def lasts_s(allowance: Allowance, used: Meters, per_s: Meters) -> float | None:
    """How long what is left of an allowance pays for; None when it is never used up."""
    rates = {meter: getattr(per_s, meter) for meter in METERS}
    left = {meter: limit - getattr(used, meter) for meter, limit in limits_of(allowance).items() if rates[meter]}
    return min((float(amount / rates[meter]) for meter, amount in left.items()), default=None)


def used_share(pot: Pot) -> float:
    """How much of the nearest limit is used."""
    return max((getattr(pot.spent, meter) / limit for meter, limit in pot.limits.items() if limit), default=0.0)


def reached(share: float) -> float:
    """The highest threshold that a share has reached, or 0."""
    return max((threshold for threshold in THRESHOLDS if share >= threshold), default=0.0)


def state_of(share: float) -> BudgetState:
    """Where a budget stands by what is used of it."""
    if share >= THRESHOLDS[-1]:
        return BudgetState.EXHAUSTED
    return BudgetState.NEAR if share >= THRESHOLDS[-2] else BudgetState.WITHIN


def is_loose(member: Member, meter: str) -> bool:
    """What it was promised does not pay for more than its stop."""
    return bool(_left(member, meter) <= getattr(member.rate, meter) * member.stop_s)


def beyond(member: Member) -> Meters:
    """What a member was promised beyond what it has used."""
    return Meters(**{meter: _left(member, meter) for meter in METERS})


def amount(meter: str, value: int) -> str:
    """Write an amount of a meter for people."""
    return str(Money(value)) if meter == "nano_usd" else f"{short(value / _UNITS[meter])} {_WORDS[meter]}"


def _left(member: Member, meter: str) -> int:
    return max(0, int(getattr(member.promised, meter) - getattr(member.accrued, meter)))


def _aside(member: Member) -> Meters:
    """What has to be kept for a member: what is left of its promise, at least its stop."""
    found = {}
    for meter in METERS:
        stop = round(getattr(member.rate, meter) * member.stop_s)
        found[meter] = stop if member.stopping else max(_left(member, meter), stop)
    return Meters(**found)


def _promise_lasts_s(member: Member, meter: str) -> float:
    return max(0.0, float(_left(member, meter) / getattr(member.rate, meter) - member.stop_s))


def _youngest(running: Iterable[Member], meter: str, short: int) -> list[Member]:
    chosen: list[Member] = []
    for member in sorted(running, key=lambda member: member.job_id, reverse=True):
        if short > 0 and not member.stopping:
            chosen.append(member)
            short -= _left(member, meter) - round(getattr(member.rate, meter) * member.stop_s)
    return chosen


def _exhausted(pot: Pot, meter: str) -> str:
    spent, limit = amount(meter, getattr(pot.spent, meter)), amount(meter, pot.limits[meter])
    return f"{pot.name} is used up: {spent} of {limit}, and the rest pays for stopping in time"
