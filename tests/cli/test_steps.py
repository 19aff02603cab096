"""Cleaning in the words of the terminal."""

import pytest

from skyloom.cli.steps import StepUnreadable, casts, fillings, removals, scalings, shares
from skyloom.rooms.data.making import (
    Cast,
    ColumnType,
    Deduplicate,
    DropColumns,
    DropMissing,
    DropOutliers,
    Filling,
    FillMissing,
    Normalise,
    Scale,
)


def test_casts_read_columns_with_equal_signs() -> None:
    assert casts(["a=float", "b=c=text"]) == (
        Cast(column="a", to=ColumnType.FLOAT),
        Cast(column="b=c", to=ColumnType.TEXT),
    )


@pytest.mark.parametrize("word", ["a", "a=number", "=float"])
def test_casts_that_cannot_be_read_say_how(word: str) -> None:
    with pytest.raises(StepUnreadable) as caught:
        casts([word])
    assert "COLUMN=TYPE" in caught.value.next_action


def test_fillings_read_methods_and_constants() -> None:
    assert fillings(["mean", "city=mode", "n=0", "x=0.5", "b=true", "city=unknown"]) == (
        FillMissing(method=Filling.MEAN),
        FillMissing(method=Filling.MODE, columns=("city",)),
        FillMissing(method=Filling.CONSTANT, columns=("n",), value=0),
        FillMissing(method=Filling.CONSTANT, columns=("x",), value=0.5),
        FillMissing(method=Filling.CONSTANT, columns=("b",), value=True),
        FillMissing(method=Filling.CONSTANT, columns=("city",), value="unknown"),
    )


def test_steps_come_in_the_one_order_that_makes_sense() -> None:
    before = removals(["a"], casts(["b=float"]), True, True, ("b",))
    assert [type(step) for step in before] == [DropColumns, Cast, Deduplicate, DropMissing]
    after = scalings(["b"], Scale.MIN_MAX, ("b",))
    assert [type(step) for step in after] == [DropOutliers, Normalise]
    assert removals(None, (), False, False, ()) == scalings(None, None, ()) == ()


def test_shares_are_three_numbers() -> None:
    assert shares("0.7,0.1,0.2") == {"train": 0.7, "validation": 0.1, "test": 0.2}
    for wrong in ("0.8,0.2", "a,b,c", ""):
        with pytest.raises(StepUnreadable):
            shares(wrong)
