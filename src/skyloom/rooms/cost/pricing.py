"""The service of prices: keeps every list that was ever valid."""

import msgspec

from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.cost import model
from skyloom.rooms.cost.ports import PRICES, PoolNames
from skyloom.rooms.cost.prices import (
    ANY_POOL,
    PriceBook,
    PricedPoolMissing,
    PriceHistory,
    PriceList,
    PriceUnclear,
    Tenure,
)

_SETTINGS = "settings"
_EVERYBODY = "*"


class Prices:
    """The price lists of all pools.

    Attributes:
        pools: tells which pools there are. Set by the composition root.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self.pools: PoolNames = lambda view: ()

    def handlers(self) -> Handlers:
        return {model.SetPrices: Change(self.set), model.ListPrices: Query(self.list)}

    def history(self, view: Snapshot) -> PriceHistory:
        """Everything that was ever valid."""
        return PriceHistory(view.select(PRICES))

    def install(self, book: PriceBook) -> None:
        """Take over what the settings say, from now on if they said something else before. The first list of a cloud is valid for
        everything before it too."""

        def work(tx: Transaction) -> None:
            known = [item for item in tx.select(PRICES) if item.set_by == _SETTINGS]
            if not known:
                self._add(tx, ANY_POOL, Tenure.OWNED, book, 0.0, _SETTINGS)
            elif max(known, key=lambda item: (item.valid_from, item.id)).prices != book:
                self._add(tx, ANY_POOL, Tenure.OWNED, book, self._clock.now(), _SETTINGS)

        self._store.write(work)

    def set(self, tx: Transaction, ask: model.SetPrices, by: Caller) -> PriceList:
        now = self._clock.now()
        if ask.valid_from is not None and ask.valid_from < now:
            raise PriceUnclear(
                f"The prices of {ask.pool} cannot change in the past.",
                next_action="Leave the moment out: they are valid from now on.",
            )
        known = (ANY_POOL, *self.pools(tx))
        if ask.pool not in known:
            raise PricedPoolMissing(
                f"There is no pool {ask.pool!r}.",
                next_action=f"Give one of {', '.join(known)}; {ANY_POOL} is for all without prices of their own.",
            )
        valid_from = ask.valid_from or now
        before = self.history(tx).at(ask.pool, valid_from)
        tenure = ask.tenure or (before.tenure if before else Tenure.ON_DEMAND)
        return self._add(tx, ask.pool, tenure, _changed(before, ask), valid_from, by.principal)

    def list(self, ask: model.ListPrices, by: Caller) -> Page[PriceList]:
        def work(view: Snapshot) -> Page[PriceList]:
            if ask.history:
                found = sorted(view.select(PRICES), key=lambda item: (item.valid_from, item.id), reverse=True)
                return Page(items=tuple(found[: ask.limit]))
            return Page(items=self.history(view).current(self._clock.now())[: ask.limit])

        return self._store.read(work)

    def _add(
        self, tx: Transaction, pool: str, tenure: Tenure, book: PriceBook, valid_from: float, set_by: str
    ) -> PriceList:
        return tx.insert(
            PRICES,
            PriceList(
                id=self._ids.new("price"),
                project=_EVERYBODY,
                pool=pool,
                tenure=tenure,
                prices=book,
                valid_from=valid_from,
                set_by=set_by,
            ),
        )


def _changed(before: PriceList | None, ask: model.SetPrices) -> PriceBook:
    """The prices that were valid, but for those that are named."""
    named = {field: getattr(ask, field) for field in PriceBook.__struct_fields__}
    book = before.prices if before else PriceBook()
    return msgspec.structs.replace(book, **{field: price for field, price in named.items() if price is not None})
