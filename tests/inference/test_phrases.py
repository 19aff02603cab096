"""A batch's outputs, written at once and cut, are what each request's own would have been."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.codec import encode_outputs
from skyloom.inference.phrases import OutputPhrases
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

SPECS = (
    TensorSpec(name="s]},{[", datatype=Datatype.FP32, shape=(-1, 3)),
    TensorSpec(name="n", datatype=Datatype.INT64, shape=(-1,)),
    TensorSpec(name="b", datatype=Datatype.BF16, shape=(-1, 2, 1)),
    TensorSpec(name="t", datatype=Datatype.BOOL, shape=(-1, 1)),
)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sets(st.integers(0, 3), min_size=1))
def test_outputs_of_a_batch_are_those_of_each_request(rows, places):
    random, count = np.random.default_rng(sum(rows)), sum(rows)
    floats = random.normal(size=(count, 3)).astype(np.float32)
    floats[0] = [np.nan, np.inf, -0.0]
    everything = [
        floats,
        random.integers(-(2**60), 2**60, count),
        random.integers(0, 2**16, (count, 2, 1)).astype("<u2"),
        random.integers(0, 2, (count, 1)).astype(bool),
    ]
    specs, tensors = [SPECS[place] for place in sorted(places)], [everything[place] for place in sorted(places)]
    told, start = OutputPhrases(specs).write(tensors, rows), 0
    for number, each in zip(rows, told, strict=True):
        own = [tensor[start : start + number] for tensor in tensors]
        assert json.loads(each) == json.loads(encode_outputs(specs, own))
        assert each == encode_outputs(specs, own)
        start += number


def test_what_cannot_be_cut_is_left_to_the_other_way():
    text = TensorSpec(name="t", datatype=Datatype.BYTES, shape=(-1, 1))
    assert OutputPhrases([text]).write([np.array([["],["]], dtype=object)], [1]) is None
    assert OutputPhrases(SPECS[:1]).write([np.zeros((2, 0), np.float32)], [1, 1]) is None
