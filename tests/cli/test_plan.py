"""``skyloom plan`` from measurements: no cloud is asked."""

import json
from pathlib import Path

import pytest

from skyloom.cli import main
from skyloom.cli.forecasts import words_of_forecast
from skyloom.cli.pictures import figure_of
from skyloom.cli.plan import _workers
from skyloom.core.resources import Resources
from skyloom.curves.scipy import ScipyCurves
from skyloom.rooms.planning import rules
from skyloom.rooms.planning.model import Aim, Measurement, TimePlan
from skyloom.sdk.planning import forecast, trial_workers, workers_that_fit
from tests.rooms.planning.laws import LAWS, SMALL, measured
from tests.terminal import Said, Terminal


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
    """A terminal on a machine without a cloud."""
    monkeypatch.setenv("SKYLOOM_HOME", str(tmp_path / "nothing"))

    def run(*words: str) -> Said:
        capfd.readouterr()
        return Said(main(list(words)), *capfd.readouterr())

    return run


@pytest.fixture
def times(tmp_path: Path) -> str:
    path = tmp_path / "times.csv"
    lines = [f"{one.workers},{one.data_fraction},{one.seconds}" for one in measured(LAWS["amdahl"], SMALL, 0.01, 5)]
    path.write_text("\n".join(["workers,data_fraction,seconds", *lines]))
    return str(path)


def test_plan_for_a_deadline_answers_json_with_the_documented_keys(alone: Terminal, times: str) -> None:
    said = alone(
        *("plan", "--from-measurements", times, "--deadline", "5min", "--price-per-worker-hour", "0.5", "--json")
    )
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert [one["workers"] for one in found["predictions"]] == list(range(1, 65))
    assert set(found["predictions"][0]) >= {"workers", "seconds", "low_s", "high_s", "cost_usd"}
    assert set(found["chosen"]) >= {"workers", "seconds", "cost_usd", "reason"}
    assert found["chosen"]["high_s"] <= 300
    assert found["model"]["terms"]["work"] == pytest.approx(700, rel=0.05)
    for one in found["predictions"]:
        assert one["cost_usd"] == pytest.approx(one["workers"] * one["seconds"] / 3600 * 0.5)


def test_plan_in_text_shows_the_curve_the_choice_and_the_law(alone: Terminal, times: str) -> None:
    said = alone("plan", "--from-measurements", times, "--budget", "1", "--max-workers", "16")
    assert said.code == 0
    assert "← chosen" in said.out
    assert "the fastest within the budget" in said.out
    assert "f/N" in said.out
    assert "●" in said.out


def test_plan_draws_a_page_and_a_picture(alone: Terminal, times: str, tmp_path: Path) -> None:
    said = alone("plan", "--from-measurements", times, "--plot", str(tmp_path / "curve.html"))
    assert (said.code, said.err) == (0, f"plot written to {tmp_path / 'curve.html'}\n")
    page = (tmp_path / "curve.html").read_text()
    assert page.count("<tr><td>") == 64
    assert "<polyline" in page
    pytest.importorskip("matplotlib")
    assert alone("plan", "--from-measurements", times, "--plot", str(tmp_path / "curve.png")).code == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("least", "most", "labels"), [(1, 3, "1 2 3"), (2, 2, "2"), (1, 32, "1 2 4 8 16 32")])
def test_picture_names_whole_numbers_of_workers(least: int, most: int, labels: str) -> None:
    pytest.importorskip("matplotlib")
    aim = Aim(min_workers=least, max_workers=most)
    figure = figure_of(forecast(measured(LAWS["amdahl"], SMALL, 0.01, 5), aim))
    figure.draw_without_rendering()
    (axis,) = (axes.xaxis for axes in figure.axes)
    told = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
    assert " ".join(label.get_text() for label in told) == labels


