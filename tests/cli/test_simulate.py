"""``skyloom simulate`` as a person and a program meet it; no cloud is there."""

import json
from pathlib import Path

import pytest

from skyloom.cli import main
from tests.terminal import Said, Terminal

TRACE = """job_id,submit_s,duration_s,num_gpus,tenant,deadline_s
a,0,10,1,x,12
b,1,4,1,y,8
c,2,1,1,x,
"""


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return str(path)


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Terminal:
    def run(*words: str) -> Said:
        capfd.readouterr()
        return Said(main(["simulate", *words]), *capfd.readouterr())

    return run


def test_simulate_as_json_has_the_promised_keys(say: Terminal, trace: str) -> None:
    said = say("--trace", trace, "--nodes", "1", "--gpus-per-node", "1", "--policy", "fifo", "--json")
    told = json.loads(said.out)
    assert said.code == 0
    assert not said.err
    assert told["avg_jct_s"] == 12
    assert told["median_jct_s"] == 13
    assert told["p99_jct_s"] == 13
    assert told["makespan_s"] == 15
    assert told["utilisation"] == 1
    assert (told["num_jobs"], told["num_finished"], told["num_preemptions"], told["deadlines_met"]) == (3, 3, 0, 1)
    assert told["avg_wait_s"] == 7
    assert set(told["finish_time_fairness"]) == {"mean", "max"}
    assert 0 < told["jain_fairness"] < 1
    assert [row["tenant"] for row in told["tenants"]] == ["x", "y"]


def test_simulate_for_people_is_one_page(say: Terminal, trace: str) -> None:
    said = say("--trace", trace, "--nodes", "1", "--gpus-per-node", "1", "--policy", "fifo")
    assert said.code == 0
    for words in ("3 of 3 finished", "1 node × 1 GPU", "avg JCT", "12 s", "100.0%", "1 of 2", "tenants", "rho"):
        assert words in said.out


def test_what_if_gives_a_row_for_each_number_of_nodes(say: Terminal, trace: str) -> None:
    words = ("--trace", trace, "--gpus-per-node", "1", "--policy", "fifo", "--nodes", "1", "--what-if", "nodes=1,2,3")
    rows = json.loads(say(*words, "--json").out)["what_if"]
    assert [(row["nodes"], row["avg_jct_s"], row["makespan_s"]) for row in rows] == [
        (1, 12, 15),
        (2, pytest.approx((10 + 4 + 4) / 3), 10),
        (3, 5, 10),
    ]
    assert "what if" in say(*words).out


def test_simulate_writes_what_it_is_asked_for(say: Terminal, trace: str, tmp_path: Path) -> None:
    said = say("--trace", trace, "--plot", str(tmp_path / "plan.html"), "--jobs", str(tmp_path / "jobs.csv"))
    assert said.code == 0
    assert f"plot written to {tmp_path / 'plan.html'}\njobs written to {tmp_path / 'jobs.csv'}\n" in said.err
    assert "<svg" in (tmp_path / "plan.html").read_text()
    assert len((tmp_path / "jobs.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--min-run-s", "nan"), 2, "--min-run-s"),
        (("--restart-cost-s", "-1"), 2, "--restart-cost-s"),
        (("--estimate-error", "9"), 2, "--estimate-error"),
        (("--las-limits", "7200,3250"), 2, "ascend"),
        (("--las-limits", "a"), 2, "no list of numbers"),
        (("--what-if", "nodes=0"), 2, "nodes="),
        (("--what-if", "gpus=3"), 2, "nodes="),
        (("--policy", "best"), 2, "fifo"),
        (("--nodes", "0"), 2, "--nodes"),
        (("--plot", "plan.pdf"), 2, ".html"),
        (("--throughput", "nowhere.csv"), 5, "nowhere.csv"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    say: Terminal, trace: str, words: tuple[str, ...], code: int, why: str
) -> None:
    said = say("--trace", trace, *words)
    assert said.code == code
    assert why in said.err
    assert len(said.err.splitlines()) == 2
    assert not said.out


def test_traces_that_cannot_be_read_are_refused_by_line_and_column(say: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("job_id,submit_s,duration_s,num_gpus\na,0,-5,1\n")
    said = say("--trace", str(path))
    assert said.code == 2
    assert said.err.startswith("error trace_unreadable: bad.csv, line 2, column duration_s: -5 is negative")
    path.write_text("job_id,submit_s,duration_s,num_gpus\na,0,5,100\n")
    assert "'a' in line 2 for 100" in say("--trace", str(path), "--nodes", "2").err
    assert say("--trace", str(tmp_path / "none.csv")).code == 5
