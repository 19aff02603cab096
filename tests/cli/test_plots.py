import math

from hypothesis import given
from hypothesis import strategies as st

from skyloom.cli.plots import bar, bins, spark

ANY = st.floats() | st.none()


def test_spark_of_a_falling_curve_falls():
    assert spark([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"


def test_spark_of_a_long_curve_is_averaged_to_its_width():
    assert spark([0.0] * 500 + [1.0] * 500, width=4) == "▁▁██"


def test_spark_shows_what_is_missing():
    assert spark([1, None, 2, math.nan]) == "▁·█·"
    assert spark([None]) == "·"
    assert spark([]) == ""


def test_spark_of_the_largest_numbers_is_drawn():
    assert spark([-1.7e308, 1.7e308]) == "▁█"


@given(st.lists(ANY, max_size=200), st.integers(1, 60))
def test_spark_of_anything_fits_its_width(values: list[float | None], width: int):
    assert len(spark(values, width)) == min(width, len(values))


def test_bins_of_two_histograms_share_a_scale():
    assert bins([0.5, 0.5], highest=1.0) == "▅▅"
    assert bins([0.0, 1.0], highest=1.0) == "▁█"
    assert bins([0, 0]) == "▁▁"


@given(st.floats(), st.integers(1, 40))
def test_bar_of_anything_is_at_most_its_width(share: float, width: int):
    assert len(bar(share, width)) <= width


def test_bar_counts_eighths():
    assert bar(0.5, 4) == "██"
    assert bar(0.53125, 4) == "██▏"
    assert bar(0, 4) == ""
