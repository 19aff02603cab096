"""From budgets, sums, promises and what runs to pots as `limits` decides on them. Reads one snapshot."""

from collections.abc import Iterable, Sequence

from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.ports.store import Snapshot
from skyloom.rooms.cost import limits, rules, tallies
from skyloom.rooms.cost.budget import (
    NOTICE_S,
    THRESHOLDS,
    Budget,
    BudgetScope,
    BudgetState,
    BudgetStatus,
    Meters,
    Period,
    Spender,
)
from skyloom.rooms.cost.forecast import MAX_DAYS, forecast
from skyloom.rooms.cost.limits import Member, Pot
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.cost.ports import PLEDGES, RESERVATIONS
from skyloom.rooms.cost.prices import PriceHistory
from skyloom.rooms.cost.usage import US_PER_HOUR, Usage, held, microseconds

_BY = {BudgetScope.PROJECT: CostBy.PROJECT, BudgetScope.USER: CostBy.USER}


def period_of(budget: Budget, now: float) -> str:
    """The period that a budget counts now: a month, or all of time."""
    return rules.month_of(now) if budget.period is Period.MONTH else "ever"


def name_of(budget: Budget) -> str:
    """What people call a budget."""
    return f"The budget of {budget.scope.value} {budget.name}"


class Pots:
    """Makes pots of one snapshot at one moment."""

    def __init__(self, view: Snapshot, history: PriceHistory, now: float) -> None:
        self._view = view
        self._history = history
        self._now = now
        self._known: dict[tuple[str, float], Usage] = {}

    def rate(self, pool: str, resources: Resources, count: int) -> Meters:
        """What so many tasks use up in a second, at the prices of now."""
        return limits.rate(resources, count, self._history.book(pool, self._now))

    def of_budget(self, budget: Budget, spenders: Iterable[Spender]) -> Pot:
        """A project's or a user's budget as it stands."""
        mine = [spender for spender in spenders if _covers(budget, spender)]
        since = rules.start_of_month(self._now) if budget.period is Period.MONTH else 0.0
        accrued = sum((self._used(spender, since) for spender in mine), rules.NOTHING)
        pledge = self._view.get(PLEDGES, f"{budget.project}/{budget.scope.value}/{budget.name}")
        return Pot(
            name=name_of(budget),
            limits=limits.limits_of(budget.limits),
            spent=limits.metered(self._settled(budget) + accrued),
            promised=pledge.left if pledge else Meters(),
            members=[self._member(spender, promised=True) for spender in mine],
            thresholds=THRESHOLDS,
        )

    def of_job(self, spender: Spender) -> Pot | None:
        """A job's own budget as it stands; None when it has none."""
        own = limits.limits_of(spender.limits)
        if not own:
            return None
        used = tallies.ever(self._view, spender.project, CostBy.JOB, spender.job_id) + self._used(spender, 0.0)
        member = self._member(spender, promised=False)
        return Pot(name="Its own budget", limits=own, spent=limits.metered(used), promised=Meters(), members=[member])

    def status(self, budget: Budget, spenders: Sequence[Spender]) -> BudgetStatus:
        """A project's or a user's budget for people."""
        pot = self.of_budget(budget, spenders)
        share, ends_in_s = limits.used_share(pot), limits.exhausted_in_s(pot)
        stopped = budget.reached >= 1 and budget.reached_in == period_of(budget, self._now)
        asides = sum(limits.beyond(member).nano_usd for member in pot.members)
        waiting = pot.promised.nano_usd - sum(member.promised.nano_usd for member in pot.members)
        return BudgetStatus(
            budget=budget,
            state=BudgetState.EXHAUSTED if stopped else limits.state_of(share),
            spent=Money(pot.spent.nano_usd),
            gpu_hours=pot.spent.gpu_us / US_PER_HOUR,
            cpu_hours=pot.spent.cpu_us / US_PER_HOUR,
            reserved=Money(max(0, waiting) + asides),
            used_share=share,
            expected=self._expected(budget, pot, spenders) if budget.period is Period.MONTH else None,
            exhausted_at=None if ends_in_s is None else self._now + ends_in_s,
        )

    def _expected(self, budget: Budget, pot: Pot, spenders: Sequence[Spender]) -> Money:
        days = rules.days_between(self._now - MAX_DAYS * rules.DAY_S, self._now)[:-1]
        settled = tallies.per_day(self._view, budget.project, _BY[budget.scope], budget.name, days)
        running = (
            entry
            for spender in spenders
            if _covers(budget, spender)
            for task in spender.running
            for entry in rules.ledger_entries(budget.project, task, self._history)
        )
        used = rules.with_running(settled, running)
        whole = [used[day].cost for day in days]
        spent, left = Money(pot.spent.nano_usd), rules.days_left(self._now)
        return forecast(rules.month_of(self._now), spent, whole, left).expected

    def _settled(self, budget: Budget) -> Usage:
        by = _BY[budget.scope]
        if budget.period is Period.TOTAL:
            return tallies.ever(self._view, budget.project, by, budget.name)
        return tallies.in_days(self._view, budget.project, by, budget.name, rules.month_so_far(self._now))

    def _used(self, spender: Spender, since: float) -> Usage:
        """What a job's running tasks have used since a moment; several budgets ask."""
        key = (spender.job_id, since)
        if key not in self._known:
            periods = (
                self._history.periods(task.pool, max(task.started_at, since), task.ended_at) for task in spender.running
            )
            parts = (
                held(spender.resources, microseconds(start, end), book) for life in periods for start, end, book in life
            )
            self._known[key] = sum(parts, rules.NOTHING)
        return self._known[key]

    def _member(self, spender: Spender, *, promised: bool) -> Member:
        known = self._view.get(RESERVATIONS, spender.job_id) if promised else None
        gone_s = max(0.0, self._now - spender.told_at) if spender.told_at is not None else 0.0
        return Member(
            job_id=spender.job_id,
            rate=self.rate(spender.pool, spender.resources, spender.num_held),
            accrued=limits.metered(self._used(spender, 0.0)),
            promised=known.left if known else Meters(),
            stop_s=max(0.0, spender.grace_s + NOTICE_S - gone_s),
            stopping=spender.told_at is not None,
        )


def _covers(budget: Budget, spender: Spender) -> bool:
    whose = budget.scope is BudgetScope.PROJECT or budget.name == spender.user
    return budget.project == spender.project and whose
