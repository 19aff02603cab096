"""Counting labels: what is added and taken away again, put together in any order, says the same."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.quality import rules
from skyloom.rooms.quality.model import AnsweredRows, QualityCount

ANIMALS = AnsweredRows(endpoint="ep", revision=1, at=0.0, classes=("cat", "dog", "1"), num_classes=3)
CLASSES = st.sampled_from("abcd")
ROWS = st.lists(st.tuples(CLASSES, CLASSES, st.one_of(st.none(), st.floats(0, 1))), max_size=30)


def counted(rows, is_class=True) -> QualityCount:
    count = QualityCount()
    for actual, said, confidence in rows:
        count = rules.counted(count, actual, said, confidence, is_class)
    return count


def plain(count: QualityCount) -> tuple:
    bins = [(one.labelled, one.right, round(one.confidence, 6)) for one in count.bins if one.labelled]
    return count.labelled, count.right, count.confusion, bins, count.errors


@given(ROWS, ROWS)
def test_label_that_is_taken_back_leaves_no_trace(kept, gone):
    count = counted([*kept, *gone])
    for actual, said, confidence in gone:
        count = rules.uncounted(count, actual, said, confidence, True)
    assert plain(count) == plain(counted(kept))
    assert count.right + count.wrong == count.labelled == len(kept)
    assert count.right == sum(actual == said for actual, said, _ in kept)


@given(ROWS, st.integers(0, 30))
def test_parts_put_together_are_the_whole(rows, cut):
    assert plain(rules.merged([counted(rows[:cut]), counted(rows[cut:])])) == plain(counted(rows))


def test_kinds_beyond_the_bound_are_counted_together_and_can_be_taken_back(monkeypatch):
    monkeypatch.setattr(rules, "MAX_CELLS", 2)
    count = counted([("a", "a", None), ("a", "b", None), ("c", "a", None), ("c", "b", None)])
    assert count.labelled == 4 and count.confusion == {"a": {"a": 1, "b": 1}, rules.OTHER: {rules.OTHER: 2}}
    count = rules.uncounted(count, "c", "b", None, True)
    assert count.confusion[rules.OTHER] == {rules.OTHER: 1}
    assert msgspec.json.decode(msgspec.json.encode(count), type=QualityCount) == count


def test_calibration_error_is_the_gap_between_confidence_and_being_right():
    sure = counted([("a", "a" if place < 7 else "b", 0.95) for place in range(10)])
    assert rules.calibration_error(sure) == pytest.approx(0.25)
    assert rules.calibration_error(counted([("a", "a", None)])) is None


def test_regression_counts_errors_and_no_rights():
    count = counted([("3.0", "2.5", None), ("1.0", "2.0", None)], is_class=False)
    assert (count.errors, count.absolute, count.squared, count.judged) == (2, 1.5, 1.25, 0)


@pytest.mark.parametrize(
    ("text", "label"), [("dog", "dog"), ("0", "cat"), ("1", "1"), ("2", "1"), ("3", None), ("cow", None), ("²", None)]
)
def test_label_is_a_class_by_name_first_and_by_number_else(text, label):
    assert rules.label_of(ANIMALS, text) == label
    if label is None:
        assert "cat, dog" in rules.misfit_words(ANIMALS, text)


@pytest.mark.parametrize(
    ("text", "label"), [("1", "1.0"), ("-2.5e3", "-2500.0"), ("nan", None), ("inf", None), ("x", None)]
)
def test_label_of_a_regression_is_a_finite_number(text, label):
    assert rules.label_of(AnsweredRows(endpoint="ep", revision=1, at=0.0), text) == label
