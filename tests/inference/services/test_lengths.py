"""Batches of like length: who travels together, and how long anybody may have to wait."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.services.length_queue import LengthQueue
from skyloom.inference.services.lengths import like_lengths

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 16))
def test_batch_has_the_oldest_and_little_padding_and_no_text_twice(lengths, max_rows) -> None:
    places = like_lengths(lengths, max_rows)
    assert 0 in places and len(set(places)) == len(places) <= max_rows
    taken = [lengths[place] for place in places]
    assert taken == sorted(taken)
    assert sum(taken) >= 0.75 * len(taken) * taken[-1]


@given(LENGTHS, st.integers(1, 16), st.lists(st.integers(1, 512), max_size=200))
def test_nobody_is_passed_over_more_often_than_texts_were_before_it(lengths, max_rows, newcomers) -> None:
    """However many come later, and of whatever length."""
    waiting = list(enumerate(lengths))
    before = {number: place for place, (number, _) in enumerate(waiting)}
    passed = dict.fromkeys(before, 0)
    later = list(newcomers)
    while any(number in before for number, _ in waiting):
        taken = set(like_lengths([length for _, length in waiting], max_rows))
        waiting = [one for place, one in enumerate(waiting) if place not in taken]
        for number, _ in waiting:
            if number in before:
                passed[number] += 1
        while later and len(waiting) < 60:
            waiting.append((-1, later.pop()))
    assert all(passed[number] <= place for number, place in before.items())


def test_batch_of_texts_of_like_length_is_full_and_one_that_stands_out_goes_alone() -> None:
    assert like_lengths([30] * 40, 16) == sorted(like_lengths([30] * 40, 16)) and len(like_lengths([30] * 40, 16)) == 16
    assert like_lengths([500, 8, 9, 8, 10], 16) == [0]
    assert set(like_lengths([8, 500, 9, 8, 490], 16)) == {0, 2, 3}


def test_texts_of_many_callers_travel_together_and_come_back_in_their_order() -> None:
    batches: list[list[str]] = []

    def run(texts: list[str]) -> list[int]:
        batches.append(texts)
        return [len(text) for text in texts]

    async def ask() -> list[list[int]]:
        queue = LengthQueue(run, len, 4)
        return await asyncio.gather(*(queue.vectors(["x" * size, "x" * 40]) for size in (4, 41, 5, 39)))

    assert asyncio.run(ask()) == [[4, 40], [41, 40], [5, 40], [39, 40]]
    assert sorted(len(batch) for batch in batches) == [2, 2, 4]


def test_failed_batch_fails_its_callers_and_who_leaves_is_passed_over() -> None:
    batches: list[list[str]] = []

    def run(texts: list[str]) -> list[int]:
        batches.append(texts)
        if "bad" in texts:
            raise RuntimeError("no")
        return [1] * len(texts)

    async def ask() -> None:
        queue: LengthQueue[str, int] = LengthQueue(run, len, 1)
        first = asyncio.ensure_future(queue.vectors(["bad"]))
        left = asyncio.ensure_future(queue.vectors(["left"] * 50))
        last = asyncio.ensure_future(queue.vectors(["good"]))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(RuntimeError, match="no"):
            await first
        assert await last == [1]
        assert await queue.vectors([]) == []

    asyncio.run(ask())
    assert batches == [["bad"], ["good"]]
