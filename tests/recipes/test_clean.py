"""Cleaning steps do what they say, say what they did, and never touch a stable id."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput
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
    Step,
)
from tests.recipes.data_kit import TABLE, Bench

CSV = (
    "age,city,label\n30,Oslo,1\n,Oslo,0\n30,Oslo,1\nforty,,0\n50,Rome,1\n900,Rome,0\n35,Rome,1\n40,Rome,1\n45,Oslo,0\n"
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.ingest({"a.csv": CSV})
    return bench


def test_clean_steps_follow_each_other_and_report_every_loss(bench: Bench) -> None:
    version, contents = bench.clean(
        1,
        Deduplicate(),
        Cast(column="age", to=ColumnType.INTEGER),
        FillMissing(method=Filling.MEDIAN, columns=("age",)),
        FillMissing(method=Filling.MODE, columns=("city",)),
        DropOutliers(columns=("age",), spread=3),
    )
    assert bench.ids(2) == [0, 1, 3, 4, 6, 7, 8]
    assert bench.values(2, "age") == [30, 42, 42, 50, 35, 40, 45]
    assert bench.values(2, "city")[2] == "Rome"
    assert None not in bench.values(2, "city")
    deduplicate, cast, fill, mode, outliers = contents.reports
    assert (deduplicate.rows_in, deduplicate.rows_out, deduplicate.losses[0].examples[0].row_id) == (9, 8, 2)
    assert cast.num_changed == {"age": 1}
    assert fill.num_changed == {"age": 2}
    assert mode.num_changed == {"city": 1}
    assert (outliers.losses[0].num_rows, outliers.losses[0].examples[0].row_id) == (1, 5)
    assert version.number == 2
    assert bench.ids(1) == list(range(9))


def test_clean_deduplicate_again_finds_nothing(bench: Bench) -> None:
    bench.clean(1, Deduplicate())
    _, contents = bench.clean(2, Deduplicate())
    assert contents.reports[0].losses == ()
    assert contents.digest == bench.contents[2].digest


def test_clean_cast_can_drop_the_rows_that_are_not(bench: Bench) -> None:
    bench.clean(1, Cast(column="age", to=ColumnType.FLOAT, drop_rows=True))
    assert bench.ids(2) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert bench.values(2, "age")[:5] == [30.0, None, 30.0, 50.0, 900.0]


def test_clean_drop_missing_and_columns(bench: Bench) -> None:
    _, contents = bench.clean(1, DropMissing(columns=("city",)), DropColumns(columns=("age",)))
    assert [column.name for column in contents.columns] == ["city", "label"]
    assert bench.ids(2) == [0, 1, 2, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("scale", list(Scale))
def test_clean_normalise_keeps_the_fitted_numbers_and_fits_on_train_only(tmp_path: Path, scale: Scale) -> None:
    bench = Bench(tmp_path)
    values = np.random.default_rng(5).normal(50, 9, 400).round(3)
    bench.ingest({"a.csv": "x,c,label\n" + "".join(f"{value},4,{n % 2}\n" for n, value in enumerate(values))})
    bench.split(1)
    _, contents = bench.clean(2, Normalise(scale=scale))
    train = values[[part == "train" for part in bench.values(2, "split")]]
    fitted = {one.column: one for one in contents.scalings}
    assert set(fitted) == {"x", "c"}  # the label is no feature
    offset, divisor = (train.mean(), train.std()) if scale is Scale.STANDARD else (train.min(), np.ptp(train))
    assert (fitted["x"].offset, fitted["x"].divisor) == pytest.approx((offset, divisor))
    assert bench.values(3, "x") == pytest.approx((values - offset) / divisor)
    assert bench.values(3, "c") == [0.0] * 400
    again = bench.clean(3, DropMissing())[1]
    assert again.scalings == contents.scalings


def test_clean_images_deduplicate_by_pixels_and_keep_their_shape(tmp_path: Path) -> None:
    from tests.recipes.test_ingest import png

    bench = Bench(tmp_path)
    bench.ingest({"a/1.png": png(value=1), "a/2.png": png(value=1), "a/3.png": png(value=2)})
    _, contents = bench.clean(1, Deduplicate())
    assert bench.ids(2) == [0, 2]
    assert contents.columns[0] == bench.contents[2].columns[0]
    assert contents.columns[0].shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (DropMissing(columns=("nope",)), "no column 'nope'"),
        (Cast(column="nope", to=ColumnType.FLOAT), "no column 'nope'"),
        (Cast(column="age", to=ColumnType.IMAGE), "cannot become image"),
        (FillMissing(method=Filling.MEAN, columns=("city",)), "'city' is text; mean needs numbers"),
        (FillMissing(method=Filling.CONSTANT, columns=("label",), value="x"), "cannot be filled with 'x'"),
        (FillMissing(method=Filling.CONSTANT), "No constant is given"),
        (Normalise(columns=("city",)), "normalising needs numbers"),
        (Normalise(), "no column of numbers"),
        (DropColumns(columns=("age", "city", "label")), "No column would be left"),
    ],
)
def test_clean_that_cannot_be_meant_is_one_clear_error(bench: Bench, step: Step, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        bench.clean(1, step)
    assert caught.value.next_action
    assert len(bench.tables.versions(TABLE)) == 1


def test_clean_column_dropped_by_an_earlier_step_is_named(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="'age' any more"):
        bench.clean(1, DropColumns(columns=("age",)), DropMissing(columns=("age",)))


def test_clean_that_leaves_no_row_commits_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.ingest({"a.csv": "a,b\n1,\n,2\n"})
    with pytest.raises(InvalidInput, match="No row is left after drop_missing"):
        bench.clean(1, DropMissing())


CELLS = st.lists(
    st.tuples(st.integers(-5, 5) | st.none(), st.floats(-1e6, 1e6) | st.none(), st.sampled_from(["a", "b", ""])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=CELLS, method=st.sampled_from([Filling.MEAN, Filling.MEDIAN, Filling.MODE]))
def test_clean_fills_leave_no_missing_number_and_ids_stay_with_their_rows(tmp_path_factory, cells, method) -> None:  # type: ignore[no-untyped-def]
    bench = Bench(tmp_path_factory.mktemp("clean"))
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in [*cells, (1, 0.5, "a")]]
    types = {"n": ColumnType.INTEGER, "x": ColumnType.FLOAT}
    bench.ingest({"a.csv": "n,x,word\n" + "\n".join(lines) + "\n"}, types=types)
    before = {row["_rowid"]: row for row in bench.rows(1)}
    _, contents = bench.clean(
        1, FillMissing(method=method, columns=("n", "x")), Deduplicate(columns=("n", "x", "word"))
    )
    after = bench.rows(2)
    assert all(row["n"] is not None and row["x"] is not None for row in after)
    assert len({row["_rowid"] for row in after}) == len(after)
    for row in after:
        old = before[row["_rowid"]]
        assert all(old[name] in (None, row[name]) for name in ("n", "x", "word"))
    assert sum(contents.reports[0].num_changed.values()) == sum(row[i] is None for row in cells for i in (0, 1))
