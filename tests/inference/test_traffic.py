"""What is held until somebody looks: copies, few, and never for long."""

import sys

import numpy as np
import pytest

from skyloom.inference.reduce import build_profile
from skyloom.inference.traffic import TrafficCounter
from skyloom.rooms.registry.bundle import ModelKind
from tests.inference.serving import TOY_SIGNATURE, toy_rows


def counter() -> TrafficCounter:
    rows = toy_rows(100)
    return TrafficCounter(build_profile({"x": rows}, {"scores": rows[:, :3]}, ModelKind.CLASSIFICATION), TOY_SIGNATURE)


def test_row_of_a_large_body_does_not_keep_the_body():
    traffic, body = counter(), bytes(2**20)
    before = sys.getrefcount(body)
    for _ in range(100):
        traffic.watch([np.frombuffer(memoryview(body)[:16], "<f4").reshape(1, 4)], [np.zeros((1, 3), np.float32)])
    assert sys.getrefcount(body) == before
    assert traffic.snapshot().rows == 100


def test_rows_that_change_after_they_were_watched_count_as_they_were():
    one, other, rows = counter(), counter(), toy_rows(10)
    scores = rows[:, :3].copy()
    one.watch([rows.copy()], [scores.copy()])
    other.watch([rows], [scores])
    rows[:], scores[:] = 1e9, 1e9
    assert one.snapshot().histograms == other.snapshot().histograms


def test_look_that_fails_forgets_what_it_held():
    traffic = counter()
    traffic.watch([toy_rows(2)], [np.zeros((1, 3), np.float32)])  # a model that gives fewer rows than it took
    with pytest.raises(ValueError, match="dimension"):
        traffic.snapshot()
    traffic.watch([toy_rows(2)], [np.zeros((2, 3), np.float32)])
    assert traffic.snapshot().rows == 4
