"""Rows between two steps: an Arrow file on disk that is mapped and never loaded, so data may be larger than memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from skyloom.core.errors import StorageFull
from skyloom.durable import is_full


class Spool:
    """One Arrow IPC file with its schema."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema

    @classmethod
    def write(cls, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> "Spool":
        """Write rows to a new file. Raises `StorageFull`."""
        try:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        except OSError as error:
            raise _failed(path, error) from error
        return cls(path, schema)

    @classmethod
    def sink(cls, path: Path, schema: pa.Schema, rows: pl.LazyFrame) -> "Spool":
        """Run a lazy query into a new file; ``schema`` is what its rows will be read as."""
        try:
            rows.select(schema.names).sink_ipc(path, compat_level=pl.CompatLevel.oldest())
        except OSError as error:
            raise _failed(path, error) from error
        return cls(path, schema)

    def lazy(self) -> pl.LazyFrame:
        """The rows as a lazy query."""
        return pl.scan_ipc(self.path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in order."""
        with pa.memory_map(str(self.path)) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                if batch.schema.equals(self.schema, check_metadata=True):
                    yield batch
                else:  # Polars writes large_string and forgets field metadata
                    columns = [batch.column(field.name).cast(field.type) for field in self.schema]
                    yield pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def reader(self) -> pa.RecordBatchReader:
        """The rows, as Arrow's reader."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self.lazy().select(pl.len()).collect().item())

    def remove(self) -> None:
        """Give the disk space back."""
        self.path.unlink(missing_ok=True)


def _failed(path: Path, error: OSError) -> Exception:
    if is_full(error) or "os error 28" in str(error):  # Polars gives a text and no number
        return StorageFull(
            f"No room for the working file {path.name}.", next_action="Free some space and run it again."
        )
    return error
