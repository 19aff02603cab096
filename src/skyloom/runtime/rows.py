"""Reading a dataset version inside a job. The only place of the runtime that knows where rows come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skyloom.core import digests
from skyloom.core.errors import InvalidInput
from skyloom.ports.tables import ROW_ID, Tables
from skyloom.rooms.data.making import SPLIT_COLUMN
from skyloom.rooms.training.model import TableSource
from skyloom.settings import TaskEnvironment
from skyloom.tables.lance import LanceTables


class ColumnMissing(InvalidInput):
    """The dataset version has no such column."""


class SplitEmpty(InvalidInput):
    """A split holds no rows."""


@dataclass(frozen=True)
class RowSet:
    """Some rows in memory, with their stable ids."""

    table: pa.Table
    row_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def digest(self) -> str:
        """Digest of the sorted row ids, 8 bytes each, little-endian."""
        return digests.of_bytes(np.sort(self.row_ids).astype("<i8").tobytes())


class RowSource(Protocol):
    """Rows by split."""

    def columns(self) -> list[str]:
        """Names of the columns, without the row id."""
        ...

    def read(self, split: str, columns: Sequence[str]) -> RowSet:
        """All rows of a split. Raises `ColumnMissing`, `SplitEmpty`."""
        ...


class TableRows:
    """Rows of a dataset version; its ``split`` column says which split a row is in."""

    def __init__(self, source: TableSource, tables: Tables | None = None) -> None:
        self._source = source
        self._tables = tables or LanceTables(TaskEnvironment.read().tables)
        self._schema = self._tables.schema(source.table, source.number)

    def columns(self) -> list[str]:
        return [name for name in self._schema.names if name != ROW_ID]

    def read(self, split: str, columns: Sequence[str]) -> RowSet:
        check_columns(columns, self.columns())
        if SPLIT_COLUMN not in self._schema.names:
            raise SplitEmpty(
                f"Version {self._source.number} of {self._source.table} has no splits.",
                next_action="Split it first: skyloom data split.",
            )
        quoted = split.replace("'", "''")
        where = f"{SPLIT_COLUMN} = '{quoted}'"
        batches = list(
            self._tables.scan(
                self._source.table, self._source.number, columns=list(columns), where=where, with_row_ids=True
            )
        )
        if not sum(batch.num_rows for batch in batches):
            raise no_rows(split)
        table = pa.Table.from_batches(batches)
        return RowSet(table.drop_columns([ROW_ID]), table.column(ROW_ID).to_numpy().astype(np.int64))


class MemoryRows:
    """Rows that lie in memory, by split: for scripts outside of a cloud, and for tests."""

    def __init__(self, splits: Mapping[str, pa.Table]) -> None:
        self._splits = dict(splits)

    def columns(self) -> list[str]:
        return [] if not self._splits else list(next(iter(self._splits.values())).schema.names)

    def read(self, split: str, columns: Sequence[str]) -> RowSet:
        check_columns(columns, self.columns())
        table = self._splits.get(split)
        if table is None or not table.num_rows:
            raise no_rows(split)
        return RowSet(table.select(list(columns)), np.arange(table.num_rows, dtype=np.int64))


def check_columns(asked: Sequence[str], known: Sequence[str]) -> None:
    """Raise `ColumnMissing` unless all columns are there."""
    for name in asked:
        if name not in known:
            raise ColumnMissing(
                f"There is no column {name!r}.", next_action=f"The columns are: {', '.join(known) or 'none'}."
            )


def no_rows(split: str) -> SplitEmpty:
    """The error for a split without rows."""
    return SplitEmpty(
        f"The split {split!r} has no rows.", next_action="Make a version with this split, or name another split."
    )
