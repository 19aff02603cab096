"""A version of a table as one Parquet file, written while it is read: for programs that know nothing of tables."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from skyloom.ports.tables import Tables

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 32 * 2**20


def as_parquet(tables: Tables, table: str, number: int) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file with the rows of a version in their stored order, without their ids.

    Memory holds one row group. Types and field metadata come back as they are: the Arrow schema is kept in the file.
    Raises `NotFound` before the first chunk.
    """
    schema = tables.schema(table, number)
    return _written(schema, tables.scan(table, number, columns=schema.names))


def _written(schema: "pa.Schema", batches: "Iterator[pa.RecordBatch]") -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = _Sink()
    # Names inside of lists stay what they are, so that the digest of the rows does.
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, use_compliant_nested_type=False) as writer:
        for group in _groups(batches):
            writer.write_table(pa.Table.from_batches(group, schema))
            yield sink.taken()
    yield sink.taken()


def _groups(batches: "Iterator[pa.RecordBatch]") -> "Iterator[list[pa.RecordBatch]]":
    group: list[pa.RecordBatch] = []
    size_bytes = 0
    for batch in batches:
        group.append(batch)
        size_bytes += batch.nbytes
        if size_bytes >= _GROUP_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


class _Sink(io.RawIOBase):
    """Takes what the writer writes, until somebody takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, content: Any) -> int:
        taken = bytes(content)
        self._chunks.append(taken)
        self._position += len(taken)
        return len(taken)

    def taken(self) -> bytes:
        """All that came since the last call."""
        content, self._chunks = b"".join(self._chunks), []
        return content
