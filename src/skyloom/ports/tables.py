"""Tables: versioned rows in an open format, larger than memory, with ids that stay with their rows.

Rows travel as Arrow record batches. ``_rowid`` (int64, not null) is the stable row id: it is given once, stays with its row
through every version that keeps the row, and is never used again in that table.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

ROW_ID = "_rowid"
SHAPE = b"shape"  # field metadata of flat lists: JSON of the shape of each value


class TableVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a table. Versions count from 1 and never change.

    Attributes:
        key: the idempotency key it was committed under.
        metadata: what the writer wanted kept with the version.
    """

    number: int
    num_rows: int
    committed_at: float
    key: str = ""
    metadata: dict[str, str] = {}


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

        A row keeps the ``_rowid`` it carries, which must be one of version ``base`` and come once; rows without one (no such column,
        or null) get new ids. ``base`` is any version, not only the newest: versions form a tree, numbers follow the commits.
        ``base=None`` gives new ids to all. Field metadata is kept.

        Idempotent by ``key``: a commit that was made before under this key is returned again and ``batches`` is not read. Writers of one
        table take turns, so this blocks while another one writes. A crash leaves the old versions or one more, never a part of one.
        Raises `NotFound` (no such base), `InvalidInput` (foreign or repeated ids), `StorageFull` (nothing was committed).
        """
        ...

    def versions(self, table: str) -> list[TableVersion]:
        """All versions, oldest first; empty for an unknown table."""
        ...

    def holds(self, table: str, number: int) -> bool:
        """True when the table has this version. Cheap: opens nothing and imports nothing."""
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
        offset: int = 0,
        limit: int | None = None,
    ) -> Iterator["pa.RecordBatch"]:
        """Stream rows in stored order; memory holds a few batches, whatever the size of the table.

        ``where`` is a simple SQL condition built by us, never by a user. ``offset`` and ``limit`` cut what it
        leaves. Raises `NotFound` before the first batch.
        """
        ...

    def take(
        self, table: str, number: int, row_ids: Sequence[int], *, columns: Sequence[str] | None = None
    ) -> "pa.Table":
        """Rows by stable id, in the order asked, with ``_rowid``; ids that this version does not hold are left out."""
        ...

    def head(self, table: str, number: int, limit: int, offset: int = 0) -> "pa.Table":
        """Some rows with their ``_rowid``, in stored order."""
        ...
