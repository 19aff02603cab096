"""Bodies that are read by what stood around earlier numbers: nobody can tell them from those that are read whole."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from skyloom.core.errors import InvalidInput
from skyloom.inference import codec
from skyloom.inference.moulds import Moulds
from skyloom.inference.tensors import Contract
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec


def contract(datatype: Datatype) -> Contract:
    names = ("a", "b")
    return Contract(
        Signature(
            inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, 2)),),
            outputs=tuple(TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1,)) for name in names),
        ),
        max_rows=64,
    )


def told(read, body: bytes):
    """What came of a body, as a value that can be compared."""
    try:
        asked = read(body)
    except InvalidInput as error:
        return type(error), str(error)
    (tensor,) = asked.call.inputs
    return tensor.tolist(), tensor.dtype, tensor.shape, asked.call[1:], asked[1:]


def body(datatype: Datatype, data: object, rows: int = 1, **more) -> bytes:
    tensor = {"name": "x", "shape": [rows, 2], "datatype": datatype.value, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([3.4e38, 3.5e38, 1e-46, 255, 256, -1, 1.5, True, None, "1", [1]]),
)


@tried(max_examples=150)
@given(st.sampled_from(list(Datatype)), st.lists(st.lists(NUMBERS, max_size=5), min_size=1, max_size=4))
def test_known_bodies_are_read_as_unknown_ones_are(datatype, data):
    moulds, plain = Moulds(contract(datatype)), contract(datatype)
    for _ in range(3):
        told(moulds.read, body(datatype, [0, 1]))
    for numbers in data:
        sent = body(datatype, numbers)
        assert told(moulds.read, sent) == told(lambda each: codec.decode(each, None, plain), sent)


TRICKS = [
    b'{"id": "\\"data\\": [", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [%b]}]}',
    b'{"inputs": [{"data": [9, 9], "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [%b]}]}',
    b'{"inputs": [{"data": [%b], "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [9, 9]}]}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"data": [%b]}, "data": [4, 5]}]}',
    b'{"parameters": {"data": [%b]}, "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [4, 5]}]}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[%b]]}], "outputs": [{"name": "b"}]}',
    b'{"inputs": [{"name": "x", "data": [%b], "shape": [1, 2], "datatype": "FP32"}], "parameters": {"timeout": 7}}',
    b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data" : [%b]}], "id": "each"}  ',
]


@pytest.mark.parametrize("trick", TRICKS)
def test_what_looks_like_the_numbers_and_is_not_is_never_taken_for_them(trick):
    moulds, plain = Moulds(contract(Datatype.FP32)), contract(Datatype.FP32)
    numbers = [
        b"1, 2",
        b"3, 4",
        b"5, 6",
        b"-0.5, 1e3",
        b'1, 2], "name": "y", "more": [1',
        b"",
        b"1",
        b"1, 2, 3",
        b"1e39, 0",
    ]
    for each in [*numbers, *numbers]:
        sent = trick % each
        assert told(moulds.read, sent) == told(lambda one: codec.decode(one, None, plain), sent)


def test_only_what_comes_again_is_remembered_and_not_without_end(monkeypatch):
    moulds = Moulds(contract(Datatype.FP32))
    for number in range(3_000):
        moulds.read(b'{"id": "%d", ' % number + body(Datatype.FP32, [1, 2])[1:])
    assert not moulds._moulds
    assert len(moulds._once) <= 1_024
    for number in range(600):
        moulds.read(b'{"id": "%d", ' % (number // 2) + body(Datatype.FP32, [1, 2])[1:])
    assert 0 < len(moulds._moulds) <= 128


def test_answers_of_known_bodies_hold_their_own_numbers():
    moulds = Moulds(contract(Datatype.FP32))
    read = [moulds.read(body(Datatype.FP32, [number, 0.5])).call.inputs[0] for number in range(5)]
    assert np.concatenate(read).tolist() == [[number, 0.5] for number in range(5)]
