"""Compare the rows of a Parquet file with the digest of a dataset version: ``python -m skyloom.recipes.check_rows FILE DIGEST``.

A part of a task's start that mounts a dataset (`skyloom.engines.local.supervisor.mounting`).
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skyloom.tables.rows import ContentDigest


def main(file: str, digest: str) -> int:
    """Return 0 when the rows are those that the digest names; otherwise say what they are instead."""
    try:
        found = digest_of(Path(file))
    except (OSError, pa.ArrowException) as error:
        return _told(f"the rows cannot be read: {error}")
    if found != digest:
        return _told(f"the rows are not those of the dataset version: their digest is {found}, not {digest}")
    return 0


def digest_of(file: Path) -> str:
    """The digest of the rows of a Parquet file, a part of it in memory at a time."""
    with pq.ParquetFile(file) as parquet:
        state = ContentDigest(parquet.schema_arrow)
        for batch in parquet.iter_batches():
            state.add(batch)
    return state.value()


def _told(text: str) -> int:
    print(" ".join(text.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
