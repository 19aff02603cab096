"""Tables in memory, for tests."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from skyloom.core.errors import NotFound
from skyloom.ports.tables import ROW_ID, TableVersion
from skyloom.tables.rows import Numbering, positions


@dataclass
class _Table:
    versions: list[TableVersion] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    next_id: int = 0


class MemoryTables:
    """Keeps the promises of `skyloom.ports.tables.Tables` for as long as the process lives."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._turn = threading.Lock()

    def write(
        self,
        table: str,
        batches: pa.RecordBatchReader,
        *,
        base: int | None,
        key: str,
        metadata: Mapping[str, str] | None = None,
    ) -> TableVersion:
        with self._turn:
            stored = self._tables.get(table, _Table())
            for version in stored.versions:
                if version.key == key:
                    return version
            base_ids = [] if base is None else [self._rows(table, base).column(ROW_ID).to_numpy()]
            numbering = Numbering(base_ids, stored.next_id)
            rows = _numbered(batches, numbering)
            number = len(stored.versions) + 1
            version = TableVersion(
                number=number,
                num_rows=rows.num_rows,
                committed_at=float(number),
                key=key,
                metadata=dict(metadata or {}),
            )
            stored.versions.append(version)
            stored.rows.append(rows)
            stored.next_id = numbering.next_id
            self._tables[table] = stored
            return version

    def versions(self, table: str) -> list[TableVersion]:
        return list(self._tables[table].versions) if table in self._tables else []

    def holds(self, table: str, number: int) -> bool:
        return table in self._tables and 1 <= number <= len(self._tables[table].versions)

    def tag(self, table: str, tag: str, number: int) -> None:
        self._rows(table, number)
        self._tables[table].tags[tag] = number

    def tags(self, table: str) -> dict[str, int]:
        return dict(self._tables[table].tags) if table in self._tables else {}

    def schema(self, table: str, number: int) -> pa.Schema:
        return self._rows(table, number).drop_columns([ROW_ID]).schema

    def scan(
        self,
        table: str,
        number: int,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        with_row_ids: bool = False,
        batch_rows: int = 4_096,
        offset: int = 0,
        limit: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        rows = self._rows(table, number)
        if where is not None:
            rows = rows.filter(pl.DataFrame(rows).select(pl.sql_expr(where).fill_null(False)).to_series().to_arrow())
        rows = rows.slice(offset, limit)
        names = [name for name in rows.schema.names if name != ROW_ID] if columns is None else list(columns)
        return iter(rows.select([*([ROW_ID] if with_row_ids else []), *names]).to_batches(batch_rows))

    def take(
        self, table: str, number: int, row_ids: Sequence[int], *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        rows = self._rows(table, number)
        chosen = rows.take(positions(rows.column(ROW_ID).to_numpy(), row_ids))
        return chosen if columns is None else chosen.select([ROW_ID, *columns])

    def head(self, table: str, number: int, limit: int, offset: int = 0) -> pa.Table:
        return self._rows(table, number).slice(offset, limit)

    def _rows(self, table: str, number: int) -> pa.Table:
        stored = self._tables.get(table, _Table())
        if not 1 <= number <= len(stored.rows):
            raise NotFound(f"Table {table} has no version {number}.", next_action="List its versions.")
        return stored.rows[number - 1]


def _numbered(batches: pa.RecordBatchReader, numbering: Numbering) -> pa.Table:
    fields = [field for field in batches.schema if field.name != ROW_ID]
    schema = pa.schema([pa.field(ROW_ID, pa.int64(), nullable=False), *fields])
    parts = []
    for batch in batches:
        ids, rest = numbering.number(batch)
        parts.append(pa.RecordBatch.from_arrays([ids, *rest.columns], schema=schema))
    return pa.Table.from_batches(parts, schema=schema)
