"""The planner on laws that are known: it recovers them, is honest about what it cannot know, and never says nonsense."""

import math
import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.curves.scipy import ScipyCurves
from skyloom.rooms.planning import predicting, rules
from skyloom.rooms.planning.fitting import fit
from skyloom.rooms.planning.model import Aim, AimImpossible, AimUnclear, Measurement, MeasurementsUnusable
from skyloom.rooms.planning.terms import Load, Term
from tests.rooms.planning.laws import LAWS, SMALL, measured

CURVES = ScipyCurves()
SECONDS = st.floats(0.01, 1e5)


@pytest.mark.parametrize("name", LAWS)
def test_forecast_of_an_exact_law_recovers_it_up_to_twice_the_measured_workers(name: str) -> None:
    found = rules.forecast(measured(LAWS[name], SMALL, 0, 0), Aim(max_workers=16), CURVES)
    for one in found.predictions:
        assert one.seconds == pytest.approx(LAWS[name](one.workers, 1.0), rel=0.03)
        assert one.low_s < one.seconds < one.high_s


def test_model_of_amdahls_law_names_its_terms() -> None:
    model = fit(measured(LAWS["amdahl"], SMALL, 0, 0), CURVES)
    assert model.terms[Term.WORK] == pytest.approx(700, rel=0.02)
    assert model.terms[Term.SERIAL] == pytest.approx(40, rel=0.1)
    assert model.terms[Term.FIXED] == pytest.approx(5, rel=0.1)


@pytest.mark.slow
def test_intervals_hold_the_truth_nine_times_of_ten_and_the_error_is_small() -> None:
    inside, errors = [], []
    for name, law in LAWS.items():
        for seed in range(8):
            chance = random.Random(f"{name}{seed}")
            model = fit(measured(law, SMALL, 0.03, seed), CURVES)
            for workers in (1, 2, 4, 8, 16):
                found = predicting.estimate(model, Load(workers=workers), CURVES)
                truth = law(workers, 1.0)
                errors.append(abs(found.seconds - truth) / truth)
                inside.append(found.low_s <= truth * math.exp(chance.gauss(0, 0.03)) <= found.high_s)
    assert median(errors) < 0.05
    assert 0.82 <= sum(inside) / len(inside) <= 0.99


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.floats(0.001, 10), SECONDS), min_size=2, max_size=12, unique_by=lambda t: t[0]
    ),
    st.integers(1, 200),
)
def test_forecast_of_any_measurements_is_ordered_positive_and_finite(
    some: list[tuple[int, float, float]], most: int
) -> None:
    found = rules.forecast(
        [Measurement(workers=n, data_fraction=f, seconds=s) for n, f, s in some],
        Aim(max_workers=most, price_usd_per_worker_hour=1.0),
        CURVES,
    )
    assert len(found.predictions) == most
    assert all(weight >= 0 for law in found.model.laws for weight in law.coefficients.values())
    assert sum(law.weight for law in found.model.laws) == pytest.approx(1)
    for one in found.predictions:
        assert 0 < one.low_s <= one.seconds <= one.high_s < math.inf
        assert 0 <= one.cost_usd <= one.high_cost_usd
    assert found.chosen.workers in range(1, most + 1)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 0.8), st.floats(0.81, 0.99), st.integers(1, 64))
def test_interval_grows_with_the_confidence_asked_for(less: float, more: float, workers: int) -> None:
    model = fit(measured(LAWS["tree"], SMALL, 0.02, 1), CURVES)
    narrow = predicting.estimate(model, Load(workers=workers), CURVES, less)
    wide = predicting.estimate(model, Load(workers=workers), CURVES, more)
    assert wide.low_s <= narrow.low_s <= narrow.seconds == wide.seconds <= narrow.high_s <= wide.high_s


