"""LanceTables keeps the promises of the port."""

from pathlib import Path

import pyarrow as pa
import pytest

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.tables.lance import LanceTables
from tests.contracts.tables_contract import TablesContract, letters


class TestLanceTables(TablesContract):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> LanceTables:
        return LanceTables(tmp_path / "tables")

    def test_open_again_finds_versions_of_another_process(self, tmp_path: Path, tables: LanceTables) -> None:
        version = tables.write("p/t", letters("a"), base=None, key="k")
        assert LanceTables(tmp_path / "tables").versions("p/t") == [version]

    @pytest.mark.parametrize("name", ["../t", "/t", "a//b", "", "a/../b", "a\x00b"])
    def test_table_name_outside_the_root_is_refused(self, tables: LanceTables, name: str) -> None:
        with pytest.raises(InvalidInput):
            tables.write(name, letters("a"), base=None, key="k")

    def test_damaged_manifest_is_one_clear_error(self, tmp_path: Path, tables: LanceTables) -> None:
        tables.write("t", letters("a"), base=None, key="k")
        manifest = next((tmp_path / "tables/t.lance/_versions").glob("*.manifest"))
        manifest.write_bytes(b"damaged")
        with pytest.raises(Unavailable, match="Table t:"):
            tables.head("t", 1, 1)

    def test_stored_files_use_the_pinned_format(self, tmp_path: Path, tables: LanceTables) -> None:
        import lance

        tables.write("t", letters("a"), base=None, key="k")
        assert lance.dataset(str(tmp_path / "tables/t.lance")).data_storage_version == "2.1"

    def test_scan_of_a_large_table_streams_batches(self, tables: LanceTables) -> None:
        rows = pa.table({"n": range(50_000)})
        tables.write("t", pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(7_000)), base=None, key="k")
        first = next(tables.scan("t", 1, batch_rows=100))
        assert first["n"].to_pylist() == list(range(100))
