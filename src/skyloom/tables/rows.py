"""Rows on their way into a table: they get their stable ids, and their content gets a digest."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skyloom.core import digests
from skyloom.core.errors import InvalidInput
from skyloom.ports.tables import ROW_ID

Ids = npt.NDArray[np.int64]


class ForeignRowId(InvalidInput):
    """A row carries an id that its base version does not hold, or that came before."""


class Numbering:
    """Gives ids to rows: the kept ones are checked against the base version, the others count up from ``next_id``.

    Args:
        base_ids: ids of the base version, in batches; empty when all rows are new.
        next_id: the first id that this table never used.
    """

    def __init__(self, base_ids: Iterable[Ids], next_id: int) -> None:
        self._unused = np.zeros(next_id, dtype=bool)  # one byte for each id ever given: a billion rows fit in a GB
        for ids in base_ids:
            self._unused[ids] = True
        self.next_id = next_id
        self.num_rows = 0

    def number(self, batch: pa.RecordBatch) -> tuple[pa.Int64Array, pa.RecordBatch]:
        """Return the batch's ids and the batch without its id column. Raises `ForeignRowId`."""
        self.num_rows += batch.num_rows
        if ROW_ID not in batch.schema.names:
            return self._fresh(batch.num_rows), batch
        carried = batch.column(ROW_ID).cast(pa.int64())
        kept = pc.drop_null(carried).to_numpy(zero_copy_only=False)
        self._use(kept)
        ids = carried.to_numpy(zero_copy_only=False) if not carried.null_count else self._fill(carried)
        return pa.array(ids, pa.int64()), batch.drop_columns([ROW_ID])

    def _use(self, ids: Ids) -> None:
        known = (ids >= 0) & (ids < self._unused.size)
        wrong = ids[~known] if not known.all() else ids[~self._unused[ids]]
        self._unused[ids[known]] = False
        if wrong.size or np.unique(ids).size != ids.size:
            shown = wrong[0] if wrong.size else "one id twice"
            raise ForeignRowId(
                f"Rows of the new version carry ids that the base version does not hold: {shown}.",
                next_action="Keep the ids that came with the rows, once each, and leave those of new rows empty.",
            )

    def _fill(self, carried: pa.Int64Array) -> Ids:
        missing = carried.is_null().to_numpy(zero_copy_only=False)
        ids = carried.fill_null(0).to_numpy(zero_copy_only=False).copy()
        ids[missing] = self._fresh(int(missing.sum())).to_numpy()
        return np.asarray(ids, dtype=np.int64)

    def _fresh(self, count: int) -> pa.Int64Array:
        first = self.next_id
        self.next_id += count
        return pa.array(np.arange(first, self.next_id, dtype=np.int64))


class ContentDigest:
    """Digest of rows in their order, without their ids; the same whatever the batch sizes and the writer's library.

    Rows on their way into a table may carry their ids, and a store may forget that nothing inside of a list is null.
    Three running hashes for each column: which values are present, how long each is (text and bytes), and the values.
    """

    def __init__(self, schema: pa.Schema) -> None:
        fields = [field for field in schema if field.name != ROW_ID]
        self._columns = [(field.name, field.type, [hashlib.sha256() for _ in range(3)]) for field in fields]

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        for name, _, (present, lengths, values) in self._columns:
            column = batch.column(name)
            present.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
            for part in _plain(column):
                values.update(part[1])
                lengths.update(part[0])

    def value(self) -> str:
        """The digest of everything so far."""
        return digests.of_value(
            [[name, _name_of(kind), *(part.hexdigest() for part in parts)] for name, kind, parts in self._columns]
        )


def _name_of(kind: pa.DataType) -> str:
    """A type's name, with nothing that tables and Parquet do not keep alike: what a list calls its values, and their nullability."""
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list<item: {_name_of(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{'large_' if pa.types.is_large_list(kind) else ''}list<item: {_name_of(kind.value_type)}>"
    return str(kind)


def _plain(column: pa.Array) -> Iterator[tuple[bytes, bytes]]:
    """Yield (lengths, bytes) that stand for the values, nulls taken out."""
    column = column.drop_null()
    if pa.types.is_fixed_size_list(column.type):
        yield from _plain(column.flatten())
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield column.value_lengths().cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes(), b""
        yield from _plain(column.flatten())
    elif _is_bytes(column.type):
        column = column.cast(pa.large_binary())
        yield pc.binary_length(column).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes(), _joined(column)
    elif pa.types.is_temporal(column.type):
        width = pa.int32() if column.type.bit_width == 32 else pa.int64()
        yield b"", column.view(width).to_numpy(zero_copy_only=False).tobytes()
    else:
        yield b"", column.to_numpy(zero_copy_only=False).tobytes()


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _joined(column: pa.LargeBinaryArray) -> bytes:
    """The bytes of all values, one after the other."""
    _, offsets, content = column.buffers()
    if content is None or not len(column):
        return b""
    bounds = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return bytes(memoryview(content)[bounds[0] : bounds[-1]])


def positions(ids: Ids, wanted: Iterable[int]) -> Ids:
    """Where the wanted ids stand, in the order asked; ids that are not there are left out."""
    order = np.argsort(ids, kind="stable")
    asked = np.fromiter(wanted, dtype=np.int64)
    if not order.size or not asked.size:
        return np.empty(0, dtype=np.int64)
    found = order[np.minimum(np.searchsorted(ids, asked, sorter=order), ids.size - 1)]
    return np.asarray(found[ids[found] == asked], dtype=np.int64)
