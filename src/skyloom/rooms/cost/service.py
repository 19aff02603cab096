"""The service of cost: hears that tasks ended, writes the ledger and its sums in the same transaction, reads the sums for reports."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from skyloom.core.events import Event, TaskEnded
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Handlers, Query
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.cost import model, rules, tallies
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.cost.forecast import MAX_DAYS, forecast
from skyloom.rooms.cost.model import CostBy, LedgerEntry
from skyloom.rooms.cost.ports import LEDGER, TALLIES, ModelsOfRuns, Titles, Unfinished
from skyloom.rooms.cost.prices import ANY_POOL, PriceHistory
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.cost.usage import Usage
from skyloom.rooms.tenancy.ports import PROJECTS
from skyloom.rooms.tenancy.rules import ALL_PROJECTS

log = logging.getLogger("skyloom.cost")


def _none(_view: Snapshot, _project: str, _runs: Iterable[str]) -> Mapping[str, str]:
    return {}


def _projects(view: Snapshot, kind: CostBy, by: Caller) -> list[str]:
    """The projects of a report: the caller's, or by project all that his token opens."""
    if kind is CostBy.PROJECT and by.scope == ALL_PROJECTS:
        return [project.id for project in view.select(PROJECTS)] or [by.project]
    return [by.project]


class Cost:
    """The ledger of all projects.

    Attributes:
        unfinished: tells which tasks still run. Set by the composition root, since it is made after this.
        models_of_runs: tells which models came of runs.
        titles: tell what jobs and endpoints are called.
    """

    def __init__(self, store: Store, clock: Clock, prices: Prices, budgets: Budgets) -> None:
        self._store = store
        self._clock = clock
        self._prices = prices
        self._budgets = budgets
        self.unfinished: Unfinished = lambda view, project, now: ()
        self.models_of_runs: ModelsOfRuns = _none
        self.titles: Mapping[CostBy, Titles] = {}

    def handlers(self) -> Handlers:
        own: Handlers = {model.GetCost: Query(self.get), model.GetOutlook: Query(self.outlook)}
        return {**own, **self._prices.handlers(), **self._budgets.handlers()}

    def install(self) -> None:
        """Make the sums of a ledger that was written before there were any."""
        if self._store.read(lambda view: view.entries(LEDGER, limit=1) and not view.count(TALLIES)):
            log.info("the sums of the ledger are made once from its %d entries", self._store.write(tallies.rebuild))

    def on_task_ended(self, tx: Transaction, event: Event) -> None:
        """Price a task's life, in the transaction that ends it. Other events, and a task already priced, change nothing."""
        if isinstance(event.body, TaskEnded) and not tx.entries(LEDGER, {"task_id": event.body.task_id}, limit=1):
            entries = rules.ledger_entries(event.project, event.body, self._prices.history(tx))
            for entry in entries:
                tallies.record(tx, entry)
            self._budgets.settle(tx, entries)

    def get(self, ask: model.GetCost, by: Caller) -> model.CostReport:
        def work(view: Snapshot) -> model.CostReport:
            now = self._clock.now()
            since = min(ask.since, now)  # the far future is no day of any calendar
            history = self._prices.history(view)
            used, running = dict[str, Usage](), list[LedgerEntry]()
            for project in _projects(view, ask.by, by):
                used |= tallies.used_since(view, project, ask.by, since)
                running += self._running(view, project, now, history)
            if ask.by is CostBy.MODEL:
                used, running = self._with_models(view, by.project, used, running)
            report = rules.report(
                ask.by,
                used,
                running,
                since=since,
                until=now,
                limit=ask.limit,
                prices=history.book(ANY_POOL, now),
            )
            if (titles := self.titles.get(ask.by)) is None:
                return report
            return rules.entitled(report, titles(view, [row.name for row in report.rows]))

        return self._store.read(work)

    def outlook(self, ask: model.GetOutlook, by: Caller) -> model.CostOutlook:
        now = self._clock.now()
        return self._store.read(lambda view: self._outlook(view, by.project, now, ask.num_days))

    def _outlook(self, view: Snapshot, project: str, now: float, num_days: int) -> model.CostOutlook:
        shown = rules.days_between(now - (num_days - 1) * rules.DAY_S, now)
        looked_at, month = rules.days_between(now - MAX_DAYS * rules.DAY_S, now), rules.month_so_far(now)
        settled = tallies.per_day(view, project, CostBy.PROJECT, project, {*shown, *looked_at, *month})
        used = rules.with_running(settled, self._running(view, project, now, self._prices.history(view)))
        spent = sum((used[day] for day in month), rules.NOTHING).cost
        whole = [used[day].cost for day in looked_at[:-1]]
        days = [(day, used[day]) for day in shown]
        return model.CostOutlook(
            days=tuple(
                model.DayCost(day=day, cost=usage.cost, cpu_hours=usage.cpu_hours, gpu_hours=usage.gpu_hours)
                for day, usage in days
            ),
            forecast=forecast(rules.month_of(now), spent, whole, rules.days_left(now)),
        )

    def _running(self, view: Snapshot, project: str, now: float, history: PriceHistory) -> list[LedgerEntry]:
        tasks = self.unfinished(view, project, now)
        return [
            entry
            for task in tasks
            if not view.entries(LEDGER, {"task_id": task.task_id}, limit=1)
            for entry in rules.ledger_entries(project, task, history)
        ]

    def _with_models(
        self, view: Snapshot, project: str, used: dict[str, Usage], running: list[LedgerEntry]
    ) -> tuple[dict[str, Usage], list[LedgerEntry]]:
        """Put runs that named no model under the model that came of them."""
        names = {*used, *(rules.name_of(CostBy.MODEL, entry) for entry in running)}
        runs = {run for name in names if (run := rules.run_of(name))}
        models = self.models_of_runs(view, project, runs) if runs else {}
        found: dict[str, Usage] = defaultdict(Usage)
        for name, usage in used.items():
            run = rules.run_of(name)
            found[models.get(run, "") if run else name] += usage
        return found, [rules.under_model(entry, models) for entry in running]
