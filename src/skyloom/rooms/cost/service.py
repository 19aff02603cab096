"""The service of cost: hears that tasks ended, writes the ledger in the same transaction, reads it for reports."""

from collections.abc import Iterator

from skyloom.core.events import Event, TaskEnded
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Handlers, Query
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.cost import model, rules
from skyloom.rooms.cost.ports import LEDGER, Unfinished

_CHUNK_ENTRIES = 1_000


class Cost:
    """The ledger of all projects.

    Args:
        prices: what resources cost from now on.
        unfinished: tells which tasks still run.
    """

    def __init__(self, store: Store, clock: Clock, prices: model.PriceBook, unfinished: Unfinished) -> None:
        self._store = store
        self._clock = clock
        self._prices = prices
        self._unfinished = unfinished

    def handlers(self) -> Handlers:
        return {model.GetCost: Query(self.get)}

    def on_task_ended(self, tx: Transaction, event: Event) -> None:
        """Price a task's life, in the transaction that ends it. Other events, and a task already priced, change nothing."""
        if isinstance(event.body, TaskEnded) and not tx.entries(LEDGER, {"task_id": event.body.task_id}, limit=1):
            tx.append(LEDGER, rules.ledger_entry(event.project, event.body, self._prices))

    def get(self, ask: model.GetCost, by: Caller) -> model.CostReport:
        def work(view: Snapshot) -> model.CostReport:
            now = self._clock.now()
            running = self._unfinished(view, by.project, now)
            return rules.report(
                ask.by,
                _ledger(view, by.project),
                [rules.ledger_entry(by.project, task, self._prices) for task in running],
                since=ask.since,
                until=now,
                limit=ask.limit,
                prices=self._prices,
            )

        return self._store.read(work)


def _ledger(view: Snapshot, project: str) -> Iterator[model.LedgerEntry]:
    after = 0
    while chunk := view.entries(LEDGER, {"project": project}, after=after, limit=_CHUNK_ENTRIES):
        yield from (entry for _, entry in chunk)
        after = chunk[-1][0]
