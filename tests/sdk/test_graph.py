"""Graphs of models with typed edges."""

import numpy as np
import pytest

from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.sdk.graph import EdgeInvalid, order_of, run


def spec(name: str, datatype: Datatype = Datatype.FP32, shape=(-1, 4)) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


SIGNATURES = {
    "last": Signature(inputs=(spec("a"), spec("b")), outputs=(spec("y"),)),
    "left": Signature(inputs=(spec("x"),), outputs=(spec("y"),)),
    "right": Signature(inputs=(spec("x"),), outputs=(spec("y", shape=(-1, -1)), spec("n", Datatype.INT64))),
}
EDGES = {"last.a": "left.y", "last.b": "right.y"}


class Doubling:
    def predict(self, inputs):
        total = sum(inputs.values())
        return {"y": total * 2, "n": total.astype(np.int64)}


def test_graph_runs_in_the_order_of_its_edges_and_gives_every_output() -> None:
    order = order_of(SIGNATURES, EDGES)
    assert order[-1] == "last"
    rows = np.ones((2, 4), np.float32)
    models = dict.fromkeys(SIGNATURES, Doubling())
    outputs = run(models, order, EDGES, {"left.x": rows, "right.x": rows})
    assert (outputs["left.y"] == 2).all() and (outputs["last.y"] == 8).all() and "right.n" in outputs
    with pytest.raises(EdgeInvalid, match=r"takes no input 'last\.a'"):
        run(models, order, EDGES, {"left.x": rows, "right.x": rows, "last.a": rows})


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ({"last.a": "right.n"}, "joins INT64"),
        ({"last.c": "left.y"}, "no input 'c'"),
        ({"last.a": "left.z"}, "no output 'z'"),
        ({"nobody.a": "left.y"}, "names no model"),
        ({"left.x": "last.y", "last.a": "left.y"}, "circle"),
        ({"left.x": "left.y"}, "circle"),
    ],
)
def test_edges_that_cannot_be_are_refused(edges, words) -> None:
    with pytest.raises(EdgeInvalid, match=words):
        order_of(SIGNATURES, edges)
