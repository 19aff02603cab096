import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput
from skyloom.runtime.shards import Shards, TooFewRows

sizes = st.integers(1, 300)
workers = st.integers(1, 9)
batches = st.integers(1, 80)
seeds = st.integers(0, 2**31 - 1)


def walk(num_rows: int, batch_size: int, seed: int, world_size: int, epoch: int) -> list[list[int]]:
    """The global batches of an epoch, put together from what each worker takes."""
    members = [Shards(num_rows, batch_size, seed, rank, world_size) for rank in range(world_size)]
    steps = zip(*(member.batches(epoch) for member in members), strict=True)
    return [[int(row) for part in step for row in part.rows] for step in steps]


@given(sizes, batches, seeds, workers, st.integers(0, 5))
def test_epoch_takes_every_row_exactly_once(rows: int, batch: int, seed: int, world: int, epoch: int) -> None:
    if rows >= world:
        seen = [row for step in walk(rows, batch, seed, world, epoch) for row in step]
        assert sorted(seen) == list(range(rows))


@given(sizes, batches, seeds, workers)
def test_global_batches_do_not_depend_on_the_number_of_workers(rows: int, batch: int, seed: int, world: int) -> None:
    if rows >= world:
        assert walk(rows, batch, seed, world, 3) == walk(rows, batch, seed, 1, 3)


@given(sizes, batches, seeds, workers)
def test_shares_differ_by_at_most_one_row_and_know_the_whole(rows: int, batch: int, seed: int, world: int) -> None:
    if rows >= world:
        members = [Shards(rows, batch, seed, rank, world) for rank in range(world)]
        for step in zip(*(member.batches(0) for member in members), strict=True):
            counts = [len(part.rows) for part in step]
            assert max(counts) - min(counts) <= 1
            assert {part.num_global_rows for part in step} == {sum(counts)}


@given(sizes, batches, seeds, st.data())
def test_walk_resumed_in_the_middle_continues_where_it_stood(
    rows: int, batch: int, seed: int, data: st.DataObject
) -> None:
    shards = Shards(rows, batch, seed)
    first = data.draw(st.integers(0, shards.steps_per_epoch))
    whole, rest = list(shards.batches(1)), list(shards.batches(1, first))
    assert [part.step for part in rest] == [part.step for part in whole[first:]]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(rest, whole[first:], strict=True))


def test_epochs_and_seeds_give_different_orders() -> None:
    assert walk(50, 50, 7, 1, 0) != walk(50, 50, 7, 1, 1)
    assert walk(50, 50, 7, 1, 0) != walk(50, 50, 8, 1, 0)


def test_thousand_rows_over_five_workers_give_two_hundred_each() -> None:
    counts = [len(next(iter(Shards(1000, 1000, 0, rank, 5).batches(0))).rows) for rank in range(5)]
    assert counts == [200] * 5


def test_fewer_rows_than_workers_is_refused_with_both_numbers() -> None:
    with pytest.raises(TooFewRows, match=r"3 training rows for 4 workers"):
        Shards(3, 8, 0, 0, 4)


def test_batch_of_no_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        Shards(3, 0, 0)
