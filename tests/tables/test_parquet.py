"""A table's version as Parquet: the same rows, types and digest, without ids."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyloom.core.errors import NotFound
from skyloom.recipes.check_rows import digest_of, main
from skyloom.tables.memory import MemoryTables
from skyloom.tables.parquet import as_parquet
from skyloom.tables.rows import ContentDigest


def table() -> pa.Table:
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(40, dtype=np.uint8)), 4)
    fields = [
        pa.field("image", pixels.type, metadata={b"shape": b"[2,2]"}),
        pa.field("label", pa.string()),
        pa.field("text", pa.large_string()),
        pa.field("number", pa.float64()),
        pa.field("many", pa.list_(pa.int32())),
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("right", pa.bool_()),
    ]
    columns = [
        pixels,
        pa.array([str(n % 3) if n else None for n in range(10)]),
        pa.array(["é" * n for n in range(10)], pa.large_string()),
        pa.array([n / 3 if n % 4 else None for n in range(10)]),
        pa.array([list(range(n)) for n in range(10)], pa.list_(pa.int32())),
        pa.array(range(10), pa.timestamp("us", tz="UTC")),
        pa.array([n % 2 == 0 for n in range(10)]),
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


@pytest.fixture
def tables() -> MemoryTables:
    made = MemoryTables()
    made.write("p/d", table().to_reader(max_chunksize=3), base=None, key="k")
    return made


def test_parquet_has_the_rows_types_and_field_metadata(tables: MemoryTables) -> None:
    content = b"".join(as_parquet(tables, "p/d", 1))
    found = pq.read_table(io.BytesIO(content))
    assert found.equals(table())
    assert found.schema.field("image").metadata[b"shape"] == b"[2,2]"


def test_rows_keep_their_digest_on_the_way(tables: MemoryTables, tmp_path: Path) -> None:
    state = ContentDigest(table().schema)
    for batch in table().to_batches():
        state.add(batch)
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"".join(as_parquet(tables, "p/d", 1)))
    assert digest_of(file) == state.value()
    assert main(str(file), state.value()) == 0


def test_other_rows_and_broken_files_are_found_out(
    tables: MemoryTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(table().slice(1), file)
    assert main(str(file), "sha256:" + "0" * 64) == 1
    assert "not those of the dataset version" in capsys.readouterr().err
    file.write_bytes(b"no parquet")
    assert main(str(file), "sha256:" + "0" * 64) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_large_table_comes_in_parts_and_unknown_one_not_at_all(tables: MemoryTables) -> None:
    wide = pa.table({"x": pa.array([b"\0" * 2**20] * 70)})
    tables.write("p/big", wide.to_reader(max_chunksize=10), base=None, key="k")
    sizes = [len(part) for part in as_parquet(tables, "p/big", 1)]
    assert len(sizes) >= 3
    with pytest.raises(NotFound):
        as_parquet(tables, "p/none", 1)


def test_table_without_rows_is_a_file_with_its_columns() -> None:
    tables = MemoryTables()
    tables.write("p/d", table().slice(0, 0).to_reader(), base=None, key="k")
    assert pq.read_table(io.BytesIO(b"".join(as_parquet(tables, "p/d", 1)))).schema.names == table().schema.names
