"""A graph of models made whole: what it takes and gives follows from what its models do. Pure.

Edges are checked by `sdk.graph.order_of`; here are the ends that a graph has to the outside.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.rooms.registry.graphs import ModelGraph
from skyloom.sdk.graph import EdgeInvalid, fits, order_of

_AVERAGED = frozenset({Datatype.FP32, Datatype.FP64})
_HINT = "Say it in the graph: inputs = {name: [ends]}, outputs = {name: [ends]}."


def complete(graph: ModelGraph, signatures: Mapping[str, Signature]) -> ModelGraph:
    """The graph with all its inputs and outputs named. Raises `EdgeInvalid`."""
    order_of(signatures, graph.edges)
    taken = set(graph.edges.values())
    inputs, outputs = dict(graph.inputs), dict(graph.outputs)
    if not inputs:
        for end in _unfed(graph, signatures):
            name = end.partition(".")[2]
            inputs[name] = (*inputs.get(name, ()), end)
    if not outputs:
        free = [end for end in _ends(signatures, "outputs") if end not in taken]
        names = [end.partition(".")[2] for end in free]
        outputs = {end if names.count(name) > 1 else name: (end,) for end, name in zip(free, names, strict=True)}
    whole = msgspec.structs.replace(graph, inputs=inputs, outputs=outputs)
    signature_of(whole, signatures)
    return whole


def signature_of(graph: ModelGraph, signatures: Mapping[str, Signature]) -> Signature:
    """What a whole graph takes and gives. Raises `EdgeInvalid` when an input is fed twice, or not at all, or ends do not fit together."""
    order_of(signatures, graph.edges)
    given = [*graph.edges, *(end for ends in graph.inputs.values() for end in ends)]
    for end in _ends(signatures, "inputs"):
        if given.count(end) != 1:
            how = "nothing" if end not in given else "more than one thing"
            raise EdgeInvalid(f"The input {end} is fed by {how}.", next_action=_HINT)
    if not graph.outputs:
        raise EdgeInvalid("The graph gives nothing.", next_action=_HINT)
    inputs = tuple(_joined(name, _specs(signatures, ends, "inputs")) for name, ends in graph.inputs.items())
    return Signature(inputs=inputs, outputs=tuple(_outputs(graph, signatures)))


def _outputs(graph: ModelGraph, signatures: Mapping[str, Signature]) -> Iterable[TensorSpec]:
    for name, ends in graph.outputs.items():
        specs = _specs(signatures, ends, "outputs")
        if len(specs) > 1 and not {spec.datatype for spec in specs} <= _AVERAGED:
            raise EdgeInvalid(f"The output {name} averages what is not FP32 or FP64.", next_action=_HINT)
        yield _joined(name, specs)


def _joined(name: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    """One tensor that is all of these. Fixed sizes win over free ones."""
    first = specs[0]
    for spec in specs[1:]:
        if not fits(first, spec):
            raise EdgeInvalid(f"The ends of {name!r} are of different types or shapes.", next_action=_HINT)
        shape = tuple(max(one, other) for one, other in zip(first.shape, spec.shape, strict=True))
        first = msgspec.structs.replace(first, shape=shape)
    return msgspec.structs.replace(first, name=name)


def _specs(signatures: Mapping[str, Signature], ends: Sequence[str], kind: str) -> list[TensorSpec]:
    known = _ends(signatures, kind)
    missing = next((end for end in ends if end not in known), None)
    if missing is not None:
        raise EdgeInvalid(f"There is no {kind[:-1]} {missing!r}.", next_action=f"There are: {', '.join(known)}.")
    return [known[end] for end in ends]


def _unfed(graph: ModelGraph, signatures: Mapping[str, Signature]) -> list[str]:
    return [end for end in _ends(signatures, "inputs") if end not in graph.edges]


def _ends(signatures: Mapping[str, Signature], kind: str) -> dict[str, TensorSpec]:
    return {f"{name}.{spec.name}": spec for name, signature in signatures.items() for spec in getattr(signature, kind)}
