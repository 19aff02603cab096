"""Graphs of registered models as a model of their own: ``graph.json`` in a bundle whose ``models/{name}/`` are the bundles of its models.

Ends are written ``model.tensor``. No code: what a graph does is run models and average outputs.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.rooms.registry.services import Identifier, Reference

End = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,79}\.[^\n]{1,200}$(?!\n)")]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Ends = Annotated[tuple[End, ...], Meta(min_length=1, max_length=64)]


class ModelGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs, and what feeds what.

    Attributes:
        models: name inside of the graph → registered model, with a version or alias behind a colon.
        edges: input ← output.
        inputs: input of the graph → the inputs that it feeds; empty: those that no edge feeds, by their own names.
        outputs: output of the graph ← output of a model, or the mean of several; empty: those that no edge takes.
    """

    models: Annotated[dict[Identifier, Reference], Meta(min_length=1, max_length=20)]
    edges: Annotated[dict[End, End], Meta(max_length=200)] = {}
    inputs: Annotated[dict[_Name, _Ends], Meta(max_length=64)] = {}
    outputs: Annotated[dict[_Name, _Ends], Meta(max_length=64)] = {}


def nested(name: str) -> str:
    """The folder of one of its models, in the bundle."""
    return f"models/{name}"
