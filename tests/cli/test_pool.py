"""``skyloom pool add`` refuses in words what it cannot read, before it asks anybody."""

from pathlib import Path

import pytest

from skyloom.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--token-file", "missing"), "no file missing"),
        (("--token-file", "."), "not a file"),
        (("--token-file", "binary"), "no text"),
        (("--tenure", "owned"), "there are none"),
    ],
)
def test_option_that_cannot_be_read_is_refused_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert main(["pool", "add", "far", "ray://127.0.0.1:9", *words]) != 0
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
