"""Which models run batches beside each other."""

import numpy as np
import pytest

from skyloom.inference import lanes
from skyloom.inference import model as models
from skyloom.inference.pace import Pace
from tests.inference.serving import toy_rows, write_bundle

HEAVY, LIGHT = Pace({1: 1.0}), Pace({1: 1e-5})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("lanes") / "bundle")


def test_heavy_model_opens_a_lane_for_each_core_and_answers_the_same(folder):
    model = models.load(folder, 2)
    before = model.memory_bytes
    lanes.open_lanes(model, folder, HEAVY, 2)
    assert model.lanes == 2
    assert model.memory_bytes > before
    rows = toy_rows(5)
    assert np.array_equal(model.run_beside([rows])[0], model.run([rows])[0])
    model.close()


@pytest.mark.parametrize(("pace", "threads", "gpus"), [(LIGHT, 2, 0), (HEAVY, 1, 0), (HEAVY, 2, 1)])
def test_light_models_single_cores_and_gpus_have_one_lane(folder, pace, threads, gpus):
    model = models.load(folder, threads)
    lanes.open_lanes(model, folder, pace, threads, gpus)
    assert model.lanes == 1
    model.close()


def test_model_answers_without_lanes_that_have_no_memory(folder, monkeypatch, capsys):
    def full(*_):
        raise MemoryError

    model = models.load(folder, 2)
    monkeypatch.setattr(lanes, "_beside_s", full)
    lanes.open_lanes(model, folder, HEAVY, 2)
    assert model.lanes == 1 and "one after the other" in capsys.readouterr().err
    model.close()


def test_lanes_that_gain_nothing_are_closed_again(folder, monkeypatch):
    model = models.load(folder, 2)
    before = model.memory_bytes
    monkeypatch.setattr(lanes, "_beside_s", lambda *_: 0.99)
    lanes.open_lanes(model, folder, HEAVY, 2)
    assert (model.lanes, model.memory_bytes) == (1, before)
    model.close()
