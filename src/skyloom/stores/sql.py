"""The SQL that one collection or log needs, made once from its declaration. Values are always bound, never written in.

Column and table names come from our own declarations and are checked against a strict pattern all the same.
"""

import re
from collections.abc import Callable
from typing import Any, Generic

import msgspec

from skyloom.ports.store import Collection, E, Log, N, Not, Record, Where, attributes, scalar

_WORD = re.compile(r"^[a-z_][a-z0-9_]*$")


def word(name: str) -> str:
    """Return ``name`` when it is a plain column or table name; raises ``ValueError`` otherwise."""
    if not _WORD.match(name):
        raise ValueError(f"{name!r} is not a column name")
    return f'"{name}"'


class CollectionSql(Generic[N]):
    """Statements and coding of one collection."""

    def __init__(self, collection: Collection[N]) -> None:
        self.columns = tuple(dict.fromkeys((*collection.indexes, *collection.unique)))
        self.table = word(collection.name)
        self.noun: type[Record] = collection.noun
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(collection.noun).decode
        names = ["id", "project", "version", "body", *self.columns]
        marks = ", ".join("?" * len(names))
        columns = ", ".join(word(name) for name in names)
        self.insert = f"INSERT INTO {self.table} ({columns}) VALUES ({marks})"  # noqa: S608
        assignments = ", ".join(f"{word(name)} = ?" for name in names[1:])
        self.update = f"UPDATE {self.table} SET {assignments} WHERE id = ? AND version = ?"  # noqa: S608
        self.get = f"SELECT body FROM {self.table} WHERE id = ?"  # noqa: S608
        self.delete = f"DELETE FROM {self.table} WHERE id = ?"  # noqa: S608
        self.create = self._create(collection)

    def _create(self, collection: Collection[N]) -> list[str]:
        extra = "".join(f", {word(name)}" for name in self.columns)
        statements = [
            f"CREATE TABLE IF NOT EXISTS {self.table} (id TEXT PRIMARY KEY, project TEXT NOT NULL,"
            f" version INTEGER NOT NULL, body BLOB NOT NULL{extra}) WITHOUT ROWID"
        ]
        for name in ("project", *collection.indexes):
            index = word(f"{collection.name}_{name}")
            statements.append(f"CREATE INDEX IF NOT EXISTS {index} ON {self.table} ({word(name)}, id)")
        for first, then in collection.ordered:
            index = word(f"{collection.name}_{first}_{then}")
            statements.append(f"CREATE INDEX IF NOT EXISTS {index} ON {self.table} ({word(first)}, {word(then)}, id)")
        if collection.unique:
            columns = ", ".join(word(name) for name in ("project", *collection.unique))
            index = word(f"{collection.name}_unique")
            statements.append(f"CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {self.table} ({columns})")
        return statements

    def row(self, record: N) -> tuple[Any, ...]:
        """The values of a record after its id."""
        return (record.project, record.version, self.encode(record), *attributes(record, self.columns))

    def select(
        self, where: Where, order: str, newest_first: bool, after: str | None, limit: int | None
    ) -> tuple[str, list[Any]]:
        """A SELECT of bodies and its values."""
        text, values = condition(where, self._known)
        if after is not None:
            text += f" AND id {'<' if newest_first else '>'} ?"
            values.append(after)
        direction = "DESC" if newest_first else "ASC"
        by = f"{word(self._known(order))} {direction}, id {direction}" if order != "id" else f"id {direction}"
        statement = f"SELECT body FROM {self.table} WHERE {text} ORDER BY {by} LIMIT ?"  # noqa: S608
        return statement, [*values, -1 if limit is None else limit]

    def count(self, where: Where) -> tuple[str, list[Any]]:
        """A SELECT that counts, and its values."""
        text, values = condition(where, self._known)
        return f"SELECT count(*) FROM {self.table} WHERE {text}", values  # noqa: S608

    def _known(self, name: str) -> str:
        if name not in {"id", "project", *self.columns}:
            raise ValueError(f"{self.table} has no index on {name}")
        return name


class LogSql(Generic[E]):
    """Statements and coding of one append-only log."""

    def __init__(self, log: Log[E]) -> None:
        self.keys = log.keys
        self.table = word(log.name)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(log.noun).decode
        columns = "".join(f", {word(name)}" for name in log.keys)
        marks = ", ".join("?" * (1 + len(log.keys)))
        self.insert = f"INSERT INTO {self.table} (body{columns}) VALUES ({marks})"  # noqa: S608
        self.trim = (
            f"DELETE FROM {self.table} WHERE seq IN"  # noqa: S608
            f" (SELECT seq FROM {self.table} WHERE seq <= ? ORDER BY seq LIMIT ?)"
        )
        self.create = [
            f"CREATE TABLE IF NOT EXISTS {self.table} (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL{columns})",
            *(
                f"CREATE INDEX IF NOT EXISTS {word(f'{log.name}_{name}')} ON {self.table} ({word(name)}, seq)"
                for name in log.keys
            ),
        ]

    def select(self, where: Where, after: int, limit: int, newest_first: bool) -> tuple[str, list[Any]]:
        """A SELECT of sequence numbers and bodies, and its values."""
        text, values = condition(where, self._known)
        direction = "DESC" if newest_first else "ASC"
        return (
            f"SELECT seq, body FROM {self.table} WHERE {text} AND seq > ? ORDER BY seq {direction} LIMIT ?",  # noqa: S608
            [*values, after, limit],
        )

    def _known(self, name: str) -> str:
        if name not in self.keys:
            raise ValueError(f"{self.table} has no key {name}")
        return name


def condition(where: Where, known: Callable[[str], str]) -> tuple[str, list[Any]]:
    """Turn what is wanted into a WHERE text and its values. ``known`` refuses a name that is no index."""
    parts: list[str] = ["1"]
    values: list[Any] = []
    for name, wanted in where.items():
        column = word(known(name))
        if wanted is None:
            parts.append(f"{column} IS NULL")
        elif isinstance(wanted, tuple):
            parts.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values.extend(scalar(value) for value in wanted)
        elif isinstance(wanted, Not):
            parts.append(f"{column} NOT IN ({', '.join('?' * len(wanted.values))})")
            values.extend(scalar(value) for value in wanted.values)
        else:
            parts.append(f"{column} = ?")
            values.append(scalar(wanted))
    return " AND ".join(parts), values
