"""Where an ONNX graph says that its weights are."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from skyloom.inference.runtimes.onnx_files import external_files


def _outside(name: str, place: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def test_places_are_found_in_graphs_in_nodes_and_in_graphs_within() -> None:
    within = helper.make_graph([], "within", [], [], [_outside("a", "a.bin")])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=within)
    constant = helper.make_node("Constant", [], ["c"], value=_outside("b", "b.bin"))
    graph = helper.make_graph([branch, constant], "all", [], [], [_outside("w", "w.bin"), _outside("v", "w.bin")])
    assert external_files(helper.make_model(graph).SerializeToString()) == ["a.bin", "b.bin", "w.bin"]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_are_refused_or_name_files_and_nothing_else(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(name, str) for name in external_files(content))


def test_graph_that_was_cut_off_is_refused() -> None:
    content = helper.make_model(helper.make_graph([], "g", [], [], [_outside("w", "w.bin")])).SerializeToString()
    with pytest.raises(ValueError, match="ends in the middle"):
        external_files(content[:-20])
