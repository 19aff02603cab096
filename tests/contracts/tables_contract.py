"""What every adapter of `skyloom.ports.tables` must do. Subclass it and give a ``tables`` fixture."""

import itertools
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.ports.tables import ROW_ID, Tables

_fresh = itertools.count()
_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]  # each example has a table of its own


def reader(rows: pa.Table, batch_rows: int = 3) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(batch_rows))


def letters(*values: str | None) -> pa.RecordBatchReader:
    return reader(pa.table({"letter": pa.array(values, pa.string())}))


def everything(tables: Tables, table: str, number: int) -> pa.Table:
    return tables.head(table, number, 1_000_000)


class TablesContract:
    def test_write_new_table_numbers_rows_and_versions(self, tables: Tables) -> None:
        version = tables.write("p/t", letters("a", "b", None, "d"), base=None, key="k", metadata={"made": "here"})
        assert (version.number, version.num_rows, version.metadata) == (1, 4, {"made": "here"})
        assert tables.versions("p/t") == [version]
        assert everything(tables, "p/t", 1).to_pydict() == {ROW_ID: [0, 1, 2, 3], "letter": ["a", "b", None, "d"]}

    def test_write_rows_that_carry_ids_keeps_them_and_numbers_the_rest(self, tables: Tables) -> None:
        tables.write("t", letters("a", "b", "c"), base=None, key="k1")
        rows = pa.table({"letter": ["c", "new", "a"], ROW_ID: pa.array([2, None, 0], pa.int64())})
        tables.write("t", reader(rows, 2), base=1, key="k2")
        assert everything(tables, "t", 2).to_pydict() == {ROW_ID: [2, 3, 0], "letter": ["c", "new", "a"]}

    def test_write_same_key_again_returns_first_version_and_reads_nothing(self, tables: Tables) -> None:
        first = tables.write("t", letters("a"), base=None, key="k")

        def never() -> Iterator[pa.RecordBatch]:
            raise AssertionError("read")
            yield

        schema = pa.schema([("letter", pa.string())])
        again = tables.write("t", pa.RecordBatchReader.from_batches(schema, never()), base=None, key="k")
        assert again == first
        assert tables.versions("t") == [first]

    @pytest.mark.parametrize("ids", [[0, 0], [7], [-1], [1]], ids=["twice", "unknown", "negative", "not in base"])
    def test_write_foreign_or_repeated_id_raises_and_commits_nothing(self, tables: Tables, ids: list[int]) -> None:
        tables.write("t", letters("a", "b"), base=None, key="k1")
        tables.write("t", reader(pa.table({"letter": ["a"], ROW_ID: [0]})), base=1, key="k2")
        rows = pa.table({"letter": ["x"] * len(ids), ROW_ID: ids})
        with pytest.raises(InvalidInput):
            tables.write("t", reader(rows, 1), base=2, key="k3")
        assert [version.number for version in tables.versions("t")] == [1, 2]

    def test_write_on_an_older_base_makes_the_next_number(self, tables: Tables) -> None:
        tables.write("t", letters("a", "b"), base=None, key="k1")
        tables.write("t", reader(pa.table({"letter": ["a"], ROW_ID: [0]})), base=1, key="k2")
        third = tables.write("t", reader(pa.table({"letter": ["b"], ROW_ID: [1]})), base=1, key="k3")
        assert third.number == 3
        assert everything(tables, "t", 3).to_pydict() == {ROW_ID: [1], "letter": ["b"]}
        assert everything(tables, "t", 1).num_rows == 2

    def test_write_after_rows_are_gone_never_reuses_their_ids(self, tables: Tables) -> None:
        tables.write("t", letters("a", "b", "c"), base=None, key="k1")
        tables.write("t", reader(pa.table({"letter": ["a"], ROW_ID: [0]})), base=1, key="k2")
        tables.write("t", letters("new"), base=None, key="k3")
        assert everything(tables, "t", 3)[ROW_ID].to_pylist() == [3]

    def test_write_no_rows_makes_an_empty_version(self, tables: Tables) -> None:
        version = tables.write("t", letters(), base=None, key="k")
        assert version.num_rows == 0
        assert everything(tables, "t", 1).num_rows == 0
        assert tables.schema("t", 1).names == ["letter"]

    def test_write_unknown_base_raises_not_found(self, tables: Tables) -> None:
        with pytest.raises(NotFound):
            tables.write("t", letters("a"), base=4, key="k")
        assert tables.versions("t") == []

    def test_write_reader_that_fails_commits_nothing(self, tables: Tables) -> None:
        def broken() -> Iterator[pa.RecordBatch]:
            yield pa.record_batch({"letter": ["a"]})
            raise InvalidInput("row 2 is broken", next_action="mend it")

        schema = pa.schema([("letter", pa.string())])
        with pytest.raises(InvalidInput, match="row 2 is broken"):
            tables.write("t", pa.RecordBatchReader.from_batches(schema, broken()), base=None, key="k")
        assert tables.versions("t") == []
        assert tables.write("t", letters("a"), base=None, key="k").number == 1

    def test_write_from_racing_threads_keeps_every_version_and_repeats_no_id(self, tables: Tables) -> None:
        def one(key: str) -> None:
            tables.write("t", letters("a", "b"), base=None, key=key)

        threads = [threading.Thread(target=one, args=(f"k{index % 4}",)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [version.number for version in tables.versions("t")] == [1, 2, 3, 4]
        ids = [row for number in range(1, 5) for row in everything(tables, "t", number)[ROW_ID].to_pylist()]
        assert sorted(ids) == list(range(8))

    def test_schema_keeps_types_and_field_metadata(self, tables: Tables) -> None:
        field = pa.field("image", pa.list_(pa.uint8(), 4), metadata={"shape": "[1,2,2]"})
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(range(8), pa.uint8()), 4)
        tables.write("t", reader(pa.table([pixels], schema=pa.schema([field]))), base=None, key="k")
        assert tables.schema("t", 1).field("image").equals(field, check_metadata=True)

    def test_scan_chooses_columns_rows_and_ids(self, tables: Tables) -> None:
        rows = pa.table({"n": range(10), "split": ["train", "test"] * 5})
        tables.write("t", reader(rows), base=None, key="k")
        batches = list(tables.scan("t", 1, columns=["n"], where="split = 'test'", with_row_ids=True, batch_rows=2))
        table = pa.Table.from_batches(batches)
        assert table.to_pydict() == {ROW_ID: [1, 3, 5, 7, 9], "n": [1, 3, 5, 7, 9]}
        assert max(batch.num_rows for batch in batches) <= 2
        assert pa.Table.from_batches(tables.scan("t", 1)).equals(rows)

    @pytest.mark.parametrize("where", [None, "n % 2 = 0"])
    def test_scan_pages_cut_what_a_whole_scan_gives(self, tables: Tables, where: str | None) -> None:
        tables.write("t", reader(pa.table({"n": range(20)})), base=None, key="k")
        whole = pa.Table.from_batches(tables.scan("t", 1, where=where, with_row_ids=True)).to_pylist()
        for offset, limit in ((0, 3), (4, 5), (7, 100), (9, None)):
            part = [
                row
                for batch in tables.scan("t", 1, where=where, with_row_ids=True, offset=offset, limit=limit)
                for row in batch.to_pylist()
            ]
            assert part == whole[offset : None if limit is None else offset + limit]

    def test_take_answers_in_the_order_asked_and_leaves_out_unknown_ids(self, tables: Tables) -> None:
        tables.write("t", letters("a", "b", "c"), base=None, key="k")
        taken = tables.take("t", 1, [2, 99, 0, 2, -5], columns=["letter"])
        assert taken.to_pydict() == {ROW_ID: [2, 0, 2], "letter": ["c", "a", "c"]}
        assert tables.take("t", 1, []).num_rows == 0

    def test_head_pages_through_in_stored_order(self, tables: Tables) -> None:
        tables.write("t", letters(*"abcdefg"), base=None, key="k")
        assert tables.head("t", 1, 2, offset=5)["letter"].to_pylist() == ["f", "g"]
        assert tables.head("t", 1, 2, offset=50).num_rows == 0

    def test_tag_moves_and_refuses_unknown_versions(self, tables: Tables) -> None:
        tables.write("t", letters("a"), base=None, key="k1")
        tables.write("t", letters("b"), base=None, key="k2")
        tables.tag("t", "best", 1)
        tables.tag("t", "best", 2)
        assert tables.tags("t") == {"best": 2}
        with pytest.raises(NotFound):
            tables.tag("t", "best", 9)
        assert tables.tags("t") == {"best": 2}

    @pytest.mark.parametrize("number", [0, 2, -1])
    def test_reading_unknown_version_raises_not_found(self, tables: Tables, number: int) -> None:
        tables.write("t", letters("a"), base=None, key="k")
        for read in (tables.schema, tables.scan):
            with pytest.raises(NotFound):
                read("t", number)
        with pytest.raises(NotFound):
            tables.head("t", number, 1)
        with pytest.raises(NotFound):
            tables.take("t", number, [0])
        assert not tables.holds("t", number)
        assert tables.holds("t", 1)

    def test_unknown_table_has_no_versions_and_no_tags(self, tables: Tables) -> None:
        assert tables.versions("nope") == []
        assert tables.tags("nope") == {}
        assert not tables.holds("nope", 1)
        with pytest.raises(NotFound):
            tables.head("nope", 1, 1)

    @settings(max_examples=15, deadline=None, suppress_health_check=_SHARED)
    @given(data=st.data())
    def test_ids_through_random_versions_never_change_or_repeat(self, tables: Tables, data: st.DataObject) -> None:
        table = f"table-{next(_fresh)}"
        owner: dict[int, str] = {}
        known: dict[int, list[int]] = {}
        for step in range(data.draw(st.integers(1, 4))):
            base = data.draw(st.sampled_from([None, *known]))
            kept = data.draw(st.permutations(known[base]).map(lambda ids: ids[: len(ids) // 2 + 1])) if base else []
            values = [owner[row] for row in kept] + [f"{step}.{n}" for n in range(data.draw(st.integers(0, 4)))]
            ids = pa.array([*kept, *[None] * (len(values) - len(kept))], pa.int64())
            rows = pa.table({"value": pa.array(values, pa.string()), ROW_ID: ids})
            number = tables.write(table, reader(rows, 2), base=base, key=str(step)).number
            stored = everything(tables, table, number)
            assert stored["value"].to_pylist() == values
            known[number] = stored[ROW_ID].to_pylist()
            assert known[number][: len(kept)] == list(kept)
            fresh = known[number][len(kept) :]
            assert not set(fresh) & set(owner)
            owner |= dict(zip(fresh, values[len(kept) :], strict=True))
