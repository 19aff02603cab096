"""Which cloud `connect` finds, and with whose token."""

from pathlib import Path

import pytest

import skyloom
from skyloom.sdk.connect import TokenUnreadable
from skyloom.sdk.function import Function
from skyloom.sdk.http import HttpTransport


def transport() -> HttpTransport:
    found = skyloom.connect().transport
    assert isinstance(found, HttpTransport)
    return found


def test_address_of_a_person_goes_with_the_token_and_the_patience_of_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a task inside of a job waits minutes for its control plane, and speaks with the task's token."""
    monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SKYLOOM_TOKEN", "mine")
    found = transport()
    assert (found.url, found.patience_s) == ("http://127.0.0.1:1", 5.0)
    assert found._client.headers["authorization"] == "Bearer mine"


def test_address_inside_of_a_job_goes_with_the_token_and_the_patience_of_the_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of the task\n")
    monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SKYLOOM_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("SKYLOOM_JOB_ID", "job_1")
    found = transport()
    assert found.patience_s == 300
    assert found._client.headers["authorization"] == "Bearer of the task"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "no text")]
)
@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1"])
def test_token_file_that_was_named_and_holds_no_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, said: str, url: str
) -> None:
    """Nobody goes as the owner instead, nor without a token."""
    named = tmp_path / "mine"
    if content is not None:
        named.write_bytes(content)
    monkeypatch.setenv("SKYLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("SKYLOOM_URL", url)
    monkeypatch.setenv("SKYLOOM_TOKEN_FILE", str(named))
    with pytest.raises(TokenUnreadable, match=said) as refused:
        skyloom.connect()
    assert str(named) in refused.value.message
    monkeypatch.setenv("SKYLOOM_TOKEN", "mine")
    monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:1")
    assert transport()._client.headers["authorization"] == "Bearer mine"


def test_function_is_decorated_with_and_without_parentheses() -> None:
    @skyloom.function
    def bare(n: int) -> int:
        return n + 1

    @skyloom.function(cpus=0.5)
    def told(n: int) -> int:
        return n + 2

    assert isinstance(bare, Function)
    assert (bare(1), told(1)) == (2, 3)
