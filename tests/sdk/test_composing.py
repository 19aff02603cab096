"""Graphs of models made whole: their inputs, outputs and types."""

import pytest

from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.rooms.registry.graphs import ModelGraph
from skyloom.sdk.composing import complete, signature_of
from skyloom.sdk.graph import EdgeInvalid


def tensor(name: str, *shape: int, of: Datatype = Datatype.FP32) -> TensorSpec:
    return TensorSpec(name=name, datatype=of, shape=(-1, *shape))


ENCODER = Signature(inputs=(tensor("ids", -1, of=Datatype.INT64),), outputs=(tensor("vector", 8), tensor("length")))
HEAD = Signature(inputs=(tensor("x", 8),), outputs=(tensor("scores", 3),))
WIDE = Signature(inputs=(tensor("x", -1),), outputs=(tensor("scores", 3),))
CASCADE = {"embed": ENCODER, "score": HEAD}


def graph(models, **parts) -> ModelGraph:
    return ModelGraph(models=dict.fromkeys(models, "some"), **parts)


def test_what_no_edge_feeds_or_takes_is_the_graphs_own() -> None:
    whole = complete(graph(CASCADE, edges={"score.x": "embed.vector"}), CASCADE)
    assert whole.inputs == {"ids": ("embed.ids",)}
    assert whole.outputs == {"length": ("embed.length",), "scores": ("score.scores",)}
    assert signature_of(whole, CASCADE) == Signature(
        inputs=ENCODER.inputs, outputs=(ENCODER.outputs[1], HEAD.outputs[0])
    )


def test_inputs_of_one_name_are_one_input_and_outputs_may_be_averaged() -> None:
    both = {"one": HEAD, "two": WIDE}
    whole = complete(graph(both), both)
    assert whole.inputs == {"x": ("one.x", "two.x")} and list(whole.outputs) == ["one.scores", "two.scores"]
    assert signature_of(whole, both).inputs == (tensor("x", 8),)  # the fixed size wins
    mean = complete(graph(both, outputs={"scores": ("one.scores", "two.scores")}), both)
    assert signature_of(mean, both).outputs == (tensor("scores", 3),)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"edges": {"score.x": "embed.length"}}, "joins"),
        ({"edges": {"score.x": "score.scores"}}, "joins"),
        ({"inputs": {"ids": ("embed.ids",)}}, "score.x is fed by nothing"),
        (
            {"edges": {"score.x": "embed.vector"}, "inputs": {"ids": ("embed.ids",), "x": ("score.x",)}},
            "score.x is fed by more than one thing",
        ),
        ({"inputs": {"a": ("embed.ids", "score.x")}}, "different types"),
        ({"inputs": {"a": ("embed.ids",), "b": ("nobody.x",), "c": ("score.x",)}}, "no input 'nobody.x'"),
        ({"outputs": {"a": ("embed.nothing",)}}, "no output 'embed.nothing'"),
        ({"outputs": {"a": ("embed.length", "score.scores")}}, "different types or shapes"),
    ],
)
def test_graph_that_does_not_fit_together_is_refused_in_words(parts, words) -> None:
    with pytest.raises(EdgeInvalid, match=words):
        complete(graph(CASCADE, **parts), CASCADE)


def test_what_is_no_float_is_not_averaged() -> None:
    counts = Signature(inputs=HEAD.inputs, outputs=(tensor("label", of=Datatype.INT64),))
    both = {"one": counts, "two": counts}
    with pytest.raises(EdgeInvalid, match="averages"):
        complete(graph(both, outputs={"label": ("one.label", "two.label")}), both)