def test_interval_is_wide_where_few_points_say_little() -> None:
    few = [Measurement(workers=n, data_fraction=1.0, seconds=100 / n + 5) for n in (1, 2)]
    found = rules.forecast(few, Aim(max_workers=64), CURVES)
    widths = [one.high_s / one.low_s for one in found.predictions]
    assert widths[1] < 2
    assert widths[63] > 5
    assert any("guess" in note for note in found.notes)


@pytest.mark.parametrize(("deadline_s", "budget_usd"), [(200.0, None), (None, 0.5), (300.0, 1.0), (None, None)])
def test_choice_is_within_what_was_asked(deadline_s: float | None, budget_usd: float | None) -> None:
    aim = Aim(deadline_s=deadline_s, budget_usd=budget_usd, price_usd_per_worker_hour=1.0)
    found = rules.forecast(measured(LAWS["amdahl"], SMALL, 0.01, 3), aim, CURVES)
    chosen = found.chosen
    assert chosen.sure
    assert chosen.high_s <= (deadline_s or math.inf)
    assert chosen.high_cost_usd <= (budget_usd or math.inf)
    assert chosen.cost_usd == pytest.approx(chosen.workers * chosen.seconds / 3600)


def test_choice_for_a_deadline_is_the_cheapest_that_is_surely_in_time() -> None:
    found = rules.forecast(measured(LAWS["ideal"], SMALL, 0.01, 3), Aim(deadline_s=200, max_workers=32), CURVES)
    in_time = [one.workers for one in found.predictions if one.high_s <= 200]
    assert found.chosen.workers == min(in_time)


def test_choice_for_a_budget_is_the_fastest_that_it_surely_pays() -> None:
    aim = Aim(budget_usd=0.4, price_usd_per_worker_hour=1.0, max_workers=32)
    found = rules.forecast(measured(LAWS["line"], SMALL, 0.01, 3), aim, CURVES)
    paid = [one for one in found.predictions if one.high_cost_usd <= 0.4]
    assert found.chosen.seconds == min(one.seconds for one in paid)


def test_choice_whose_interval_reaches_beyond_says_so() -> None:
    sharp = rules.forecast(measured(LAWS["amdahl"], SMALL, 0.01, 3), Aim(max_workers=8), CURVES)
    fastest = min(one.seconds for one in sharp.predictions)
    found = rules.forecast(
        measured(LAWS["amdahl"], SMALL, 0.01, 3), Aim(max_workers=8, deadline_s=fastest * 1.005), CURVES
    )
    assert not found.chosen.sure
    assert "probably" in found.chosen.reason


def test_choice_never_bets_money() -> None:
    """The budget pays for the expected cost and not for the longest time to be reckoned with."""
    some = measured(LAWS["amdahl"], SMALL, 0.05, 4)
    one = rules.forecast(some, Aim(max_workers=1, price_usd_per_worker_hour=1.0), CURVES).chosen
    between = (one.cost_usd + one.high_cost_usd) / 2
    with pytest.raises(AimImpossible, match="does not surely pay"):
        rules.forecast(some, Aim(max_workers=1, price_usd_per_worker_hour=1.0, budget_usd=between), CURVES)


@pytest.mark.parametrize(
    ("aim", "word"),
    [
        (Aim(deadline_s=1), "the fastest is"),
        (Aim(budget_usd=1e-6, price_usd_per_worker_hour=1), "the cheapest is 1 worker for"),
        (Aim(deadline_s=120, budget_usd=0.21, price_usd_per_worker_hour=1), "cannot both be kept"),
    ],
)
def test_aim_that_nothing_reaches_is_told_the_best_possible(aim: Aim, word: str) -> None:
    with pytest.raises(AimImpossible, match=word):
        rules.forecast(measured(LAWS["amdahl"], SMALL, 0, 0), aim, CURVES)


