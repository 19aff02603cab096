"""Graphs of models: the models of a bundle's ``graph.json``, each in its own engine, one after the other in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from skyloom.inference import model as models
from skyloom.inference.model import Model
from skyloom.inference.runtimes.seam import Grant, LoadedModel, Slot, refused
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import MANIFEST_FILE, MODEL_FILES, Manifest, RuntimeName, Signature
from skyloom.rooms.registry.graphs import ModelGraph, nested
from skyloom.sdk.composing import signature_of
from skyloom.sdk.graph import EdgeInvalid, order_of

Kind = TypeVar("Kind")
INSIDE = frozenset({RuntimeName.ONNX, RuntimeName.LITERT})  # engines that may live in the data plane


class LoadedGraph:
    """Models that feed each other."""

    def __init__(self, graph: ModelGraph, loaded: dict[str, Model]) -> None:
        signatures = {name: model.manifest.signature for name, model in loaded.items()}
        self.signature = signature_of(graph, signatures)
        self.inputs = tuple(Slot(one.name, one.datatype, len(one.shape)) for one in self.signature.inputs)
        self.outputs = tuple(Slot(one.name, one.datatype, len(one.shape)) for one in self.signature.outputs)
        self.memory_bytes = sum(model.memory_bytes for model in loaded.values())
        self._graph = graph
        self._models = loaded
        self._order = order_of(signatures, graph.edges)
        self._fed = {end: place for place, name in enumerate(graph.inputs) for end in graph.inputs[name]}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """All models, each when what it takes is there. Raises `ModelFailed`."""
        known: dict[str, Array] = {}
        for name in self._order:
            model = self._models[name]
            ends = [f"{name}.{spec.name}" for spec in model.manifest.signature.inputs]
            given = [inputs[self._fed[end]] if end in self._fed else known[self._graph.edges[end]] for end in ends]
            said = model.run(given)
            known |= {
                f"{name}.{spec.name}": one for spec, one in zip(model.manifest.signature.outputs, said, strict=True)
            }
        return [_mean([known[end] for end in ends]) for ends in self._graph.outputs.values()]

    def close(self) -> None:
        """Let go of all models."""
        for model in self._models.values():
            model.close()


class GraphRuntime:
    """The adapter."""

    platform = "skyloom_ensemble"
    model_file = MODEL_FILES[RuntimeName.GRAPH]

    def signature(self, path: Path) -> Signature:
        """What the graph takes and gives, by what its models do."""
        made = _loaded(path.parent, Grant(1))
        made.close()
        return made.signature

    def load(self, folder: Path, manifest: Manifest, grant: Grant) -> LoadedModel:
        """Load every model, and check again that they fit together."""
        return _loaded(folder, grant)


def _loaded(folder: Path, grant: Grant) -> LoadedGraph:
    graph = _read(folder / MODEL_FILES[RuntimeName.GRAPH], ModelGraph)
    loaded: dict[str, Model] = {}
    try:
        for name in graph.models:
            manifest = _read(folder / nested(name) / MANIFEST_FILE, Manifest)
            if manifest.runtime not in INSIDE:
                raise refused(
                    f"its model {name} runs by {manifest.runtime}", "Put that model beside a skyloom.Service."
                )
            loaded[name] = models.load_verified(folder / nested(name), manifest, grant.threads, grant.gpus)
        return LoadedGraph(graph, loaded)
    except EdgeInvalid as error:
        _close(loaded)
        raise refused(error.message.rstrip("."), error.next_action) from error
    except BaseException:
        _close(loaded)
        raise


def _close(loaded: dict[str, Model]) -> None:
    for model in loaded.values():
        model.close()


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise refused(f"{path.parent.name}/{path.name} cannot be read", "Register the graph again.") from error


def _mean(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)


RUNTIME = GraphRuntime()