def test_plan_says_that_earlier_errors_widened_its_interval() -> None:
    made = rules.forecast(measured(LAWS["amdahl"], SMALL, 0.01, 5), Aim(), ScipyCurves(), 0.48)
    (said,) = (text for heading, text in words_of_forecast(made) if heading == "interval")
    assert said.startswith("widened by 48%")
    assert "earlier plans" in said
    alone = rules.forecast(measured(LAWS["amdahl"], SMALL, 0.01, 5), Aim(), ScipyCurves())
    assert "interval" not in dict(words_of_forecast(alone))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--deadline", "0s"), "is in the past"),
        (("--deadline", "2001-01-31T18:00"), "is in the past"),
        (("--deadline=-2h",), "is in the past"),
        (("--deadline", "soon"), "neither a duration nor a date"),
        (("--deadline", "20s"), "the fastest is"),
        (("--budget", "0"), "budget in USD is 0"),
        (("--budget", "nan"), "budget in USD is nan"),
        (("--budget", "0.00001"), "the cheapest is 1 worker"),
        (("--price-per-worker-hour", "nan"), "price of a worker and hour in USD is nan"),
        (("--max-workers", "0"), "Max workers is 0"),
        (("--max-workers", "9" * 400), "cannot be meant"),
        (("--deadline", "9999-12-31T23:59-05:00"), "neither a duration nor a date"),
        (("--go",), "cannot be started"),
        (("--plot", "curve.gif"), "no .png or .html"),
        (("--plot", "/no/such/folder/curve.html"), "no folder"),
    ],
)
def test_plan_that_cannot_be_meant_is_refused_in_two_lines(
    alone: Terminal, times: str, options: tuple[str, ...], words: str
) -> None:
    said = alone("plan", "--from-measurements", times, *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert said.err.count("\n") == 2
    assert "next: " in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--go", "--data-fraction", "0.5"), "--go trains on all of the data"),
        (("--price-per-worker-hour", "1"), "is for measurements"),
        (("--batch-sizes", "64"), "nothing to choose"),
        (("--go", "--batch-sizes", "64,128"), "nothing says how many"),
        (("--go", "--batch-sizes", "64,128", "--set", "epochs=ten"), "nothing says how many"),
    ],
)
def test_plan_of_a_training_passes_over_no_word_in_silence(
    alone: Terminal, options: tuple[str, ...], words: str
) -> None:
    said = alone("plan", "train.py", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_plan_of_a_file_that_is_not_there_or_no_text_says_so(alone: Terminal, tmp_path: Path) -> None:
    assert alone("plan", "--from-measurements", str(tmp_path / "none.csv")).code == 5
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    said = alone("plan", "--from-measurements", str(tmp_path / "bytes.csv"))
    assert said.code == 2
    assert "no UTF-8" in said.err


def test_plan_of_nothing_says_what_it_needs(alone: Terminal) -> None:
    said = alone("plan", "--budget", "5")
    assert said.code == 2
    assert "--from-measurements" in said.err
    assert "does not say what to plan" in said.err
    assert "Usage" in alone("plan").out


def test_workers_to_try_double_and_fit_into_the_pool() -> None:
    assert trial_workers(1, 64, 2) == (1, 2)
    assert trial_workers(1, 8, 16) == (1, 2, 4, 8)
    assert trial_workers(1, 64, 5) == (1, 2, 4)
    assert trial_workers(2, 16, 16) == (2, 4, 8, 16)
    assert trial_workers(4, 4, 2) == (4,)
    pool = Resources(cpus=8, gpus=4, memory_bytes=2**34)
    assert workers_that_fit(pool, Resources(cpus=0.1, gpus=1, memory_bytes=2**30)) == 4
    assert workers_that_fit(pool, Resources(cpus=3, memory_bytes=2**30)) == 2
    assert workers_that_fit(pool, Resources(cpus=99)) == 1


def test_elastic_start_offers_every_planned_number_of_workers_with_its_worth():
    times = [
        Measurement(workers=workers, data_fraction=share, seconds=2 + 100 * share / workers)
        for workers in (1, 2, 4)
        for share in (0.1, 0.2)
    ]
    found = forecast(times, Aim(min_workers=2, max_workers=4))
    plan = TimePlan(
        id="plan_1",
        project="p",
        name="x",
        resources=Resources(),
        chosen=found.chosen,
        predictions=found.predictions,
        model=found.model,
        aim=found.aim,
        created_at=0.0,
        created_by="ann",
    )
    options = _workers(plan, elastic=True)
    assert options["workers"] == (2, 4)
    assert [round(speed, 1) for speed in options["speedups"]] == [0.5, 1.0, 1.5, 1.9]
    assert options["expected_duration_s"] == found.predictions[0].seconds
    assert _workers(plan, elastic=False)["workers"] == found.chosen.workers
