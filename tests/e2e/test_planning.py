"""A plan of a real training: tried as jobs, started with the chosen workers, compared with what came."""

import json
from pathlib import Path

import pytest

from tests.terminal import Terminal

pytestmark = pytest.mark.slow

SCRIPT = """
import time
from skyloom.runtime import context, steps
world = context().world_size
for step in steps(150):
    time.sleep(0.03 / world)
"""
SMALL = ("--cpus", "1", "--memory", "512MiB")


def test_plan_tries_chooses_starts_and_keeps_how_far_off_it_was(terminal: Terminal, tmp_path: Path) -> None:
    script = tmp_path / "naps.py"
    script.write_text(SCRIPT)
    said = terminal(
        *("plan", str(script), *SMALL, "--deadline", "5min", "--budget", "1", "--workers", "1-2", "--go", "--json")
    )
    assert said.code == 0, said.err
    plan = json.loads(terminal("plan", "list", "--json").out)["items"][0]
    job = json.loads(terminal("job", "show", plan["job_id"], "--json").out)["job"]
    assert job["spec"]["deadline_at"] == plan["deadline_at"]
    assert 0.99 < job["spec"]["budget_usd"] < 1, "what the trials cost is spent"
    _, second, first = (one["job"]["spec"] for one in json.loads(terminal("job", "list", "--json").out)["items"][:3])
    assert job["spec"]["budget_usd"] < second["budget_usd"] < first["budget_usd"] == 1, (
        "a trial spends no more than is left"
    )
    assert plan["name"] == "naps.py"
    assert [part["steps"] for part in plan["parts"]] == [150, 150]
    assert plan["chosen"]["workers"] == 1, "the cheapest in time"
    steps_s = 150 * 0.03
    assert steps_s < plan["chosen"]["seconds"] < steps_s + 10
    seen = json.loads(terminal("plan", "show", plan["id"], "--json").out)
    outcome = seen["outcome"]
    assert seen["state"] == outcome["state"] == "succeeded"
    assert outcome["in_time"]
    assert steps_s < outcome["actual_s"]
    accuracy = json.loads(terminal("plan", "accuracy", "--json").out)
    row = next(row for row in accuracy["rows"] if row["name"] == "naps.py")
    assert row["num_trainings"] == 1
    assert row["median_error_share"] == pytest.approx(outcome["error_share"])
    assert "← chosen" in terminal("plan", "show", plan["id"]).out
    why = json.loads(terminal("why", plan["id"], "--json").out)
    assert (why["noun"], why["state"]) == ("plan", "followed")
    assert "the cheapest in time" in why["message"]


def test_plan_of_a_script_that_counts_no_steps_says_what_to_do(terminal: Terminal, tmp_path: Path) -> None:
    script = tmp_path / "silent.py"
    script.write_text("print('nothing to time')")
    said = terminal("plan", str(script), *SMALL, "--workers", "1")
    assert said.code == 1
    assert "told no times" in said.err
    assert "skyloom.runtime" in said.err


def test_plan_of_a_script_that_fails_says_why(terminal: Terminal, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such luck')")
    said = terminal("plan", str(script), *SMALL, "--workers", "1")
    assert said.code == 1
    assert "no such luck" in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "0"), "budget in USD is 0"),
        (("--workers", "8-2"), "leaves none"),
        (("--workers", "many"), "is no number of workers"),
        (("--trial-share", "0"), "--trial-share is 0"),
        (("--trial-workers", "1;2"), "is no list"),
        (("--workers", "1-4", "--trial-workers", "1"), "tells nothing of 1 to 4 workers"),
    ],
)
def test_plan_that_cannot_be_meant_is_refused_before_anything_is_tried(
    terminal: Terminal, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    script = tmp_path / "never.py"
    script.write_text(SCRIPT)
    said = terminal("plan", str(script), *options)
    assert said.code == 2
    assert words in said.err
