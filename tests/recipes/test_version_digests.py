"""Every version's digest is that of the rows that a job which mounts it finds, whoever made the version."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyloom.recipes.check_rows import digest_of
from skyloom.rooms.data.making import Deduplicate
from skyloom.tables.lance import LanceTables
from skyloom.tables.parquet import as_parquet
from tests.recipes.data_kit import TABLE, Bench
from tests.recipes.test_ingest import png


def _typed() -> bytes:
    pairs = pa.list_(pa.field("x", pa.float32(), nullable=False), 2)
    table = pa.table(
        {
            "a": pa.array([*range(10), None, 1]),
            "vector": pa.array([[n % 10, n % 10] for n in (*range(11), 1)], pairs),
            "at": pa.array([*range(10), None, 1], pa.timestamp("us", tz="UTC")),
            "word": pa.array([*"abcdefghij", None, "b"]).dictionary_encode(),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


FILES: dict[str, dict[str, bytes | str]] = {
    "csv": {"rows.csv": "a,b\n2,\n" + "".join(f"{n},x{n}\n" for n in range(12)) + "2,\n"},
    "parquet": {"rows.parquet": _typed()},
    "images": {f"cat/{n}.png": png(value=n % 10) for n in range(12)},
}


@pytest.mark.parametrize("kind", FILES)
def test_each_version_mounts_with_the_digest_it_was_given(tmp_path: Path, kind: str) -> None:
    bench = Bench(tmp_path, LanceTables(tmp_path / "tables"))
    bench.ingest(FILES[kind])
    bench.clean(1, Deduplicate())
    bench.split(2, train=0.5, validation=0.0, test=0.5)
    file = tmp_path / "rows.parquet"
    for number, contents in bench.contents.items():
        file.write_bytes(b"".join(as_parquet(bench.tables, TABLE, number)))
        assert digest_of(file) == contents.digest, f"version {number}"


def test_cleaning_that_changes_nothing_keeps_the_digest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ingest({"rows.csv": "a,b\n1,x\n2,y\n"})
    bench.clean(1, Deduplicate())
    assert bench.contents[2].digest == bench.contents[1].digest
