"""The service of budgets: sets them, makes promises of them when jobs are let in, and says which jobs have to stop.

A promise is written in the transaction that writes the job, and is used up in the transaction that writes the job's part of the ledger;
both sides of a crash see both or neither.
"""

from collections.abc import Iterable, Sequence

from skyloom.core.events import BudgetReached
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Done, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.cost import budget as model
from skyloom.rooms.cost import limits, rules, tallies
from skyloom.rooms.cost.budget import (
    THRESHOLDS,
    Budget,
    BudgetScope,
    BudgetStatus,
    Judgement,
    Meters,
    Period,
    Pledge,
    Reservation,
    Wish,
)
from skyloom.rooms.cost.limits import Pot
from skyloom.rooms.cost.model import CostBy, LedgerEntry
from skyloom.rooms.cost.ports import BUDGETS, PLEDGES, RESERVATIONS, Spenders
from skyloom.rooms.cost.pots import Pots, name_of, period_of
from skyloom.rooms.cost.pricing import Prices

_LONGEST_S = 3_600.0
_LEAST_S = 0.1


class Budgets:
    """The budgets of all projects.

    Attributes:
        spenders: tells which jobs hold resources. Set by the composition root, since it is made after this.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids, outbox: Outbox, prices: Prices) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._prices = prices
        self.spenders: Spenders = lambda view, projects, now: ()

    def handlers(self) -> Handlers:
        return {
            model.SetBudget: Change(self.set),
            model.GetBudget: Query(self.get),
            model.ListBudgets: Query(self.list),
            model.DeleteBudget: Change(self.delete),
        }

    # What the jobs room calls

    def reserve(self, tx: Transaction, wish: Wish) -> None:
        """Let a job in, in the transaction that writes it, and promise it what it needs. Safe to repeat. Raises as `check` does,
        having written nothing."""
        if tx.get(RESERVATIONS, wish.job_id) is not None:
            return
        wanted = self.check(tx, wish)
        if wanted is not None:
            tx.insert(RESERVATIONS, Reservation(id=wish.job_id, project=wish.project, user=wish.user, left=wanted))
            self._pledge(tx, wish.project, wish.user, wanted)

    def check(self, view: Snapshot, wish: Wish) -> Meters | None:
        """What would be promised to a job now; None where no budget of others covers it.

        Raises `BudgetExhausted` when its own budget, or what is left of its project's or its user's, does not pay for a run.
        """
        now = self._clock.now()
        pots = Pots(view, self._prices.history(view), now)
        per_s = pots.rate(wish.pool, wish.resources, wish.num_workers)
        _check_own(wish, per_s)
        covering = _covering(view, wish.project, wish.user)
        if not covering:
            return None
        wanted = limits.promise(wish, per_s)
        spenders = list(self.spenders(view, {wish.project}, now))
        for budget in covering:
            pot = pots.of_budget(budget, spenders)
            if short := limits.lacks(pot, wanted):
                raise model.BudgetExhausted(
                    f"{pot.name} does not pay for this job: {short}.",
                    next_action=_what_to_do(budget, wish),
                )
        return wanted

    def lasts_s(self, view: Snapshot, wish: Wish) -> float | None:
        """How long a job's own budget pays for it from now on until it has to begin to stop; None without one.

        A little later than `judge` would say so: for a machine that has to stop it when no control plane does.
        """
        per_s = Pots(view, self._prices.history(view), self._clock.now()).rate(
            wish.pool, wish.resources, wish.num_workers
        )
        used = limits.metered(tallies.ever(view, wish.project, CostBy.JOB, wish.job_id))
        lasts = limits.lasts_s(wish.limits, used, per_s)
        return None if lasts is None else max(_LEAST_S, lasts - wish.grace_s - model.NOTICE_S / 2)

    def release(self, tx: Transaction, job_id: str) -> None:
        """Take back what is left of a promise, in the transaction that ends its job for good. Safe to repeat."""
        known = tx.get(RESERVATIONS, job_id)
        if known is not None:
            self._pledge(tx, known.project, known.user, Meters() - known.left)
            tx.delete(RESERVATIONS, job_id)

    def judge(self, *, own: bool) -> Judgement:
        """Which jobs have to stop now, and when to ask again. Costs next to nothing where nobody has a budget.

        Args:
            own: a job that holds resources may have a budget of its own.
        """
        now = self._clock.now()
        verdict, said = self._store.read(lambda view: self._judge(view, own, now))
        if said:
            self._store.write(lambda tx: self._say_each(tx, said, now))
        return verdict

    def settle(self, tx: Transaction, entries: Sequence[LedgerEntry]) -> None:
        """Use up the promise of a job by what a task of it cost, in the transaction that writes that to the ledger."""
        first = entries[0]
        known = tx.get(RESERVATIONS, first.job_id)
        if known is not None:
            used = limits.metered(sum((rules.usage_of(entry) for entry in entries), rules.NOTHING))
            left = limits.at_least_nothing(known.left - used)
            tx.update(RESERVATIONS, changed(known, {"left": left}))
            self._pledge(tx, known.project, known.user, left - known.left)
        covering = _covering(tx, first.project, first.user)
        if not covering:
            return
        now = self._clock.now()
        pots = Pots(tx, self._prices.history(tx), now)
        for budget in covering:
            self._say(tx, budget, pots.of_budget(budget, ()), 0.0, now)

    # The loop

    def tick(self) -> float:
        """When a month begins, what was said of the last one is over. Returns the seconds until it may have to be done again."""
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            for budget in tx.select(BUDGETS):
                if budget.reached and budget.reached_in != period_of(budget, now):
                    self._clear(tx, budget, 0.0, now)

        self._store.write(work)
        return min(_LONGEST_S, rules.end_of_month(now) - now + 1.0)

    # Operations

    def set(self, tx: Transaction, ask: model.SetBudget, by: Caller) -> BudgetStatus:
        now = self._clock.now()
        scope, name = (BudgetScope.USER, ask.user) if ask.user else (BudgetScope.PROJECT, by.project)
        known = tx.select(BUDGETS, {"project": by.project, "scope": scope, "name": name}, limit=1)
        if known and known[0].period is not ask.period:
            known = [self._clear(tx, known[0], 0.0, now)]
        wanted = Budget(
            id=known[0].id if known else self._ids.new("budget"),
            project=by.project,
            scope=scope,
            name=name,
            period=ask.period,
            limits=ask.limits,
            set_by=by.principal,
            set_at=now,
        )
        if known:
            said = {name: getattr(known[0], name) for name in ("version", "reached", "reached_in")}
            stored = tx.update(BUDGETS, changed(wanted, said))
        else:
            stored = tx.insert(BUDGETS, wanted)
        pots, spenders = Pots(tx, self._prices.history(tx), now), list(self.spenders(tx, {by.project}, now))
        pot = pots.of_budget(stored, spenders)
        stored = self._clear(tx, stored, limits.reached(limits.used_share(pot)), now)
        return pots.status(self._say(tx, stored, pot, 0.0, now), spenders)

    def get(self, ask: model.GetBudget, by: Caller) -> BudgetStatus:
        return self._store.read(lambda view: self.status(view, ask.budget_id, by.project))

    def status(self, view: Snapshot, budget_id: str, project: str) -> BudgetStatus:
        """A budget of a project, and what has become of it. Raises `BudgetMissing`."""
        return self._statuses(view, [_own(view, budget_id, project)], project)[0]

    def delete(self, tx: Transaction, ask: model.DeleteBudget, by: Caller) -> Done:
        budget = _own(tx, ask.budget_id, by.project)
        self._clear(tx, budget, 0.0, self._clock.now())
        tx.delete(BUDGETS, budget.id)
        return Done()

    # Inside

    def _statuses(self, view: Snapshot, found: Iterable[Budget], project: str) -> list[BudgetStatus]:
        now = self._clock.now()
        pots, spenders = Pots(view, self._prices.history(view), now), list(self.spenders(view, {project}, now))
        return [pots.status(budget, spenders) for budget in found]

    def _judge(self, view: Snapshot, own: bool, now: float) -> tuple[Judgement, list[tuple[Budget, Pot, float]]]:
        budgets = view.select(BUDGETS)
        if not budgets and not own:
            return Judgement(), []
        history = self._prices.history(view)
        pots, said, halts = Pots(view, history, now), [], dict[str, str]()
        spenders = list(self.spenders(view, None if own else {budget.project for budget in budgets}, now))
        looks: list[float | None] = [moment - now for moment in history.changes_after(now)]
        for budget in budgets:
            pot = pots.of_budget(budget, spenders)
            if pot.members:
                stopped = limits.to_halt(pot)
                halts |= stopped
                looks.append(limits.look_again_s(pot))
                said.append((budget, pot, 1.0 if stopped else 0.0))
        for spender in spenders:
            if alone := pots.of_job(spender):
                halts |= limits.to_halt(alone)
                looks.append(limits.look_again_s(alone))
        going = {spender.job_id for spender in spenders if spender.told_at is None}
        soonest = min((look for look in looks if look is not None), default=None)
        verdict = Judgement(halts={key: why for key, why in halts.items() if key in going}, look_again_s=soonest)
        return verdict, [item for item in said if _is_news(*item, now)]

    def _say_each(self, tx: Transaction, said: Iterable[tuple[Budget, Pot, float]], now: float) -> None:
        for budget, pot, at_least in said:
            fresh = tx.get(BUDGETS, budget.id)
            if fresh is not None and fresh.version == budget.version:
                self._say(tx, fresh, pot, at_least, now)

    def _say(self, tx: Transaction, budget: Budget, pot: Pot, at_least: float, now: float) -> Budget:
        """Say each threshold that was reached, once a period."""
        if not _is_news(budget, pot, at_least, now):
            return budget
        budget = self._clear(tx, budget, 0.0, now) if budget.reached_in != period_of(budget, now) else budget
        share = max(at_least, limits.used_share(pot))
        for threshold in THRESHOLDS:
            if budget.reached < threshold <= share:
                self._publish(tx, budget, threshold, share, pot)
        fields = {"reached": limits.reached(share), "reached_in": period_of(budget, now)}
        return tx.update(BUDGETS, changed(budget, fields))

    def _publish(self, tx: Transaction, budget: Budget, threshold: float, share: float, pot: Pot) -> None:
        used = ", ".join(
            f"{limits.amount(meter, getattr(pot.spent, meter))} of {limits.amount(meter, limit)}"
            for meter, limit in pot.limits.items()
        )
        truly = limits.used_share(pot)
        early = "" if truly >= threshold else " What was left paid for stopping in time what ran."
        message = f"{pot.name} reached {threshold:.0%}: {truly:.0%} is used, {used}.{early}"
        news = BudgetReached(budget=pot.name, threshold=threshold, share=share, message=message)
        self._outbox.publish(tx, budget.project, budget.id, news)

    def _clear(self, tx: Transaction, budget: Budget, above: float, now: float) -> Budget:
        """Take back what was said of thresholds above a share: the budget was raised, or a new month began."""
        over = [threshold for threshold in THRESHOLDS if above < threshold <= budget.reached]
        for threshold in over:
            name = name_of(budget)
            message = f"{name} is below {threshold:.0%} again."
            news = BudgetReached(budget=name, threshold=threshold, share=above, message=message, over=True)
            self._outbox.publish(tx, budget.project, budget.id, news)
        fields = {"reached": min(above, budget.reached), "reached_in": period_of(budget, now)}
        return tx.update(BUDGETS, changed(budget, fields)) if over else budget

    def _pledge(self, tx: Transaction, project: str, user: str, more: Meters) -> None:
        for scope, name in ((BudgetScope.PROJECT, project), (BudgetScope.USER, user)):
            key = f"{project}/{scope.value}/{name}"
            known = tx.get(PLEDGES, key)
            if known is None:
                tx.insert(PLEDGES, Pledge(id=key, project=project, left=more))
            else:
                tx.update(PLEDGES, changed(known, {"left": known.left + more}))

    def list(self, ask: model.ListBudgets, by: Caller) -> Page[BudgetStatus]:
        def work(view: Snapshot) -> Page[BudgetStatus]:
            found = view.select(BUDGETS, {"project": by.project}, limit=ask.limit)
            return Page(items=tuple(self._statuses(view, found, by.project)))

        return self._store.read(work)


def _check_own(wish: Wish, per_s: Meters) -> None:
    """Raise `BudgetExhausted` when a job's own budget does not even pay for its least run."""
    least = limits.minimum(wish, per_s)
    for meter, limit in limits.limits_of(wish.limits).items():
        if limit == 0 or limit < getattr(least, meter):
            raise model.BudgetExhausted(
                f"The job could never run: its budget is {limits.amount(meter, limit)}, and a second of work and the "
                f"{wish.grace_s:g} s that it may take to stop need {limits.amount(meter, getattr(least, meter))}.",
                next_action="Give it a larger budget, fewer workers, or a shorter grace.",
            )


def _covering(view: Snapshot, project: str, user: str) -> list[Budget]:
    found = view.select(BUDGETS, {"project": project})
    return [budget for budget in found if budget.scope is BudgetScope.PROJECT or budget.name == user]


def _own(view: Snapshot, budget_id: str, project: str) -> Budget:
    budget = owned(view, BUDGETS, budget_id, project)
    if budget is None:
        raise model.BudgetMissing(f"There is no budget {budget_id}.", next_action="List them: skyloom budget list.")
    return budget


def _is_news(budget: Budget, pot: Pot, at_least: float, now: float) -> bool:
    share = max(at_least, limits.used_share(pot))
    said = budget.reached if budget.reached_in == period_of(budget, now) else 0.0
    return limits.reached(share) > said


def _what_to_do(budget: Budget, wish: Wish) -> str:
    less = "ask for less, or for a shorter time (--max-duration)" if wish.expected_s is not None else "ask for less"
    when = ", or wait for the next month" if budget.period is Period.MONTH else ""
    return f"Raise the budget (skyloom budget set), {less}{when}; skyloom budget list shows what is left."
