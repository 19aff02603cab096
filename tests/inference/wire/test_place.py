"""Where bodies are to lie that are read as they lie: only those that will be, and so that a core likes the numbers."""

import numpy as np
import pytest

from skyloom.inference.tensors import aligned_room
from skyloom.inference.wire.messages import Head
from skyloom.inference.wire.rest import Rest
from skyloom.inference.wire.rest_routes import RestRoute

HEADERS = {b"content-type": b"application/octet-stream", b"inference-header-content-length": b"101"}


@pytest.fixture
def rest():
    made = Rest.__new__(Rest)
    infer = RestRoute(lambda request, exchange: None, "", takes=(b"application/octet-stream",), reads_in_place=True)
    made._table = {b"/infer": {b"POST": infer}, b"/other": {b"POST": infer._replace(reads_in_place=False)}}
    return made


def test_place_of_tensors_begins_where_the_first_of_them_is_aligned(rest):
    room = rest.place(Head(b"POST", b"/infer", HEADERS), 1_000)
    assert len(room) == 1_000
    assert (np.frombuffer(room, np.uint8).ctypes.data + 101) % 64 == 0


@pytest.mark.parametrize("start", range(0, 130, 7))
def test_aligned_room_is_aligned_where_it_is_asked_and_can_be_written(start):
    room = aligned_room(300, start)
    room[:] = bytes(300)
    assert (np.frombuffer(room, np.uint8).ctypes.data + start) % 64 == 0


@pytest.mark.parametrize(
    ("method", "target", "changed"),
    [
        (b"GET", b"/infer", {}),
        (b"POST", b"/other", {}),
        (b"POST", b"/nowhere", {}),
        (b"POST", b"/infer", {b"content-encoding": b"gzip"}),
        (b"POST", b"/infer", {b"content-type": b"application/grpc"}),
        (b"POST", b"/infer", {b"inference-header-content-length": b"1001"}),
        (b"POST", b"/infer", {b"inference-header-content-length": b"0" * 5_000 + b"1"}),
        (b"POST", b"/infer", {b"inference-header-content-length": b"-1"}),
        (b"POST", b"/infer", {b"inference-header-content-length": b""}),
    ],
)
def test_place_is_for_nobody_else(rest, method, target, changed):
    assert rest.place(Head(method, target, {**HEADERS, **changed}), 1_000) is None
