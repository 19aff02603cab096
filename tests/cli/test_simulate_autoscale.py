"""``skyloom simulate-autoscale`` as a person and a program meet it; no cloud is there."""

import json
from pathlib import Path

import pytest

from skyloom.cli import main
from tests.terminal import Said, Terminal


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "calls.csv"
    rows = [f"{second + part / 10},0.5" for second in range(100, 160) for part in range(10)]
    path.write_text("\n".join(["arrived_s,service_s", "0,0.5", *rows]) + "\n")
    return str(path)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Terminal:
    def run(*words: str) -> Said:
        capfd.readouterr()
        return Said(main(["simulate-autoscale", *words]), *capfd.readouterr())

    return run


def test_without_a_policy_several_are_compared(say: Terminal, log: str) -> None:
    said = say("--trace", log)
    assert said.code == 0
    for words in ("601 over 2 min 40 s", "answers 8 at once", "optimum", "knative", "fixed", "OF OPTIMUM"):
        assert words in said.out


def test_json_has_the_promised_keys_and_what_if_a_row_each(say: Terminal, log: str) -> None:
    words = (
        "--trace",
        log,
        "--policy",
        "concurrency,max=2",
        "--what-if",
        "max=1,3",
        "--latency-target",
        "2s",
        "--json",
    )
    said = say(*words)
    told = json.loads(said.out)
    assert not said.err
    assert [row["policy"] for row in told["rows"]] == ["concurrency,max=2"]
    assert [row["policy"] for row in told["what_if"]] == ["max=1", "max=3"]
    assert told["num_requests"] == 601
    assert 0 < told["rows"][0]["in_time"] <= 1
    assert told["rows"][0]["over_optimum"] >= 1
    assert json.loads(say(*words).out) == told


def test_plot_is_written_where_it_was_asked_for(say: Terminal, log: str, tmp_path: Path) -> None:
    said = say("--trace", log, "--policy", "concurrency", "--plot", str(tmp_path / "load.html"))
    assert f"plot written to {tmp_path / 'load.html'}" in said.err
    assert "<svg" in (tmp_path / "load.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--policy", "best"), 2, "best"),
        (("--policy", "concurrency,target=0"), 2, "target"),
        (("--what-if", "max"), 2, "--what-if"),
        (("--what-if", "colour=1,2"), 2, "colour"),
        (("--cold-start", "soon"), 2, "soon"),
        (("--concurrency", "0"), 2, "--concurrency"),
        (("--plot", "load.pdf"), 2, ".html"),
        (("--trace", "nowhere.csv"), 5, "nowhere.csv"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    say: Terminal, log: str, words: tuple[str, ...], code: int, why: str
) -> None:
    said = say("--trace", log, *words)
    assert said.code == code
    assert why in said.err
    assert not said.out
