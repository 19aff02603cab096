"""``skyloom pool add`` refuses in words; ``project quota`` warns of what no pool has."""

import json
from pathlib import Path

import pytest

from skyloom.cli import main
from skyloom.core.resources import Resources
from skyloom.ports.engine import PoolTokenRefused
from skyloom.rooms.pools.model import Pool, PoolRemoved, PoolState, PoolStatus
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
        (("--grows", "cpus=8,cpus=9,memory=1GiB"), "twice"),
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


NOTHING = Resources(cpus=0, gpus=0, memory_bytes=0)


class LostPool:
    """The calls about a pool that does not answer, or does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = PoolState.DOWN
        self.given_up: list[str] = []
        monkeypatch.setattr(PoolCalls, "get", lambda _, name: self.get(name))
        monkeypatch.setattr(PoolCalls, "remove", lambda _, name, gone: self.remove(name, gone))
        monkeypatch.setenv("SKYLOOM_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("SKYLOOM_TOKEN", "t")

    def get(self, name: str) -> PoolStatus:
        pool = Pool(id=name, project="*", address="ray://a:1", added_at=1.0, added_by="owner")
        fields = {"message": "Nobody answers.", "total": NOTHING, "used": NOTHING, "num_tasks": 3, "heard_at": 1e9}
        return PoolStatus(pool=pool, state=self.state, **fields)  # type: ignore[arg-type]

    def remove(self, name: str, gone: bool) -> PoolRemoved:
        assert gone
        self.given_up.append(name)
        return PoolRemoved(name=name, num_lost=3, num_again=1)


def test_pool_is_given_up_only_after_somebody_was_told_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, remove = LostPool(monkeypatch), ["pool", "remove", "far", "--gone"]
    assert main(remove) != 0  # a script, without --yes
    said = capsys.readouterr().err.replace("\n", " ")
    assert "3 tasks there would be given up as lost" in said and "--yes" in said
    assert "far is down: Nobody answers." in said and "2001-09-09" in said
    lost.state = PoolState.UP
    assert main(remove) != 0
    assert "it answers" in capsys.readouterr().err
    assert lost.given_up == []
    assert main([*remove, "--yes", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"name": "far", "num_lost": 3, "num_again": 1} and not shown.err
    assert lost.given_up == ["far"]
