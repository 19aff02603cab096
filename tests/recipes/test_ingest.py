"""Files become versions; what cannot be read is named, counted and kept."""

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from skyloom.core.errors import InvalidInput, LimitExceeded, SkyloomError
from skyloom.recipes.reading import csv_lines
from skyloom.recipes.reading.source import TooManyBadRows
from skyloom.rooms.data.contents import ColumnRole
from skyloom.rooms.data.making import ColumnType
from tests.recipes.data_kit import TABLE, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def png(height: int = 4, width: int = 3, value: int = 7, mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), value if mode == "L" else (value, 1, 2)).save(out, "PNG")
    return out.getvalue()


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


BROKEN = (
    b"a,b,c\r\n"  # 1
    b"1,2,3\n"
    b"4,5\n"  # 3: ragged
    b"\n"
    b'"x\ny",8,"q"\n'  # 5 and 6: one good row over two lines
    b'7,"bad,8\n'  # 7: never closed
    b"9,9,9\n"
    b"1,\xff,2\n"  # 9: not UTF-8
    b"1,\x002,3\n"  # 10: NUL
    b'5,6,"t""u"\n'
    b"8,8,8"  # no line end
)


class TestCsv:
    @pytest.mark.parametrize("block_bytes", [8, 20, 50, 2**20])
    def test_ingest_broken_rows_keeps_the_good_and_reports_each_bad_with_its_line(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, block_bytes: int
    ) -> None:
        monkeypatch.setattr(csv_lines, "_BLOCK_BYTES", block_bytes)
        version, contents = bench.ingest({"a.csv": BROKEN})
        assert bench.values(1, "a") == ["1", "x\ny", "9", "5", "8"]
        assert bench.values(1, "c") == ["3", "q", "9", 't"u', "8"]
        (report,) = contents.reports
        assert (report.rows_in, report.rows_out, version.num_rows, contents.num_rejects) == (9, 5, 5, 4)
        lines = {loss.reason: [example.line for example in loss.examples] for loss in report.losses}
        assert lines == {
            "2 fields instead of 3": [3],
            "a quote is opened and never closed": [7],
            "bytes that are not in the file's encoding": [9],
            "a NUL byte": [10],
        }
        kept = [json.loads(line) for line in bench.kept[0].splitlines()]
        assert sorted((one["line"], one["text"]) for one in kept) == [
            (3, "4,5"),
            (7, '7,"bad,8'),
            (9, "1,\\xff,2"),
            (10, "1,\x002,3"),
        ]

    def test_ingest_quotes_in_odd_places_take_no_neighbour_with_them(self, bench: Bench) -> None:
        text = 'a,b\n5" nail,"3"" bolt"\n"x"y,1\n6" nail,"open\n1,2\n"last ""word""\n\n",3\n'
        _, contents = bench.ingest({"a.csv": text})
        assert bench.values(1, "a") == ['5" nail', "1", 'last "word"\n\n']
        assert bench.values(1, "b") == ['3" bolt', "2", "3"]
        assert {loss.reason: loss.examples[0].line for loss in contents.reports[0].losses} == {
            "text behind a closing quote": 3,
            "a quote is opened and never closed": 4,
        }

    def test_ingest_infers_types_that_lose_nothing(self, bench: Bench) -> None:
        text = (
            "i,f,b,d,t,code,big,mixed,gone\n"
            "1,1.5,true,2024-01-31,2024-01-31 10:00:00,007,12345678901234567890,3,\n"
            " 2,-2e3,False,2024-02-01,2024-02-01T11:00:00Z,010,1,4,\n"
            "NA,nan,,,,,2,oops,\n"
        )
        _, contents = bench.ingest({"a.csv": text})
        kinds = {column.name: column.type for column in contents.columns}
        assert kinds == {
            "i": ColumnType.INTEGER,
            "f": ColumnType.FLOAT,
            "b": ColumnType.BOOLEAN,
            "d": ColumnType.DATE,
            "t": ColumnType.TIMESTAMP,
            "code": ColumnType.TEXT,
            "big": ColumnType.TEXT,
            "mixed": ColumnType.TEXT,
            "gone": ColumnType.TEXT,
        }
        assert bench.values(1, "i") == [1, 2, None]
        assert bench.values(1, "f") == [1.5, -2000.0, None]
        assert bench.values(1, "mixed") == ["3", "4", "oops"]
        assert any("'mixed'" in note and "cast" in note for note in contents.reports[0].notes)

    def test_ingest_given_type_rejects_rows_that_are_not(self, bench: Bench) -> None:
        _, contents = bench.ingest({"a.csv": "n,m\n1,a\nx,b\nNA,c\n"}, types={"n": ColumnType.INTEGER})
        assert bench.values(1, "n") == [1, None]
        (loss,) = contents.reports[0].losses
        assert (loss.reason, loss.examples[0].line, loss.examples[0].text) == ("'n' is no integer", 3, "x,b")

    def test_ingest_several_files_are_one_table(self, bench: Bench) -> None:
        bench.ingest({"a.csv": "n\n1\n", "b.csv": "n\n2.5\n"})
        assert bench.values(1, "n") == [1.0, 2.5]

    def test_ingest_other_encoding_and_delimiter(self, bench: Bench) -> None:
        bench.ingest({"a.csv": "name;n\nJosé;1\n".encode("utf-16")}, encoding="utf-16", delimiter=";")
        assert bench.values(1, "name") == ["José"]

    @pytest.mark.parametrize(
        ("content", "options", "says"),
        [
            (b"", {}, "a.csv is empty"),
            (b"\n\n", {}, "a.csv is empty"),
            (b"a,b\n", {}, "There is no row"),
            (b"a,b\n1\n2\n", {}, "1 field instead of 2"),
            (b"a,b,a\n1,2,3\n", {}, "more than one column 'a'"),
            (b"a,,c\n1,2,3\n", {}, "Column 2 of a.csv has no name"),
            (b"*,b\n1,2\n", {}, r"cannot be called '\*'"),
            (b"^a.*$,b\n1,2\n", {}, "cannot be called '\\^a"),
            (b"__row_id,b\n1,2\n", {}, "cannot be called '__row_id'"),
            (b"_rowid,b\n1,2\n", {}, "cannot be called '_rowid'"),
            (b"x" * 500 + b",b\n1,2\n", {}, "cannot be called 'xxx"),
            (b"a\x00,b\n1,2\n", {}, "NUL byte"),
            ("ä,b\n1,2\n".encode("latin-1"), {}, "a.csv is not utf-8"),
            ("a,b\n1,2\n".encode("utf-16"), {}, "is UTF-16"),
            (b"a,b\n1,2\n", {"encoding": "klingon"}, "no text encoding 'klingon'"),
            (b"a,b\n1,2\n", {"delimiter": '"'}, "cannot be a delimiter"),
            (b"a,b\n1,2\n", {"encoding": "hex"}, "no text encoding 'hex'"),
            (b"a,b\n1,2\n", {"types": {"z": ColumnType.INTEGER}}, "no column 'z'"),
            (b"a,b\n1,2\n", {"types": {"a": ColumnType.IMAGE}}, "is text and cannot become image"),
        ],
    )
    def test_ingest_file_that_cannot_be_meant_is_one_clear_error(
        self, bench: Bench, content: bytes, options: dict[str, object], says: str
    ) -> None:
        with pytest.raises(InvalidInput, match=says) as caught:
            bench.ingest({"a.csv": content}, **options)
        assert caught.value.next_action
        assert bench.tables.versions(TABLE) == []

    def test_ingest_files_with_other_columns_names_both(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match=r"b\.csv has other columns than a\.csv: 'm', 'n'"):
            bench.ingest({"a.csv": "n\n1\n", "b.csv": "m\n1\n"})

    def test_ingest_more_bad_rows_than_allowed_fails_with_the_last(self, bench: Bench) -> None:
        with pytest.raises(TooManyBadRows, match=r"a\.csv, line 4"):
            bench.ingest({"a.csv": "a,b\n1\n1,2\n2\n"}, max_bad_rows=1)

    def test_ingest_line_without_an_end_is_refused_before_memory_is_full(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(csv_lines, "_BLOCK_BYTES", 1000)
        monkeypatch.setattr(csv_lines, "_MAX_LINE_BYTES", 5000)
        with pytest.raises(LimitExceeded, match=r"Line 2 of a\.csv"):
            bench.ingest({"a.csv": b"a\n" + b"x" * 20_000})

    def test_ingest_same_key_again_commits_once(self, bench: Bench) -> None:
        first = bench.ingest({"a.csv": BROKEN}, key="job")
        assert bench.ingest({"a.csv": BROKEN}, key="job") == first
        assert len(bench.tables.versions(TABLE)) == 1


class TestParquetAndJson:
    @pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
    def test_ingest_real_frames_from_parquet_and_csv_agree(self, tmp_path: Path, name: str) -> None:
        from sklearn import datasets

        frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
        rows = pl.DataFrame({column: frame[column].to_numpy() for column in frame.columns})
        rows.write_csv(tmp_path / "a.csv")
        rows.write_parquet(tmp_path / "a.parquet")
        one, other = Bench(tmp_path / "1"), Bench(tmp_path / "2")
        _, from_csv = one.ingest({"a.csv": (tmp_path / "a.csv").read_bytes()})
        _, from_parquet = other.ingest({"a.parquet": (tmp_path / "a.parquet").read_bytes()})
        assert from_csv.digest == from_parquet.digest
        assert from_csv.columns == from_parquet.columns
        target = from_csv.columns[-1]
        assert (target.role, sum(target.top.values())) == (ColumnRole.LABEL, len(frame))
        assert target.mean == pytest.approx(frame["target"].mean())

    def test_ingest_parquet_nested_column_is_named(self, bench: Bench) -> None:
        table = pa.table({"n": [1], "deep": [{"x": 1}]})
        with pytest.raises(InvalidInput, match=r"Column 'deep' of a\.parquet is struct"):
            bench.ingest({"a.parquet": parquet(table)})

    def test_ingest_parquet_vectors_and_dictionaries(self, bench: Bench) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)
        table = pa.table({"v": vectors, "word": pa.array(["a", "b"]).dictionary_encode()})
        _, contents = bench.ingest({"a.parquet": parquet(table)})
        assert [column.type for column in contents.columns] == [ColumnType.VECTOR, ColumnType.TEXT]
        assert contents.columns[0].shape == (2,)

    @pytest.mark.parametrize("damage", ["cut", "footer", "middle", "claim", "text"])
    def test_ingest_damaged_parquet_is_one_clear_error(self, bench: Bench, damage: str) -> None:
        whole = parquet(pa.table({"n": list(range(50_000))}))
        content = {
            "cut": whole[: len(whole) // 2],
            "footer": whole[:-60] + b"\xff" * 40 + whole[-20:],
            "middle": whole[:100] + b"\xff" * 5000 + whole[5100:],
            "claim": whole[:-8] + (10 * 2**28).to_bytes(4, "little") + b"PAR1",  # a footer of 2.5 GiB
            "text": b"n\n1\n",
        }[damage]
        with pytest.raises(SkyloomError, match=r"a\.parquet") as caught:
            bench.ingest({"a.parquet": content})
        assert caught.value.next_action
        assert bench.tables.versions(TABLE) == []

    def test_ingest_parquet_text_that_is_no_utf8_is_refused(self, bench: Bench) -> None:
        words = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["abc"]).buffers()[:2], pa.py_buffer(b"\xff\xfe\xff")])
        with pytest.raises(InvalidInput, match=r"a\.parquet cannot be read"):
            bench.ingest({"a.parquet": parquet(pa.table({"word": words}))})

    def test_ingest_json_lines_reports_broken_lines_and_mixed_types(self, bench: Bench) -> None:
        lines = b'{"a": 1, "b": "x"}\n{broken\n\n[1]\n{"a": 2.5, "b": 7, "c": true}\n{"a": null, "b": "\xc3\xa9"}\n'
        _, contents = bench.ingest({"a.jsonl": lines})
        assert bench.rows(1) == [
            {"_rowid": 0, "a": 1.0, "b": "x", "c": None},
            {"_rowid": 1, "a": 2.5, "b": "7", "c": True},
            {"_rowid": 2, "a": None, "b": "é", "c": None},
        ]
        (report,) = contents.reports
        assert {loss.reason: loss.examples[0].line for loss in report.losses} == {
            "no JSON": 2,
            "JSON, but no object": 4,
        }
        assert (report.rows_in, report.rows_out) == (5, 3)
        assert "'b' mixes int and str" in report.notes[0]

    def test_ingest_json_nested_value_is_named_with_its_line(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match=r"Line 2 of a\.jsonl: the value of 'a' is nested"):
            bench.ingest({"a.jsonl": '{"a": 1}\n{"a": [1]}\n'})

    def test_ingest_json_without_any_object_fails(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match="holds no row"):
            bench.ingest({"a.jsonl": "nope\n"})


