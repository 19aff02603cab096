from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from skyloom.core import digests
from skyloom.ports.tables import Tables
from skyloom.recipes import columns
from skyloom.rooms.training.model import TableSource
from skyloom.runtime.rows import ColumnMissing, SplitEmpty, TableRows
from skyloom.tables.lance import LanceTables
from skyloom.tables.memory import MemoryTables

NUM_ROWS = 40
PIXELS = np.arange(NUM_ROWS * 2 * 3 * 4, dtype=np.uint8).reshape(NUM_ROWS, 2, 3, 4)


def stored(*, with_split: bool = True) -> pa.RecordBatchReader:
    kind = pa.list_(pa.field("item", pa.uint8(), nullable=False), 24)
    image = pa.field("image", kind, nullable=False, metadata={b"shape": msgspec.json.encode([2, 3, 4])})
    split = ["train" if row % 4 else "it's a test" for row in range(NUM_ROWS)]
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(PIXELS.reshape(-1)), type=kind),
        pa.array(range(NUM_ROWS)),
        pa.array(split),
    ]
    schema = pa.schema([image, pa.field("label", pa.int64()), pa.field("split", pa.string())])
    table = pa.table(arrays, schema=schema)
    return (table if with_split else table.drop_columns(["split"])).to_reader(max_chunksize=7)


@pytest.fixture(params=["lance", "memory"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    return LanceTables(tmp_path) if request.param == "lance" else MemoryTables()


def rows(tables: Tables, **options: bool) -> TableRows:
    number = tables.write("p/set", stored(**options), base=None, key="k").number
    return TableRows(TableSource(table="p/set", number=number), tables)


def test_split_comes_with_its_own_rows_their_ids_and_their_pixels(tables: Tables) -> None:
    source = rows(tables)
    assert source.columns() == ["image", "label", "split"]
    train = source.read("train", ["image", "label"])
    wanted = [row for row in range(NUM_ROWS) if row % 4]
    assert train.table.column("label").to_pylist() == wanted
    assert train.table.column_names == ["image", "label"]
    assert np.array_equal(columns.images(train.table, "image"), PIXELS[wanted])
    assert len(set(train.row_ids.tolist())) == len(train) == len(wanted)


def test_digest_is_over_the_sorted_row_ids(tables: Tables) -> None:
    train = rows(tables).read("train", ["label"])
    ids = b"".join(int(row).to_bytes(8, "little") for row in sorted(train.row_ids.tolist()))
    assert train.digest == digests.of_bytes(ids)


def test_split_is_a_value_and_never_a_condition(tables: Tables) -> None:
    source = rows(tables)
    assert len(source.read("it's a test", ["label"])) == NUM_ROWS // 4
    with pytest.raises(SplitEmpty):
        source.read("x' OR 'a' = 'a", ["label"])


def test_what_is_not_there_is_named(tables: Tables) -> None:
    source = rows(tables)
    with pytest.raises(ColumnMissing, match=r"no column 'price'\. The columns are: image, label, split"):
        source.read("train", ["price"])
    with pytest.raises(SplitEmpty, match="'validation' has no rows"):
        source.read("validation", ["label"])


def test_version_without_splits_says_what_to_do(tables: Tables) -> None:
    with pytest.raises(SplitEmpty, match=r"has no splits\. Split it first"):
        rows(tables, with_split=False).read("train", ["label"])
