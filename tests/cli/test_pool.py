"""``skyloom pool add`` refuses in words; ``project quota`` warns of what no pool has."""

from pathlib import Path

import pytest

from skyloom.cli import main
from skyloom.ports.engine import PoolTokenRefused
from skyloom.sdk.scheduling import PoolCalls
from tests.terminal import Terminal


def test_token_that_is_another_pools_is_refused_with_the_file_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PoolTokenRefused("It wants another token.", next_action="Show that.")

    monkeypatch.setattr(PoolCalls, "add", refuse)
    monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SKYLOOM_TOKEN", "t")
    file = tmp_path / "mine"
    file.write_text("of another")
    assert main(["pool", "add", "far", "ray://127.0.0.1:9", "--token-file", str(file)]) != 0
    error = capsys.readouterr().err
    assert error.startswith("Reaching ray://127.0.0.1:9") and f"into {file}" in error.replace("\n", " ")


def test_guarantee_of_more_than_all_machines_have_is_warned_of(terminal: Terminal) -> None:
    assert terminal("project", "create", "guaranteed").code == 0
    said = terminal("project", "quota", "guaranteed", "--gpus", "4000", "--cpus", "0")
    assert said.code == 0 and said.err.startswith("warning: 4,000 GPUs are guaranteed, but all machines together have ")
    assert "CPUs" not in said.err
    assert terminal("project", "quota", "guaranteed").err == ""
    assert terminal("project", "quota", "guaranteed", "--none").err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--token-file", "missing"), "no file missing"),
        (("--token-file", "."), "not a file"),
        (("--token-file", "binary"), "no text"),
        (("--tenure", "owned"), "there are none"),
        (("--grows", "cpus=8,max=2"), "lacks memory"),
        (("--grows", "cpus=8,memory=much"), "much"),
        (("--grows", "cpus=nan,memory=1GiB"), "cannot be read"),
        (("--grows", "cpus=8,memory=1GiB,max=0"), "cannot be read"),
        (("--grows", "cpus=8,memory=1GiB,disk=2"), "has no disk"),
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
