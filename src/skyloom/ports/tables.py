"""Tables: versioned rows in an open format, larger than memory, with ids that stay with their rows.

Rows travel as Arrow record batches. ``_rowid`` is the stable row id; it survives updates, deletes and compaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

ROW_ID = "_rowid"


class TableVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a table. Versions count from 1 and never change."""

    number: int
    num_rows: int
    committed_at: float


class Tables(Protocol):
    """Versioned tables below one root. Thread-safe; several processes may use one table."""

    def write(
        self,
        table: str,
        batches: "pa.RecordBatchReader",
        *,
        base: int | None,
        key: str,
        metadata: Mapping[str, str] = {},
    ) -> TableVersion:
        """Commit a new version whose rows are exactly those of ``batches``; the table is made when missing.

        Rows that carry a ``_rowid`` of version ``base`` keep it, the others get new ids; ``base=None`` gives new ids to all.
        Idempotent by ``key``: a commit that was made before under this key is returned again, nothing is written. A crash leaves
        the old version or the new one. Raises `StorageFull`; `Conflict` when somebody else committed on ``base`` first.
        """
        ...

    def versions(self, table: str) -> list[TableVersion]:
        """All versions, oldest first; empty for an unknown table."""
        ...

    def tag(self, table: str, tag: str, number: int) -> None:
        """Point a tag at a version, moving it when it exists. Raises `NotFound`."""
        ...

    def tags(self, table: str) -> dict[str, int]:
        """All tags and their versions."""
        ...

    def schema(self, table: str, number: int) -> "pa.Schema":
        """Column names and types, without ``_rowid``. Raises `NotFound`."""
        ...

    def scan(
        self,
        table: str,
        number: int,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        with_row_ids: bool = False,
        batch_rows: int = 4_096,
    ) -> Iterator["pa.RecordBatch"]:
        """Stream rows in stored order. ``where`` is a simple SQL condition built by us, never by a user. Raises `NotFound`."""
        ...

    def take(
        self, table: str, number: int, row_ids: Sequence[int], *, columns: Sequence[str] | None = None
    ) -> "pa.Table":
        """Rows by stable id, in the order asked, with ``_rowid``; ids that this version does not hold are left out."""
        ...

    def head(self, table: str, number: int, limit: int, offset: int = 0) -> "pa.Table":
        """Some rows with their ``_rowid``, in stored order."""
        ...
