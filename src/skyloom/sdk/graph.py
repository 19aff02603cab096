"""Graphs of models: which output feeds which input, with types that fit, and in which order they run. Pure.

An end of an edge is ``model.tensor``. Inputs that no edge feeds come from whoever runs the graph; every output is given back.
"""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Signature, TensorSpec
from skyloom.sdk.service import LocatedModel


class EdgeInvalid(InvalidInput):
    """An edge names what is not there, feeds an input twice, makes a circle, or joins tensors that do not fit."""


def order_of(signatures: Mapping[str, Signature], edges: Mapping[str, str]) -> tuple[str, ...]:
    """The models in an order in which everything is there when it is needed. Raises `EdgeInvalid`.

    Args:
        signatures: of the models, by name.
        edges: input ← output, each as ``model.tensor``.
    """
    needs: dict[str, set[str]] = {name: set() for name in signatures}
    for target, source in edges.items():
        taken = _find(signatures, target, "input")
        given = _find(signatures, source, "output")
        if not fits(given, taken):
            raise EdgeInvalid(
                f"The edge {source} → {target} joins {_told(given)} with {_told(taken)}.",
                next_action="Join tensors of one type and shape, or convert between them in an endpoint.",
            )
        needs[target.partition(".")[0]].add(source.partition(".")[0])
    try:
        return tuple(TopologicalSorter(needs).static_order())
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise EdgeInvalid(f"The edges make a circle: {circle}.", next_action="Take one of them away.") from None


def run(
    models: Mapping[str, LocatedModel], order: Sequence[str], edges: Mapping[str, str], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Run a graph; every output by its ``model.tensor``. Raises what its models raise, `EdgeInvalid` for a stray input."""
    known = dict(inputs)
    stray = sorted(name for name in known if name.partition(".")[0] not in models or name in edges)
    if stray:
        raise EdgeInvalid(f"The graph takes no input {stray[0]!r}.", next_action="Give what no edge feeds.")
    outputs: dict[str, Any] = {}
    for name in order:
        begins = f"{name}."
        given = {key.removeprefix(begins): value for key, value in known.items() if key.startswith(begins)}
        given |= {
            target.removeprefix(begins): outputs[source]
            for target, source in edges.items()
            if target.startswith(begins)
        }
        outputs |= {f"{begins}{key}": value for key, value in models[name].predict(given).items()}
    return outputs


def _find(signatures: Mapping[str, Signature], end: str, what: str) -> TensorSpec:
    model, _, tensor = end.partition(".")
    signature = signatures.get(model)
    if signature is None:
        raise EdgeInvalid(
            f"The edge end {end!r} names no model of the service.",
            next_action=f"Its models: {', '.join(sorted(signatures)) or 'none'}.",
        )
    specs = signature.inputs if what == "input" else signature.outputs
    found = next((spec for spec in specs if spec.name == tensor), None)
    if found is None:
        raise EdgeInvalid(
            f"The model {model!r} has no {what} {tensor!r}.",
            next_action=f"It has: {', '.join(spec.name for spec in specs)}.",
        )
    return found


def fits(given: TensorSpec, taken: TensorSpec) -> bool:
    """Free axes fit any; the batch is always free."""
    return (
        given.datatype is taken.datatype
        and len(given.shape) == len(taken.shape)
        and all(-1 in (one, other) or one == other for one, other in zip(given.shape, taken.shape, strict=True))
    )


def _told(spec: TensorSpec) -> str:
    return f"{spec.datatype.value} {list(spec.shape)}"
