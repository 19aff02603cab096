import re
from pathlib import Path

import pytest

from skyloom.cli import values
from skyloom.sdk.files import LocalFileMissing


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5h", 5400), ("15 min", 900), ("2m", 120), ("1d", 86400), ("2H", 7200)],
)
def test_duration_in_words_becomes_seconds(text: str, seconds: float) -> None:
    assert values.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 week", "1e9", "nan", "1s2"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(values.UnreadableOption, match="is not a duration"):
        values.duration_s(text)


@pytest.mark.parametrize("text", ["", "much", "GiB", "-1GiB", "2 GiBs", "1.2.3G"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(values.UnreadableOption):
        values.size(text)


def test_variables_keep_everything_after_the_first_equals_sign() -> None:
    assert values.variables(["A=1", "B=", "C=x=y"]) == {"A": "1", "B": "", "C": "x=y"}


@pytest.mark.parametrize("pair", ["A", "=1", "1A=2", "A B=3"])
def test_variable_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(values.UnreadableOption):
        values.variables([pair])


def test_files_keep_their_shape_below_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "lib").mkdir(parents=True)
    (tmp_path / "here" / "lib" / "a.txt").write_text("a")
    (tmp_path / "here" / "b.txt").write_text("b")
    (tmp_path / "c.txt").write_text("c")
    monkeypatch.chdir(tmp_path / "here")
    assert set(values.files([Path("lib"), Path("b.txt"), Path("../c.txt")])) == {"lib/a.txt", "b.txt", "c.txt"}
    assert set(values.files([Path()])) == {"lib/a.txt", "b.txt"}


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalFileMissing, match="nowhere"):
        values.files([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("api-key=1BAD", "--secret api-key: '1BAD' is no name of a variable"),
        ("api-key=", "--secret api-key: '' is no name of a variable"),
        ("API=KEY", "--secret: 'API' is no name of a secret"),
        ("", "--secret: '' is no name of a secret"),
    ],
)
def test_secret_that_is_none_is_refused_by_what_is_wrong_with_it(word: str, said: str) -> None:
    with pytest.raises(values.UnreadableOption, match=re.escape(said)):
        values.secrets([word])


def test_secrets_are_files_or_variables() -> None:
    file, variable = values.secrets(["token", "api-key=API_KEY"])
    assert (file.name, file.variable, variable.name, variable.variable) == ("token", None, "api-key", "API_KEY")


def test_deadline_is_a_span_or_a_moment() -> None:
    assert values.deadline("2h") == {"deadline_s": 7_200}
    assert values.deadline("2999-01-01T00:00+00:00") == {"deadline_at": 32_472_144_000.0}
    assert values.deadline("2999-01-01").keys() == {"deadline_at"}


@pytest.mark.parametrize("text", ["0s", "-2h", "2001-01-31T18:00"])
def test_deadline_that_is_past_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(values.UnreadableOption, match="is in the past") as refused:
        values.deadline(text)
    assert "--deadline" in refused.value.next_action


def test_renamed_columns_may_have_blanks_in_their_names() -> None:
    assert values.renamed(["sepal length=a", "b=c d=e"]) == {"sepal length": "a", "b": "c d=e"}
    for word in ("a", "=a", "a="):
        with pytest.raises(values.UnreadableOption, match="TAKEN=COLUMN"):
            values.renamed([word])


@pytest.mark.parametrize("text", ["yesterday", "3x", "2026-13-01"])
def test_deadline_that_is_neither_a_span_nor_a_moment_shows_both(text: str) -> None:
    with pytest.raises(values.UnreadableOption, match="neither a duration nor a date") as refused:
        values.deadline(text)
    assert "2h" in refused.value.next_action and "T18:00" in refused.value.next_action
