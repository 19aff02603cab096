"""Rows on the command line: JSON, CSV with a header, pictures."""

import io
from types import SimpleNamespace

import msgspec
import pytest

from skyloom.cli import rows
from skyloom.cli.rows import CsvRows, RowsUnreadable, by_columns, read_rows

PNG = b"\x89PNG\r\n\x1a\n\xff"


def client(*columns: str, is_tabular: bool = True):
    manifest = SimpleNamespace(is_tabular=is_tabular, columns=columns)
    endpoint = SimpleNamespace(model="pets", current=1)
    revision = SimpleNamespace(number=1, model="pets", version_label="1")
    status = SimpleNamespace(endpoint=endpoint, revisions=(revision,))
    return SimpleNamespace(
        transport=None,
        endpoints=SimpleNamespace(get=lambda name: status),
        models=SimpleNamespace(version=lambda model, label: SimpleNamespace(manifest=manifest)),
    )


def test_rows_are_read_from_the_words_from_files_and_from_stdin(tmp_path, monkeypatch) -> None:
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf[[1]]")
    (tmp_path / "rows.csv").write_bytes(b'\xef\xbb\xbfage, city\r\n\r\n3,"a\r\nb"\r\n4,c\r\n')
    (tmp_path / "seven.png").write_bytes(PNG)
    assert read_rows('{"age": 3}') == {"age": 3} and read_rows(f"@{tmp_path}/rows.json") == [[1]]
    table = CsvRows(("age", "city"), ((4, ("3", "a\r\nb")), (5, ("4", "c"))))
    assert read_rows(f"@{tmp_path}/rows.csv") == table
    assert read_rows(f"@{tmp_path}/seven.png") == {"b64": "iVBORw0KGgr/"}
    for text, found in ((b"age\n3\n", CsvRows(("age",), ((2, ("3",)),))), (b" [[1]]", [[1]])):
        monkeypatch.setattr(rows.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        assert read_rows("-") == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n", "no row below"),
        ("", "no row below"),
        ("a,a\n1,2\n", "names 'a' twice"),
        ("a,b\n1,2\n\n1\n", "Line 4 has 1 field, the header 2"),
        ('a\n"x', "no CSV"),
    ],
)
def test_broken_csv_is_refused_by_its_line(tmp_path, text: str, words: str) -> None:
    (tmp_path / "rows.CSV").write_text(text)
    with pytest.raises(RowsUnreadable, match=words):
        read_rows(f"@{tmp_path}/rows.CSV")


@pytest.mark.parametrize("words", ["@/nowhere.json", "[[1", "@/"])
def test_what_cannot_be_read_is_refused(words: str) -> None:
    with pytest.raises(RowsUnreadable):
        read_rows(words)


def test_csv_becomes_rows_by_column_and_says_what_it_leaves_aside(monkeypatch, capsys) -> None:
    monkeypatch.setattr(rows, "texts_of", lambda transport, manifest: {"zip": ("01",)})
    table = CsvRows(("id", "kept", "zip", "age"), ((2, ("7", "TRUE", "01", " 3.5 ")), (3, ("8", "", "", "nan"))))
    assert by_columns(client("age", "zip", "kept"), "pets", "", table) == [
        {"age": 3.5, "zip": "01", "kept": 1.0},
        {"age": None, "zip": None, "kept": None},
    ]
    assert capsys.readouterr().err == "columns left aside: id\n"


@pytest.mark.parametrize(
    ("of", "row", "words"),
    [
        (client("age", "zip"), "3", "no column 'zip'"),
        (client("age"), "three", "Line 2: 'three' in the column 'age' is no number"),
        (client("age"), "inf", "is no number"),
        (client(is_tabular=False), "3", "knows no columns"),
    ],
)
def test_csv_that_does_not_fit_the_model_is_refused(monkeypatch, of, row: str, words: str) -> None:
    monkeypatch.setattr(rows, "texts_of", lambda transport, manifest: {})
    with pytest.raises(RowsUnreadable, match=words):
        by_columns(of, "pets", "", CsvRows(("age",), ((2, (row,)),)))


def test_labels_are_shown_and_json_has_the_outputs(capsys) -> None:
    from skyloom.cli.predict import _show_answer
    from skyloom.sdk.asking import Answer, RowPrediction

    told = Answer(
        prediction_id="pred_a_0",
        model="pets",
        model_version="3",
        outputs={"scores": [[0.2, 0.8]]},
        predictions=(RowPrediction(label="dog", score=0.8),),
    )
    _show_answer(told, as_json=False)
    shown = capsys.readouterr().out
    assert "dog" in shown and "0.8" in shown and "pred_a_0" in shown and "scores" not in shown
    _show_answer(told, as_json=True)
    assert msgspec.json.decode(capsys.readouterr().out)["outputs"] == {"scores": [[0.2, 0.8]]}


def test_file_that_is_not_there_is_named_in_plain_words(tmp_path) -> None:
    with pytest.raises(RowsUnreadable, match=r"There is no file .*/none\.json") as caught:
        read_rows(f"@{tmp_path}/none.json")
    assert "Errno" not in caught.value.message
