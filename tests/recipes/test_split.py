"""Splits divide all rows, the same way every time, whatever their order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput
from skyloom.recipes.split import assign, shuffle
from skyloom.rooms.data.making import Split
from tests.recipes.data_kit import TABLE, Bench

SHARES = st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(0, 10)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)
KNOWN = [17829250778934000492, 17670052164124690041, 15765008602860288881]
IDS = st.lists(st.integers(0, 2**62), unique=True, max_size=300).map(lambda ids: np.array(ids, dtype=np.int64))


@given(ids=IDS, shares=SHARES, seed=st.integers(0, 2**53), strata=st.integers(0, 4), order=st.randoms())
@settings(deadline=None)
def test_assign_depends_on_ids_and_not_on_their_order(ids, shares, seed, strata, order) -> None:  # type: ignore[no-untyped-def]
    making = Split(train=shares[0], validation=shares[1], test=shares[2], seed=seed)
    groups = ids % strata if strata else None
    parts = assign(making, ids, groups)
    assert set(parts) <= {index for index, share in enumerate(shares) if share > 0}
    mixed = np.array(order.sample(range(ids.size), ids.size), dtype=np.int64)
    again = assign(making, ids[mixed], None if groups is None else groups[mixed])
    assert np.array_equal(again, parts[mixed])


@given(ids=IDS, shares=SHARES, seed=st.integers(0, 2**53))
def test_assign_without_strata_never_moves_a_row_when_others_come(ids, shares, seed) -> None:  # type: ignore[no-untyped-def]
    making = Split(train=shares[0], validation=shares[1], test=shares[2], seed=seed)
    half = ids.size // 2
    assert np.array_equal(assign(making, ids[:half], None), assign(making, ids, None)[:half])


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5), shares=SHARES, seed=st.integers(0, 2**53))
def test_assign_with_strata_divides_each_in_exact_shares(sizes, shares, seed) -> None:  # type: ignore[no-untyped-def]
    making = Split(train=shares[0], validation=shares[1], test=shares[2], seed=seed)
    strata = np.repeat(np.arange(len(sizes)), sizes)
    parts = assign(making, np.arange(strata.size), strata)
    for stratum, size in enumerate(sizes):
        counts = np.bincount(parts[strata == stratum], minlength=3)
        assert all(abs(count - share * size) <= 1 for count, share in zip(counts, shares, strict=True))


@given(seed=st.integers(0, 2**53), other=st.integers(0, 2**53))
def test_shuffle_differs_between_seeds(seed: int, other: int) -> None:
    assume(seed != other)
    ids = np.arange(64)
    assert not np.array_equal(shuffle(ids, seed), shuffle(ids, other))


def test_shuffle_is_the_same_on_every_machine() -> None:
    assert shuffle(np.array([0, 1, 2]), 7).tolist() == KNOWN


def test_assign_shares_are_near_what_was_asked() -> None:
    parts = assign(Split(train=0.7, validation=0.1, test=0.2), np.arange(100_000), None)
    assert np.bincount(parts) / parts.size == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.ingest({"a.csv": "n,label\n" + "".join(f"{n},{n % 3}\n" for n in range(300))})
    return bench


def test_split_adds_a_column_and_keeps_ids_and_values(bench: Bench) -> None:
    version, contents = bench.split(1, train=0.5, validation=0.25, test=0.25)
    assert (version.number, version.num_rows) == (2, 300)
    assert bench.ids(2) == bench.ids(1)
    assert bench.values(2, "n") == bench.values(1, "n")
    counts = contents.columns[-1].top
    assert contents.columns[-1].name == "split"
    assert sum(counts.values()) == 300
    shards = [list(bench.tables.scan(TABLE, 2, where=f"split = '{part}'")) for part in counts]
    assert sum(batch.num_rows for shard in shards for batch in shard) == 300


def test_split_stratified_divides_each_class(bench: Bench) -> None:
    bench.split(1, stratify="label")
    rows = bench.rows(2)
    for label in range(3):
        assert sum(row["label"] == label and row["split"] == "train" for row in rows) == 80


def test_split_again_replaces_the_column(bench: Bench) -> None:
    bench.split(1)
    _, contents = bench.split(2, seed=9)
    assert [column.name for column in contents.columns] == ["n", "label", "split"]
    assert bench.values(3, "split") != bench.values(2, "split")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train": 0.9, "test": 0.9}, "add up to 1.8"),
        ({"train": 0.0, "test": 1.0}, "with 0 for train"),
        ({"stratify": "nope"}, "no column 'nope'"),
        ({"train": 0.99999, "test": 0.00001}, "No row falls into test"),
    ],
)
def test_split_that_cannot_be_meant_is_one_clear_error(bench: Bench, options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        bench.split(1, **options)
    assert len(bench.tables.versions(TABLE)) == 1
