import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skyloom.core.errors import InvalidInput
from skyloom.inference.reduce import MAX_BINS, Observer, TensorMissing, build_profile, check_features, observe
from skyloom.rooms.monitoring.model import Feature, Reduction
from skyloom.rooms.registry.bundle import ModelKind

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def feature(reduction, edges, column=0, tensor="x"):
    return Feature(name="f", tensor=tensor, reduction=reduction, column=column, edges=tuple(edges))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=FLOATS),
    st.lists(st.floats(-100, 100), max_size=6, unique=True).map(sorted),
    st.integers(0, 2),
)
def test_observe_any_values_counts_each_row_in_the_bin_the_noun_promises(rows, edges, column):
    (histogram,) = observe([feature(Reduction.COLUMN, edges, column)], {"x": rows})
    expected = [0] * (len(edges) + 1)
    missing = 0
    for value in rows[:, column].astype(float):
        if np.isnan(value):
            missing += 1
        else:
            expected[sum(value >= edge for edge in edges)] += 1
    assert histogram.counts == tuple(expected)
    assert histogram.missing == missing
    assert histogram.total == len(rows)


@given(st.integers(1, 50), st.integers(1, 50))
def test_observer_counts_of_two_halves_add_up_to_the_whole(first, second):
    rows = np.random.default_rng(first * 100 + second).normal(size=(first + second, 4, 2)).astype(np.float32)
    watched = Observer([feature(Reduction.MEAN, [-1, 0, 1]), feature(Reduction.DEVIATION, [0.5])])
    whole = watched.count(watched.reduce({"x": rows}))
    halves = [watched.count(watched.reduce({"x": part})) for part in (rows[:first], rows[first:])]
    assert (whole == sum(halves)).all()


def test_reductions_of_an_image_equal_numpy():
    images = np.random.default_rng(0).normal(5, 2, size=(7, 1, 28, 28)).astype(np.float32)
    watched = Observer([feature(reduction, []) for reduction in Reduction])
    values = watched.reduce({"x": images})
    flat = images.reshape(7, -1)
    expected = np.stack([flat[:, 0], flat.mean(1), flat.std(1), flat.argmax(1), flat.max(1)], axis=1)
    assert np.allclose(values, expected, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 1.0, 300.0, 1e6])
@pytest.mark.parametrize("width", [8_191, 8_192, 20_000])
def test_deviation_of_wide_rows_equals_numpy_however_far_they_are_from_zero(width, level):
    rows = np.random.default_rng(1).normal(level, [[0.0], [1.0], [50.0]], size=(3, width)).astype(np.float32)
    rows = np.concatenate([rows, np.full((1, width), np.inf, np.float32), np.full((1, width), 1e30, np.float32)])
    rows[4, 0] = -1e30
    found = Observer([feature(Reduction.DEVIATION, [])]).reduce({"x": rows})[:, 0]
    assert np.allclose(found[:3], rows[:3].astype(np.float64).std(axis=1), rtol=1e-3, atol=1e-6 * level)
    assert np.isnan(found[3])
    assert found[4] > 1e9


def test_build_profile_of_images_watches_mean_deviation_class_and_score():
    images = np.random.default_rng(1).random((500, 1, 8, 8)).astype(np.float32)
    scores = np.random.default_rng(2).random((500, 10)).astype(np.float32)
    profile = build_profile({"image": images}, {"scores": scores}, ModelKind.CLASSIFICATION)
    assert [item.name for item in profile.features] == [
        "image mean",
        "image deviation",
        "predicted class",
        "winning score",
    ]
    assert [item.is_output for item in profile.features] == [False, False, True, True]
    assert profile.histograms[2].counts == tuple(np.bincount(scores.argmax(1), minlength=10).tolist())
    assert all(histogram.total == 500 for histogram in profile.histograms)
    assert max(profile.histograms[0].counts) < 2 * 500 / MAX_BINS


def test_build_profile_of_a_table_watches_every_column_by_name():
    table = np.stack([np.arange(100.0), np.arange(100) % 2, np.full(100, 7.0)], axis=1).astype(np.float32)
    profile = build_profile(
        {"row": table}, {"price": table[:, :1]}, ModelKind.REGRESSION, columns=("age", "member", "constant")
    )
    assert [item.name for item in profile.features] == ["age", "member", "constant", "prediction"]
    member, constant = profile.histograms[1], profile.histograms[2]
    assert sorted(member.counts) == [0, 50, 50]
    assert constant.counts == (0, 100, 0), "a constant has a bin of its own, so that any change shows"


def test_build_profile_of_missing_values_counts_them_and_still_finds_edges():
    column = np.array([[1.0], [np.nan], [3.0], [np.inf]], dtype=np.float32)
    profile = build_profile({"x": column}, {}, ModelKind.OTHER)
    assert profile.histograms[0].missing == 1
    assert all(np.isfinite(profile.features[0].edges))


def test_build_profile_of_a_wide_table_summarises_it():
    profile = build_profile({"x": np.zeros((3, 300), dtype=np.float32)}, {}, ModelKind.OTHER)
    assert [item.reduction for item in profile.features] == [Reduction.MEAN, Reduction.DEVIATION]


def test_build_profile_without_rows_says_what_it_needs():
    with pytest.raises(InvalidInput, match="at least one row"):
        build_profile({"x": np.zeros((0, 3))}, {}, ModelKind.OTHER)


def test_observe_of_an_absent_tensor_or_column_names_it():
    with pytest.raises(TensorMissing, match="'y'"):
        observe([feature(Reduction.MEAN, [], tensor="y")], {"x": np.zeros((1, 2))})
    with pytest.raises(TensorMissing, match="column 5"):
        check_features([feature(Reduction.COLUMN, [], column=5)], {"x": 2})
    check_features([feature(Reduction.COLUMN, [], column=5)], {"x": None})


def test_row_without_what_is_watched_counts_as_missing():
    features = [feature(Reduction.COLUMN, [], column=5), feature(Reduction.COLUMN, [], column=1)]
    features += [feature(Reduction.ARGMAX, []), feature(Reduction.MAXIMUM, []), feature(Reduction.MEAN, [])]
    assert [one.missing for one in observe(features, {"x": np.zeros((3, 2))})] == [3, 0, 0, 0, 0]
    assert [one.missing for one in observe(features, {"x": np.zeros((3, 0))})] == [3, 3, 3, 3, 3]


def test_build_profile_watches_no_column_of_rows_of_any_length():
    profile = build_profile({"tokens": np.arange(30).reshape(3, 10)}, {}, ModelKind.OTHER, free=("tokens",))
    assert [one.name for one in profile.features] == ["tokens mean", "tokens deviation"]
