"""Kept answers: the same only for the same, bounded in bytes and time, and never another's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.response_cache import ResponseCache
from skyloom.inference.tensors import Call


def call(*inputs: np.ndarray, client_id: str = "") -> Call:
    return Call(inputs, len(inputs[0]), (0,), client_id)


def texts(*words: str) -> np.ndarray:
    return np.array(words, dtype=object)


def test_key_tells_apart_whatever_may_be_answered_differently():
    cache = ResponseCache(2**20, 60.0)
    rows = np.zeros((2, 2), np.float32)
    other = rows.copy()
    other[1, 1] = -0.0
    nan = np.full((2, 2), np.nan, np.float32)
    asked = [
        cache.key(b"me", "m1", call(rows)),
        cache.key(b"you", "m1", call(rows)),
        cache.key(b"m", "em1", call(rows)),
        cache.key(b"me", "m2", call(rows)),
        cache.key(b"me", "m1", call(other)),
        cache.key(b"me", "m1", call(nan)),
        cache.key(b"me", "m1", call(rows.reshape(1, 4))),
        cache.key(b"me", "m1", call(rows, rows)),
        cache.key(b"me", "m1", call(rows.reshape(4, 1)[:2], rows.reshape(4, 1)[:2])),
        cache.key(b"me", "m1", call(texts("ab", "c"))),
        cache.key(b"me", "m1", call(texts("a", "bc"))),
    ]
    assert len(set(asked)) == len(asked)
    assert cache.key(b"me", "m1", call(rows[::1].copy(order="F"), client_id="7")) == asked[0]
    assert ResponseCache(2**20, 60.0).key(b"me", "m1", call(rows)) != asked[0], "nobody outside can know a key"


def test_rows_without_any_element_have_keys_too():
    cache = ResponseCache(2**20, 60.0)
    asked = [cache.key(b"me", "m1", call(np.zeros(shape, np.float32))) for shape in ((1, 0), (2, 0), (1, 0, 3))]
    asked += [cache.key(b"me", "m1", call(np.zeros((1, 0), object))), cache.key(b"me", "m1", call(np.ones(1, bool)))]
    assert len(set(asked)) >= 4


def test_answer_is_given_until_its_time_is_over_and_is_a_copy():
    now = [0.0]
    cache = ResponseCache(2**20, 5.0, lambda: now[0])
    said = np.ones((2, 3), np.float32)
    cache.keep(b"k", [said], "pred_1")
    said[:] = 7.0
    kept = cache.find(b"k")
    assert kept is not None and kept.prediction_id == "pred_1" and (kept.outputs[0] == 1.0).all()
    now[0] = 5.0
    assert cache.find(b"k") is None and cache.size_bytes == 0
    assert (cache.hits, cache.misses) == (1, 1)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4_000), st.booleans()), max_size=60), st.integers(2_000, 9_000)
)
def test_cache_never_holds_more_than_its_bound_and_forgets_the_least_asked_for(steps, most):
    cache, order = ResponseCache(most, 1e9), []
    for number, size, asks in steps:
        key = bytes([number])
        if asks:
            assert (cache.find(key) is not None) == (key in order)
            if key in order:
                order.append(order.pop(order.index(key)))
            continue
        cache.keep(key, [np.zeros(size, np.uint8)], "p")
        if size + 1_024 <= most:
            order = [one for one in order if one != key]
            sizes[key] = size + 1_024
            while sum(sizes[one] for one in order) + sizes[key] > most:
                order.pop(0)
            order.append(key)
        assert cache.size_bytes == sum(sizes[one] for one in order) <= most


sizes: dict[bytes, int] = {}
