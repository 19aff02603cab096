"""What is read ahead: the same items, never many, and nothing once nobody wants more."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from skyloom.recipes.batch.ahead import ahead


def test_items_come_in_order_and_only_so_many_are_made_before_they_are_wanted():
    made, enough = [], threading.Event()

    def items() -> Iterator[int]:
        for item in range(20):
            made.append(item)
            if len(made) == 4:
                enough.set()
            yield item

    found = []
    with contextlib.closing(ahead(items(), 2)) as coming:
        found.append(next(coming))
        for item in coming:
            assert len(made) <= len(found) + 3
            found.append(item)
    assert found == list(range(20))
    assert enough.is_set()


def test_next_item_is_made_while_one_is_used():
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    with contextlib.closing(ahead(items(), 1)) as coming:
        assert next(coming) == 1
        assert begun.wait(10)


@pytest.mark.parametrize("good", [0, 3])
def test_failure_comes_behind_what_was_made_before_it(good):
    def items() -> Iterator[int]:
        yield from range(good)
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        for item in ahead(items(), 2):
            found.append(item)
    assert found == list(range(good))


def test_whoever_leaves_ends_the_thread():
    before = threading.active_count()
    coming = ahead(iter(int, 1), 2)  # zeros without end
    assert next(coming) == 0
    coming.close()
    assert threading.active_count() == before