class TestImages:
    def test_ingest_folder_labels_by_folder_and_stores_pixels(self, bench: Bench) -> None:
        _, contents = bench.ingest({"cat/1.png": png(value=9), "dog/2.png": png(value=200), "cat/3.png": png()})
        assert bench.values(1, "label") == ["cat", "dog", "cat"]
        image = contents.columns[0]
        assert (image.type, image.shape) == (ColumnType.IMAGE, (1, 4, 3))
        assert bench.rows(1)[1]["image"] == [200] * 12

    def test_ingest_tar_equals_folder(self, tmp_path: Path) -> None:
        files = {"a/1.png": png(value=1), "b/2.png": png(value=2)}
        _, one = Bench(tmp_path / "1").ingest(dict(files))
        _, other = Bench(tmp_path / "2").ingest({"digits.tar": tar(files)})
        assert one.digest == other.digest

    def test_ingest_flat_folder_takes_labels_from_csv(self, bench: Bench) -> None:
        files: dict[str, bytes | str] = {"1.png": png(), "2.png": png(), "labels.csv": "file,label\n1.png,cat\n"}
        bench.ingest(files, labels="labels.csv")
        assert bench.values(1, "label") == ["cat", None]

    def test_ingest_colour_is_channels_first(self, bench: Bench) -> None:
        _, contents = bench.ingest({"a/1.png": png(2, 2, 9, "RGB")})
        assert contents.columns[0].shape == (3, 2, 2)
        assert bench.rows(1)[0]["image"] == [9] * 4 + [1] * 4 + [2] * 4

    def test_ingest_different_sizes_stay_encoded_unless_resized(self, tmp_path: Path) -> None:
        files = {"a/1.png": png(4, 4), "a/2.png": png(6, 5)}
        bench = Bench(tmp_path / "1")
        _, contents = bench.ingest(dict(files))
        assert contents.columns[0].type is ColumnType.ENCODED_IMAGE
        assert bench.values(1, "height") == [4, 6]
        assert bench.rows(1)[1]["image"] == files["a/2.png"]
        _, resized = Bench(tmp_path / "2").ingest(dict(files), image_height=4, image_width=4)
        assert resized.columns[0].shape == (1, 4, 4)

    def test_ingest_sixteen_bit_pixels_keep_their_upper_half(self, bench: Bench) -> None:
        out = io.BytesIO()
        Image.fromarray(np.array([[0, 65535], [256, 32768]], dtype=np.uint16)).save(out, "PNG")
        bench.ingest({"a/1.png": out.getvalue()})
        assert bench.rows(1)[0]["image"] == [0, 255, 1, 128]

    def test_ingest_files_that_are_no_images_are_listed_by_name(self, bench: Bench) -> None:
        files: dict[str, bytes | str] = {
            "a/1.png": png(),
            "a/notes.txt": "hello",
            "a/cut.png": png(300, 300, mode="RGB")[:200],
            "a/.DS_Store": b"x",
        }
        with pytest.raises(InvalidInput, match=r"of 3 files.*a/notes\.txt \(no PNG or JPEG") as caught:
            bench.ingest(files, format="images")
        assert "--skip-bad" in caught.value.next_action
        assert bench.tables.versions(TABLE) == []
        _, contents = bench.ingest(files, format="images", skip_bad=True)
        assert (contents.num_rows, contents.num_rejects) == (1, 2)

    def test_ingest_header_that_claims_ten_gigabytes_allocates_nothing(self, bench: Bench) -> None:
        bomb = bytearray(png())
        bomb[16:24] = (100_000).to_bytes(4, "big") * 2  # IHDR: 100,000 x 100,000 pixels
        bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
        with pytest.raises(InvalidInput, match=r"a/bomb\.png \(claims"):
            bench.ingest({"a/1.png": png(), "a/bomb.png": bytes(bomb)})

    def test_ingest_broken_tar_is_one_clear_error(self, bench: Bench) -> None:
        with pytest.raises(InvalidInput, match=r"a\.tar is no tar archive"):
            bench.ingest({"a.tar": b"x" * 2000})
