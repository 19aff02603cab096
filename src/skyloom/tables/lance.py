"""Tables in the Lance format below a local folder. All use of pylance in Skyloom is in this file.

The stable row id is an own column and not Lance's: Lance gives new row ids when a version is rewritten as a whole, which is
what cleaning does. Version facts (key, next free id, metadata) travel in the Lance transaction, so they commit with the rows.

pylance and pyarrow are imported when the first table is touched: they cost the control plane's start 1.5 s.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from skyloom.core.errors import InvalidInput, NotFound, SkyloomError, StorageFull, Unavailable
from skyloom.durable import sync_file, sync_folder
from skyloom.ports.tables import ROW_ID, TableVersion

if TYPE_CHECKING:
    import pyarrow as pa

    from skyloom.tables.rows import Numbering

_ID_COLUMN = "__row_id"
_STORAGE_VERSION = "2.1"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
_FACTS = "skyloom.version"
_NEWEST_MANIFEST = 2**64 - 1  # Lance counts manifest names down, so that the newest lists first


class TableMissing(NotFound):
    """No such table, or no such version of it."""


class TableUnreadable(Unavailable):
    """The files of a table cannot be read or written."""


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit says about itself."""

    key: str
    next_id: int
    num_rows: int
    committed_at: float
    metadata: dict[str, str]


