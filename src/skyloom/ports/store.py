"""The decision database: records in collections, and append-only logs, changed in durable transactions.

A room says what it needs stored as `Collection` values in its ``ports.py``; an adapter needs to know nothing else about it.
Measurements (series, task output, request logs) never come here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every stored noun.

    Attributes:
        id: unique in its collection.
        project: the tenant that owns it.
        version: 1 when inserted, and one more with every update; an update must carry the version it read.
    """

    id: str
    project: str
    version: int = 0


N = TypeVar("N", bound=Record)
E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True)
class Collection(Generic[N]):
    """Records of one noun.

    Attributes:
        name: lower-case words with underscores.
        noun: the record class.
        indexes: attributes that `Snapshot.select` may filter and order by, beside ``id`` and ``project``.
        unique: attributes that together with ``project`` name one record, or empty.
        ordered: pairs of ``indexes`` or ``project``; a select where the first has one value, ordered by the second, costs what it returns.
    """

    name: str
    noun: type[N]
    indexes: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    ordered: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Log(Generic[E]):
    """An append-only sequence. ``keys`` are attributes that `Snapshot.entries` may filter by."""

    name: str
    noun: type[E]
    keys: tuple[str, ...] = ()


Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Not:
    """In a `Where`: any value but these."""

    values: tuple[Scalar, ...]


Where = Mapping[str, Scalar | tuple[Scalar, ...] | Not]
ANYTHING: Where = MappingProxyType({})


@runtime_checkable
class Snapshot(Protocol):
    """A consistent view. Use it only inside the function it was given to, on the same thread."""

    def get(self, collection: Collection[N], identifier: str) -> N | None:
        """Return one record, or None. Does not look at the project: `lookup.owned` does."""
        ...

    def select(
        self,
        collection: Collection[N],
        where: Where = ANYTHING,
        *,
        order: str = "id",
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[N]:
        """Return the records whose attributes equal ``where`` (a tuple means: any of these; `Not`: none of these).

        Ordered by ``order`` and then id. ``after`` is the id of the last record already seen, only with ``order="id"``.
        """
        ...

    def count(self, collection: Collection[N], where: Where = ANYTHING) -> int:
        """Count the records that `select` would return without a limit."""
        ...

    def entries(
        self,
        log: Log[E],
        where: Where = ANYTHING,
        *,
        after: int = 0,
        limit: int = 1_000,
        newest_first: bool = False,
    ) -> list[tuple[int, E]]:
        """Return entries with their sequence numbers (from 1), in order; ``after`` is the last number already seen."""
        ...


@runtime_checkable
class Transaction(Snapshot, Protocol):
    """A view that may change. It sees its own writes. All of it commits, or none.

    Attributes:
        touched: the names of the collections and logs that were written to.
    """

    touched: set[str]

    def insert(self, collection: Collection[N], record: N) -> N:
        """Add a record; returns it at version 1. Raises `AlreadyExists` when the id or the unique name is taken."""
        ...

    def update(self, collection: Collection[N], record: N) -> N:
        """Replace a record; returns it one version up.

        Raises `StaleVersion` unless the stored version equals ``record.version``; `NotFound` when it is gone.
        """
        ...

    def delete(self, collection: Collection[N], identifier: str) -> None:
        """Remove a record; does nothing when it is gone."""
        ...

    def append(self, log: Log[E], entry: E) -> int:
        """Add an entry; returns its sequence number, which is never used again. Gaps are possible, repeats are not."""
        ...

    def trim(self, log: Log[E], *, through: int, limit: int) -> int:
        """Remove the oldest entries up to the number ``through``, so many at most; returns how many went. Nothing is touched."""
        ...


class Store(Protocol):
    """Where decisions are kept. Thread-safe. Exactly one process has it open."""

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction, alone, and return its answer once the change is on disk.

        Blocks the caller (never call it on an event loop). Several callers share one disk sync. Whatever ``work`` raises rolls
        back its own changes only and comes out here. ``work`` must not wait for anything: no network, no other write.
        Raises `StorageFull` when the disk is full and `Unavailable` after `close`.
        """
        ...

    def read(self, work: Callable[[Snapshot], T]) -> T:
        """Run ``work`` on a snapshot of what was committed before the call, beside any writer."""
        ...

    def close(self) -> None:
        """Finish queued writes and let go of the files. Safe to call twice."""
        ...


def changed(record: N, changes: Mapping[str, Any]) -> N:
    """A copy of a frozen record with some attributes replaced."""
    return msgspec.structs.replace(record, **changes)


def attributes(record: msgspec.Struct, names: Iterable[str]) -> tuple[Scalar, ...]:
    """Read index values off a record; enums become their text."""
    return tuple(scalar(getattr(record, name)) for name in names)


def scalar(value: Any) -> Scalar:
    """What is stored and compared of a value: an enum's text, anything else as it is."""
    plain: Scalar = getattr(value, "value", value)
    return plain
