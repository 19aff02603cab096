"""Costs, budgets and prices on a terminal."""

import json

import pytest

from skyloom.cli.render import render
from skyloom.core.money import Money
from skyloom.rooms.cost.model import CostForecast, CostOutlook, DayCost
from tests.terminal import Terminal


def test_outlook_draws_a_bar_for_each_day_since_there_is_anything():
    days = tuple(
        DayCost(day=f"2026-01-{number:02}", cost=Money(cents * 10**7), cpu_hours=1.0, gpu_hours=0.0)
        for number, cents in enumerate((0, 0, 50, 0, 100), 1)
    )
    made = CostOutlook(
        days=days,
        forecast=CostForecast(
            month="2026-01",
            spent=Money(15 * 10**8),
            expected=Money(9 * 10**9),
            low=Money(8 * 10**9),
            high=Money(10**10),
            num_days=4,
            message="By the last 4.",
        ),
    )
    lines = render(made).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["2026-01-03", "2026-01-04", "2026-01-05"]
    assert lines[1].endswith("$0.500000  " + "█" * 20)
    assert lines[3].endswith("$1.00  " + "█" * 40)
    assert lines[4] == "2026-01: $1.50 so far, $9.00 at its end ($8.00 to $10.00). By the last 4."


def test_budget_is_set_listed_shown_and_deleted_by_words(terminal: Terminal):
    made = terminal("budget", "set", "--usd", "50", "--gpu-hours", "10", "--per", "month", "--user", "nobody")
    assert made.code == 0
    assert "user nobody" in made.out
    listed = terminal("budget", "list").out.splitlines()
    assert "of $50.00, 0 of 10 GPU-hours" in listed[1]
    shown = json.loads(terminal("budget", "show", "--user", "nobody", "--json").out)
    assert (shown["budget"]["period"], shown["state"]) == ("month", "within")
    told = terminal("why", shown["budget"]["id"])
    assert (told.code, "0% is used" in told.out) == (0, True)
    assert terminal("budget", "delete", "--user", "nobody").code == 0
    gone = terminal("budget", "show", "--user", "nobody")
    assert (gone.code, "budget_missing" in gone.err) == (5, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("budget", "set"), 2, "limits nothing"),
        (("budget", "set", "--usd", "0"), 2, "limits nothing"),
        (("budget", "set", "--usd", "nan"), 2, "no amount"),
        (("budget", "set", "--usd", "-1"), 2, "no amount"),
        (("price", "set", "cluster", "--cpu", "nan"), 2, "no amount"),
        (("price", "set", "cluster", "--gpu", "-2"), 2, "no amount"),
        (("job", "run", "--budget", "nan", "--", "true"), 2, "no amount"),
        (("job", "run", "--budget", "0", "--", "true"), 7, "could never run"),
    ],
)
def test_money_that_is_none_is_refused_in_words(terminal: Terminal, words: tuple[str, ...], code: int, said: str):
    answer = terminal(*words)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert "next:" in answer.err


def test_price_of_a_pool_is_set_and_listed(terminal: Terminal):
    assert terminal("price", "set", "cluster", "--cpu", "0.03", "--gpu", "1.9", "--tenure", "spot").code == 0
    rows = {line.split()[0]: line.split()[1:] for line in terminal("price", "list").out.splitlines()[1:]}
    assert rows["cluster"][:3] == ["spot", "0.03", "1.9"]
    assert rows["default"][-1] == "settings"


def test_cost_of_the_last_days_is_a_plot_or_a_table(terminal: Terminal):
    assert terminal("job", "run", "--cpus", "0.1", "--budget", "1", "--grace", "1s", "--", "true").code == 0
    plotted = terminal("cost", "--plot").out
    assert "█" in plotted
    assert "so far" in plotted
    assert "total" in terminal("cost", "--since", "7d", "--by", "pool").out
    assert json.loads(terminal("cost", "--plot", "--since", "3d", "--json").out)["days"][-1]["cost"]["nano_usd"] > 0
    assert len(json.loads(terminal("cost", "--plot", "--since", "9" * 400, "--json").out)["days"]) == 400
