"""Prices: what a pool's resources cost, from when on. A later price changes nothing that was used before it."""

import bisect
import enum
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.ports.store import Record

# Valid for every pool that has no list of its own.
ANY_POOL = "default"


class PriceUnclear(InvalidInput):
    """The price is no amount of money, or would be valid in the past."""


class PricedPoolMissing(NotFound):
    """No such pool: nothing there could cost anything."""


class PriceBook(msgspec.Struct, frozen=True, kw_only=True):
    """What holding a resource for an hour costs, whether it is busy or idle."""

    cpu_usd_per_hour: float = 0.0
    gpu_usd_per_hour: float = 0.0
    memory_gib_usd_per_hour: float = 0.0


class Tenure(enum.StrEnum):
    """How a pool's machines are paid for. They all cost by the second held; the word is for people and for placement."""

    ON_DEMAND = "on_demand"
    SPOT = "spot"
    OWNED = "owned"  # bought: the price is what writing it off, power and room cost for an hour


class PriceList(Record, frozen=True, kw_only=True):
    """What the resources of one pool cost from a moment on, until the pool's next list. Never changed and never removed.

    Attributes:
        pool: its name; `ANY_POOL` for all pools that have no list of their own.
        valid_from: Unix seconds; 0 for the first one of a cloud.
        set_by: who said so.
    """

    pool: str
    tenure: Tenure = Tenure.ON_DEMAND
    prices: PriceBook
    valid_from: float
    set_by: str = ""


UsdPerHour = Annotated[float, Meta(ge=0, le=1e6)]


class PriceHistory:
    """The lists of all pools, for looking up what was valid when."""

    def __init__(self, lists: Iterable[PriceList]) -> None:
        self._by_pool: dict[str, list[PriceList]] = {}
        self._changes: dict[str, list[float]] = {}
        for item in sorted(lists, key=lambda item: (item.valid_from, item.id)):
            self._by_pool.setdefault(item.pool, []).append(item)

    def at(self, pool: str, moment: float) -> PriceList | None:
        """The list that is valid for a pool at a moment: the pool's own, else that of `ANY_POOL`; None without either."""
        return self._valid(pool, moment) or self._valid(ANY_POOL, moment)

    def book(self, pool: str, moment: float) -> PriceBook:
        """The prices at a moment; nothing costs anything where nobody has said a price."""
        found = self.at(pool, moment)
        return found.prices if found else PriceBook()

    def periods(self, pool: str, start: float, end: float) -> Iterator[tuple[float, float, PriceBook]]:
        """Cut a time where the price of a pool changes. At least one period, even of an empty time."""
        changes = self._changes_of(pool)
        first, last = bisect.bisect_right(changes, start), bisect.bisect_left(changes, end)
        if first >= last:  # as nearly always
            yield start, end, self.book(pool, start)
            return
        borders = [start, *changes[first:last], end]
        pieces = [(since, until, self.book(pool, since)) for since, until in itertools.pairwise(borders)]
        for prices, group in itertools.groupby(pieces, key=lambda piece: piece[2]):
            same = list(group)
            yield same[0][0], same[-1][1], prices

    def changes_after(self, moment: float) -> Iterator[float]:
        """When prices will change that were said beforehand."""
        return (item.valid_from for lists in self._by_pool.values() for item in lists if item.valid_from > moment)

    def current(self, moment: float) -> tuple[PriceList, ...]:
        """The valid list of every pool that has one, by name."""
        found = (self._valid(pool, moment) for pool in sorted(self._by_pool))
        return tuple(item for item in found if item is not None)

    def _changes_of(self, pool: str) -> list[float]:
        if pool not in self._changes:
            lists = (*self._by_pool.get(pool, ()), *self._by_pool.get(ANY_POOL, ()))
            self._changes[pool] = sorted({item.valid_from for item in lists})
        return self._changes[pool]

    def _valid(self, pool: str, moment: float) -> PriceList | None:
        lists = self._by_pool.get(pool, [])
        place = bisect.bisect_right(lists, moment, key=lambda item: item.valid_from)
        return lists[place - 1] if place else None


def check_amounts(what: str, *amounts: float | None) -> None:
    """Raise `PriceUnclear` for NaN, infinities and negative amounts, which a bound in a schema does not tell apart on the way out."""
    for amount in amounts:
        if amount is not None and not (math.isfinite(amount) and amount >= 0):
            raise PriceUnclear(f"{what} of {amount} is no amount.", next_action="Give a number of dollars from 0 up.")