@pytest.mark.parametrize(
    "aim",
    [
        Aim(deadline_s=0),
        Aim(deadline_s=-5),
        Aim(deadline_s=math.inf),
        Aim(budget_usd=0),
        Aim(budget_usd=math.nan),
        Aim(price_usd_per_worker_hour=math.nan),
        Aim(price_usd_per_worker_hour=-1),
        Aim(max_workers=0),
        Aim(max_workers=10**6),
        Aim(min_workers=9, max_workers=8),
        Aim(data_fraction=math.nan),
    ],
)
def test_aim_that_cannot_be_meant_is_refused(aim: Aim) -> None:
    with pytest.raises(AimUnclear):
        rules.forecast(measured(LAWS["ideal"], SMALL, 0, 0), aim, CURVES)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 1e-300, 1e300])
def test_measurement_that_is_no_time_is_refused(seconds: float) -> None:
    some = [Measurement(workers=n, data_fraction=1.0, seconds=seconds if n == 2 else 5.0) for n in (1, 2)]
    with pytest.raises(MeasurementsUnusable, match="Measurement 2"):
        rules.forecast(some, Aim(), CURVES)


def test_measurements_of_one_number_of_workers_say_what_can_be_known() -> None:
    some = [Measurement(workers=2, data_fraction=f, seconds=100 * f + 3) for f in (0.1, 0.2, 0.4)]
    with pytest.raises(MeasurementsUnusable, match=r"With 2 workers it takes about 10\d"):
        rules.forecast(some, Aim(), CURVES)
    just_those = rules.forecast(some, Aim(min_workers=2, max_workers=2), CURVES)
    assert just_those.chosen.seconds == pytest.approx(103, rel=0.05)
    with pytest.raises(MeasurementsUnusable, match="Not even the time"):
        rules.forecast(some[:1] * 2, Aim(), CURVES)


def test_batch_size_that_may_change_is_chosen_by_goodput() -> None:
    """Every step costs 0.1 s whatever its rows; a row costs 1 ms. More workers are worth larger batches, up to the noise scale."""
    rows, noise_scale = 100_000, 2_000.0

    def seconds(workers: int, batch: int, share: float) -> float:
        return 2 + share * rows / batch * (0.1 + 0.001 * batch / workers)

    some = [
        Measurement(workers=n, data_fraction=f, seconds=seconds(n, b, f), batch_size=b)
        for n in (1, 2, 4, 8)
        for b in (64, 256, 1024)
        for f in (0.05, 0.1)
    ]
    aim = Aim(max_workers=8, noise_scale_rows=noise_scale)  # tuned for the smallest size, as nothing else is said
    found = rules.forecast(some, aim, CURVES)
    sizes = [one.batch_size or 0 for one in found.predictions]
    assert sizes[0] < sizes[-1] <= 1024
    assert any("times the epochs of one of 64" in note for note in found.notes)
    for one in found.predictions:
        size = one.batch_size or 0
        truth = seconds(one.workers, size, 1 / rules.efficiency(size, 64, noise_scale))
        assert one.seconds == pytest.approx(truth, rel=0.05)
    kept = rules.forecast(some, Aim(max_workers=8, base_batch_size=256), CURVES)
    assert {one.batch_size for one in kept.predictions} == {256}
    assert any("not known, so the batch size stays 256" in note for note in kept.notes)
    assert kept.predictions[3].seconds == pytest.approx(seconds(4, 256, 1), rel=0.05)


def test_efficiency_of_a_larger_batch_falls_from_one() -> None:
    assert rules.efficiency(64, 64, 500) == 1
    assert rules.efficiency(1064, 64, 500) == pytest.approx(564 / 1564)
    assert rules.efficiency(128, 64, 0) == 0.5


def test_measurements_of_which_only_some_name_a_batch_size_are_refused() -> None:
    some = [
        Measurement(workers=n, data_fraction=1.0, seconds=9.0 / n, batch_size=64 if n > 1 else None) for n in (1, 2)
    ]
    with pytest.raises(MeasurementsUnusable, match="batch size"):
        rules.forecast(some, Aim(), CURVES)