class LanceTables:
    """Tables as ``<root>/<table>.lance``. Keeps the promises of `skyloom.ports.tables.Tables`."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()

    def write(
        self,
        table: str,
        batches: "pa.RecordBatchReader",
        *,
        base: int | None,
        key: str,
        metadata: Mapping[str, str] | None = None,
    ) -> TableVersion:
        with self._turn(table), _translated(table):
            history = self._history(table)
            done = next((number for number, facts in history.items() if facts.key == key), None)
            if done is not None:
                return _version(done, history[done])
            if base is not None and base not in history:
                raise _missing(table, base)
            return self._commit(table, batches, history, base, key, dict(metadata or {}))

    def versions(self, table: str) -> list[TableVersion]:
        with _translated(table):
            return [_version(number, facts) for number, facts in sorted(self._history(table).items())]

    def holds(self, table: str, number: int) -> bool:
        return number > 0 and self._manifest(table, number).exists()

    def tag(self, table: str, tag: str, number: int) -> None:
        with self._turn(table), _translated(table):
            tags = self._open(table, number).tags
            (tags.update if tag in tags.list() else tags.create)(tag, number)

    def tags(self, table: str) -> dict[str, int]:
        with _translated(table):
            if not self._exists(table):
                return {}
            return {tag: facts["version"] for tag, facts in self._open(table).tags.list().items()}

    def schema(self, table: str, number: int) -> "pa.Schema":
        with _translated(table):
            schema = self._open(table, number).schema
            return schema.remove(schema.get_field_index(_ID_COLUMN))

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
        with _translated(table):
            dataset = self._open(table, number)
            names = [name for name in dataset.schema.names if name != _ID_COLUMN] if columns is None else list(columns)
            stored = [*([_ID_COLUMN] if with_row_ids or not names else []), *names]
            scanner = dataset.scanner(
                columns=stored, filter=where, batch_size=batch_rows, offset=offset or None, limit=limit
            )
            return _batches(table, scanner.to_batches(), keep_ids=with_row_ids)

    def take(
        self, table: str, number: int, row_ids: Sequence[int], *, columns: Sequence[str] | None = None
    ) -> "pa.Table":
        from skyloom.tables.rows import positions

        with _translated(table):
            dataset = self._open(table, number)
            ids = dataset.to_table(columns=[_ID_COLUMN]).column(_ID_COLUMN).to_numpy()
            names = dataset.schema.names if columns is None else [_ID_COLUMN, *columns]
            return _outside(dataset.take(positions(ids, row_ids), columns=list(names)))

    def head(self, table: str, number: int, limit: int, offset: int = 0) -> "pa.Table":
        with _translated(table):
            return _outside(self._open(table, number).to_table(limit=limit, offset=offset))

    def _commit(
        self,
        table: str,
        batches: "pa.RecordBatchReader",
        history: Mapping[int, _Facts],
        base: int | None,
        key: str,
        metadata: dict[str, str],
    ) -> TableVersion:
        import lance

        newest = max(history, default=0)
        numbering = self._numbering(table, base, history[newest].next_id if newest else 0)
        path = self._path(table)
        feed = _Feed(batches, numbering)
        fragments = feed.write(path, mode="overwrite" if newest else "create")
        for file in (file.path for fragment in fragments for file in fragment.files):
            sync_file(path / "data" / file)
        facts = _Facts(
            key=key,
            next_id=numbering.next_id,
            num_rows=numbering.num_rows,
            committed_at=time.time(),
            metadata=metadata,
        )
        number = self._publish(path, newest, lance.LanceOperation.Overwrite(feed.schema, fragments), facts)
        return _version(number, facts)

    def _publish(self, path: Path, newest: int, change: Any, facts: _Facts) -> int:
        """Commit the fragments and get the manifest onto the disk; a lost race is an error, never a merge."""
        import lance

        properties = {_FACTS: msgspec.json.encode(facts).decode()}
        transaction = lance.Transaction(read_version=newest, operation=change, transaction_properties=properties)
        number = int(lance.LanceDataset.commit(str(path), transaction, max_retries=0).version)
        sync_file(path / "_versions" / f"{_NEWEST_MANIFEST - number}.manifest")
        for folder in (path / "data", path / "_versions", path, path.parent):
            if folder.exists():  # a version without rows has no data folder
                sync_folder(folder)
        return number

    def _numbering(self, table: str, base: int | None, next_id: int) -> "Numbering":
        from skyloom.tables.rows import Numbering

        if base is None:
            return Numbering((), next_id)
        ids = self._open(table, base).scanner(columns=[_ID_COLUMN]).to_batches()
        return Numbering((batch.column(0).to_numpy() for batch in ids), next_id)

    def _history(self, table: str) -> dict[int, _Facts]:
        if not self._exists(table):
            return {}
        dataset = self._open(table)
        transactions = dataset.get_transactions(dataset.version)
        return {
            transaction.read_version + 1: msgspec.json.decode(transaction.transaction_properties[_FACTS], type=_Facts)
            for transaction in transactions
        }

    def _exists(self, table: str) -> bool:
        return any(self._path(table).glob("_versions/*.manifest"))

    def _open(self, table: str, number: int | None = None) -> Any:
        import lance

        if number is not None and not self.holds(table, number):
            raise _missing(table, number)
        return lance.dataset(str(self._path(table)), version=number)

    def _manifest(self, table: str, number: int) -> Path:
        return self._path(table) / "_versions" / f"{_NEWEST_MANIFEST - number}.manifest"

    def _path(self, table: str) -> Path:
        if not _NAME.match(table) or ".." in table:
            raise InvalidInput(f"{table!r} is no table name.", next_action="Use letters, digits, dot, dash and slash.")
        return self._root / f"{table}.lance"

    @contextlib.contextmanager
    def _turn(self, table: str) -> Iterator[None]:
        """Let one writer at a time at a table, across threads and processes; the system gives the turn back when one dies."""
        path = self._path(table)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            turn = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(table, error) from error
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield
        finally:
            os.close(turn)


class _Feed:
    """Rows on their way to pylance, with the id column that is stored."""

    def __init__(self, batches: "pa.RecordBatchReader", numbering: "Numbering") -> None:
        import pyarrow as pa

        self._batches = batches
        self._numbering = numbering
        self._failure: SkyloomError | None = None
        fields = [field for field in batches.schema if field.name != ROW_ID]
        self.schema = pa.schema([pa.field(_ID_COLUMN, pa.int64(), nullable=False), *fields])

    def write(self, path: Path, mode: str) -> list[Any]:
        """Write data files that no version knows yet. What the source of the rows raised comes out as it was."""
        import lance
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(self.schema, self._rows())
        try:
            return list(
                lance.fragment.write_fragments(reader, str(path), mode=mode, data_storage_version=_STORAGE_VERSION)
            )
        except Exception:
            if self._failure is not None:  # on its way through C it became text
                raise self._failure from None
            raise

    def _rows(self) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa

        try:
            for batch in self._batches:
                ids, rest = self._numbering.number(batch)
                yield pa.RecordBatch.from_arrays([ids, *rest.columns], schema=self.schema)
        except SkyloomError as error:
            self._failure = error
            raise


def _batches(table: str, batches: Iterator["pa.RecordBatch"], *, keep_ids: bool) -> Iterator["pa.RecordBatch"]:
    with _translated(table):
        for batch in batches:
            yield _outside(batch) if keep_ids else _without_ids(batch)


def _without_ids(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    return batch.drop_columns([_ID_COLUMN]) if _ID_COLUMN in batch.schema.names else batch


def _outside(rows: Any) -> Any:
    return rows.rename_columns([ROW_ID if name == _ID_COLUMN else name for name in rows.schema.names])


def _version(number: int, facts: _Facts) -> TableVersion:
    return TableVersion(
        number=number,
        num_rows=facts.num_rows,
        committed_at=facts.committed_at,
        key=facts.key,
        metadata=facts.metadata,
    )


@contextlib.contextmanager
def _translated(table: str) -> Iterator[None]:
    """Turn what pylance raises (OSError, ValueError and RuntimeError alike) into our own errors."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ValueError, RuntimeError, ArrowException) as error:
        raise _failed(table, error) from error


def _failed(table: str, error: Exception) -> StorageFull | TableUnreadable:
    text = str(error).split(", /")[0]  # what follows are places in the library's source
    if "os error 28" in text or "No space left" in text:
        return StorageFull(f"No room for table {table}: {text}", next_action="Free some space and run it again.")
    return TableUnreadable(f"Table {table}: {text}", next_action="Check the disk and the rights on the table's folder.")


def _missing(table: str, number: int) -> TableMissing:
    return TableMissing(f"Table {table} has no version {number}.", next_action="List its versions.")
