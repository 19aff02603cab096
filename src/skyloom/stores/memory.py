"""A store without a disk, for tests of rooms. Same promises as the others, except that it forgets when the process ends."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from skyloom.core.errors import AlreadyExists, NotFound, StaleVersion, Unavailable
from skyloom.ports.store import (
    ANYTHING,
    Collection,
    E,
    Log,
    N,
    Not,
    Snapshot,
    Transaction,
    Where,
    attributes,
    changed,
    scalar,
)

T = TypeVar("T")
Records = dict[str, dict[str, Any]]
Entries = dict[str, list[Any]]


class MemoryStore:
    """A `Store` of dictionaries. Records are frozen, so a snapshot is a shallow copy."""

    def __init__(self) -> None:
        self._records: Records = {}
        self._entries: Entries = {}
        self._lock = threading.RLock()
        self._closed = False

    def write(self, work: Callable[[Transaction], T]) -> T:
        with self._lock:
            if self._closed:
                raise Unavailable("The store is closed.", next_action="Open another one.")
            draft = MemoryTransaction(*self._copy())
            answer = work(draft)
            self._records, self._entries = draft.records, draft.logs
            return answer

    def read(self, work: Callable[[Snapshot], T]) -> T:
        with self._lock:
            view = MemorySnapshot(*self._copy())
        return work(view)

    def close(self) -> None:
        self._closed = True

    def _copy(self) -> tuple[Records, Entries]:
        return (
            {name: dict(records) for name, records in self._records.items()},
            {name: list(entries) for name, entries in self._entries.items()},
        )


class MemorySnapshot:
    """`Snapshot` over copies."""

    def __init__(self, records: Records, logs: Entries) -> None:
        self.records = records
        self.logs = logs

    def get(self, collection: Collection[N], identifier: str) -> N | None:
        return self.records.get(collection.name, {}).get(identifier)

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
        known = {"id", "project", *collection.indexes, *collection.unique}
        if not {order, *where} <= known:
            raise ValueError(f"{collection.name} has no index on {sorted({order, *where} - known)}")
        found = [record for record in self.records.get(collection.name, {}).values() if _matches(record, where)]
        found.sort(key=lambda record: (*attributes(record, (order,)), record.id), reverse=newest_first)
        if after is not None:
            found = [record for record in found if (record.id < after if newest_first else record.id > after)]
        return found[:limit]

    def count(self, collection: Collection[N], where: Where = ANYTHING) -> int:
        return len(self.select(collection, where))

    def entries(
        self, log: Log[E], where: Where = ANYTHING, *, after: int = 0, limit: int = 1_000, newest_first: bool = False
    ) -> list[tuple[int, E]]:
        if not set(where) <= set(log.keys):
            raise ValueError(f"{log.name} has no key {sorted(set(where) - set(log.keys))}")
        found = [
            (seq, entry)
            for seq, entry in enumerate(self.logs.get(log.name, []), 1)
            if entry is not None and seq > after and _matches(entry, where)
        ]
        return (found[::-1] if newest_first else found)[:limit]


class MemoryTransaction(MemorySnapshot):
    """`Transaction` over copies; `MemoryStore` keeps them when the work returns."""

    def __init__(self, records: Records, logs: Entries) -> None:
        super().__init__(records, logs)
        self.touched: set[str] = set()

    def insert(self, collection: Collection[N], record: N) -> N:
        table = self.records.setdefault(collection.name, {})
        names = ("project", *collection.unique)
        taken = collection.unique and any(
            attributes(other, names) == attributes(record, names) for other in table.values()
        )
        if record.id in table or taken:
            raise AlreadyExists(f"{collection.name}: {record.id} exists already.", next_action="Choose another name.")
        stored = changed(record, {"version": 1})
        self.touched.add(collection.name)
        table[record.id] = stored
        return stored

    def update(self, collection: Collection[N], record: N) -> N:
        table = self.records.setdefault(collection.name, {})
        if record.id not in table:
            raise NotFound(f"{collection.name}: {record.id} is gone.", next_action="List what is there.")
        if table[record.id].version != record.version:
            raise StaleVersion(f"{collection.name}: {record.id} was changed.", next_action="Read it again and repeat.")
        stored = changed(record, {"version": record.version + 1})
        self.touched.add(collection.name)
        table[record.id] = stored
        return stored

    def delete(self, collection: Collection[N], identifier: str) -> None:
        self.touched.add(collection.name)
        self.records.get(collection.name, {}).pop(identifier, None)

    def append(self, log: Log[E], entry: E) -> int:
        self.touched.add(log.name)
        entries = self.logs.setdefault(log.name, [])
        entries.append(entry)
        return len(entries)

    def trim(self, log: Log[E], *, through: int, limit: int) -> int:
        entries = self.logs.get(log.name, [])
        gone = [place for place, entry in enumerate(entries[:through]) if entry is not None][:limit]
        for place in gone:
            entries[place] = None  # its number is never used again
        return len(gone)


def _matches(record: Any, where: Where) -> bool:
    for name, wanted in where.items():
        (value,) = attributes(record, (name,))
        options = wanted.values if isinstance(wanted, Not) else wanted if isinstance(wanted, tuple) else (wanted,)
        if (value in [scalar(option) for option in options]) is isinstance(wanted, Not):
            return False
    return True
