"""Numbers become a tensor by a quick way and by a careful one; nobody can tell which."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.inference.tensors import TYPECODES, Contract, TensorRefused, _quickly
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec

NUMBERS = st.one_of(
    st.floats(),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 3.4028235677973366e38, 3.5e38, 1e-46, 1e200, -1e308, 16_777_217, 2**53 + 1]),
    st.integers(-300, 300),
    st.integers(-(2**65), 2**65),
    st.integers(10**300, 10**310),
    st.booleans(),
)
FLAT = st.lists(NUMBERS, max_size=6)
NUMERIC = st.one_of(
    FLAT,
    st.lists(FLAT, max_size=4),
    st.lists(st.lists(FLAT, max_size=2), max_size=2),
    st.lists(st.one_of(NUMBERS, FLAT), max_size=3),
)
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3)


def shaped(numbers: object) -> list[int]:
    shape = []
    while isinstance(numbers, list):
        shape.append(len(numbers))
        numbers = numbers[0] if numbers else None
    return shape


@tried(max_examples=1_500)
@given(st.sampled_from(sorted(TYPECODES)), NUMERIC, SHAPES, st.booleans())
@example(Datatype.FP32, [[1.0, 2.0], 3.0], [2, 2], False)
@example(Datatype.FP64, [math.inf], [1], False)
@example(Datatype.FP32, [-0.0, 1e-46], [1, 2], False)
@example(Datatype.INT8, [True, -128], [2], False)
@example(Datatype.UINT8, [[256]], [1, 1], False)
def test_quick_way_gives_what_the_careful_one_gives_or_nothing(datatype, numbers, shape, fits):
    if fits:
        shape = shaped(numbers)
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,) * len(shape))
    contract = Contract(Signature(inputs=(spec,), outputs=(spec,)), 100)
    quick = _quickly(datatype, shape, numbers)
    if quick is None:
        return
    careful = contract._carefully(spec, shape, numbers)
    assert (quick.dtype, quick.shape, quick.tobytes()) == (careful.dtype, careful.shape, careful.tobytes())


def test_number_beyond_the_type_is_refused_by_both():
    spec = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1,))
    contract = Contract(Signature(inputs=(spec,), outputs=(spec,)), 100)
    with pytest.raises(TensorRefused):
        contract.from_numbers(spec, [1], [1e39])
    assert np.array_equal(contract.from_numbers(spec, [1], [1e30]), np.array([1e30], np.float32))
