"""What is held until somebody looks: copies, few, and never for long."""

import sys

import numpy as np
import pytest

from skyloom.inference.reduce import TensorMissing, build_profile, observe
from skyloom.inference.traffic import TrafficCounter
from skyloom.rooms.registry.bundle import Datatype, ModelKind, Signature, TensorSpec
from tests.inference.serving import TOY_SIGNATURE, toy_rows


def counter() -> TrafficCounter:
    rows = toy_rows(100)
    return TrafficCounter(build_profile({"x": rows}, {"scores": rows[:, :3]}, ModelKind.CLASSIFICATION), TOY_SIGNATURE)


FREE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, -1)),),
    outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, -1)),),
)


def test_profile_of_columns_is_kept_where_rows_may_be_shorter_and_refused_where_they_never_are_so_long():
    rows = toy_rows(100)
    profile = build_profile({"x": rows}, {"scores": rows}, ModelKind.CLASSIFICATION)
    with pytest.raises(TensorMissing, match="'scores'"):
        TrafficCounter(profile, Signature(inputs=TOY_SIGNATURE.inputs, outputs=()))
    with pytest.raises(TensorMissing, match="column 1"):
        short = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1))
        TrafficCounter(profile, Signature(inputs=(short,), outputs=FREE.outputs))
    traffic = TrafficCounter(profile, FREE)
    traffic.watch([rows[:1, :2]], [rows[:1, :2]])
    traffic.watch([rows[:1, :0]], [rows[:1, :0]])  # the highest of no scores is none
    missing = {
        one.name: seen.missing for one, seen in zip(profile.features, traffic.snapshot().histograms, strict=True)
    }
    assert missing == {"x 0": 1, "x 1": 1, "x 2": 2, "x 3": 2, "predicted class": 1, "winning score": 1}


def test_row_of_a_large_body_does_not_keep_the_body():
    traffic, body = counter(), bytes(2**20)
    before = sys.getrefcount(body)
    for _ in range(100):
        traffic.watch([np.frombuffer(memoryview(body)[:16], "<f4").reshape(1, 4)], [np.zeros((1, 3), np.float32)])
    assert sys.getrefcount(body) == before
    assert traffic.snapshot().rows == 100


def test_many_large_rows_are_looked_at_for_a_small_part_of_the_time_and_all_when_few():
    row = np.random.default_rng(3).normal(size=(1, 40_000)).astype(np.float32)
    wide = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 40_000)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 3)),),
    )
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.0005  # looking takes half a millisecond
        return now

    profile = build_profile({"x": np.repeat(row, 9, axis=0)}, {"scores": np.eye(9, 3)}, ModelKind.CLASSIFICATION)
    traffic, scores = TrafficCounter(profile, wide, clock), np.zeros((1, 3), np.float32)
    for _ in range(400):
        traffic.watch([row], [scores])
    assert traffic.snapshot().histograms[0].total == 400
    for _ in range(4_000):
        traffic.watch([row], [scores])
        now += 0.0025
    watched = traffic.snapshot().histograms[0].total - 400
    assert 200 < watched < 1_200  # what was left of the first quarter of a second, and a fiftieth of twelve seconds
    for _ in range(100):
        now += 1.0
        traffic.watch([row], [scores])
    assert traffic.snapshot().histograms[0].total == 400 + watched + 100
    assert traffic.snapshot().rows == 4_500


def test_rows_that_change_after_they_were_watched_count_as_they_were():
    one, other, rows = counter(), counter(), toy_rows(10)
    scores = rows[:, :3].copy()
    one.watch([rows.copy()], [scores.copy()])
    other.watch([rows], [scores])
    rows[:], scores[:] = 1e9, 1e9
    assert one.snapshot().histograms == other.snapshot().histograms


def test_look_that_fails_forgets_what_it_held_and_ends_nobody(capsys):
    traffic = counter()
    traffic.watch([toy_rows(2)], [np.zeros((1, 3), np.float32)])  # a model that gives fewer rows than it took
    assert sum(traffic.snapshot().histograms[0].counts) == 0
    assert "ValueError" in capsys.readouterr().err
    traffic.watch([toy_rows(2)], [np.zeros((2, 3), np.float32)])
    assert traffic.snapshot().rows == 4


@pytest.mark.parametrize("sizes", [[1] * 700, [255, 1, 3], [256] * 3, [300, 7, 600], [16_000, 5]])
def test_rows_are_all_counted_once_however_the_looking_is_cut_into_steps(sizes):
    rows = np.random.default_rng(5).normal(size=(200, 64)).astype(np.float32)
    profile = build_profile({"x": rows}, {"scores": rows[:, :3]}, ModelKind.CLASSIFICATION)
    traffic, seen = TrafficCounter(profile, FREE), []
    for number, size in enumerate(sizes):
        made = np.random.default_rng(number).normal(size=(size, 64)).astype(np.float32)
        traffic.watch([made], [made[:, :3]])
        seen.append(made[: max(1, 2**20 // 67)])  # of a batch with more than a million elements the first rows
        if number % 3 == 2:
            traffic.snapshot()
    everything = np.concatenate(seen)
    wanted = observe(profile.features, {"x": everything, "scores": everything[:, :3]})
    assert traffic.snapshot().histograms == wanted
    assert traffic.snapshot().rows == sum(sizes)
