"""LiteRT (``.tflite``): small models of phones and boards, on cores. A flatbuffer of known operators; it brings no code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from skyloom.inference.runtimes.seam import Grant, LoadedModel, Slot, refused
from skyloom.inference.tensors import DTYPES, Array
from skyloom.rooms.registry.bundle import MODEL_FILES, Datatype, Manifest, RuntimeName, Signature, TensorSpec

_FILE = MODEL_FILES[RuntimeName.LITERT]
_FOREIGN = (Datatype.BF16, Datatype.BYTES)
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items() if datatype not in _FOREIGN}


class LitertModel:
    """One interpreter. It is fitted to a batch's size when that changes."""

    def __init__(self, manifest: Manifest, interpreter: Any, size_bytes: int) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs, self.outputs = _slots(inputs), _slots(outputs)
        self.memory_bytes = 2 * size_bytes
        places = {item["name"]: item["index"] for item in (*inputs, *outputs)}
        self._inputs = [places.get(spec.name, -1) for spec in manifest.signature.inputs]
        self._outputs = [places.get(spec.name, -1) for spec in manifest.signature.outputs]
        self._shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Infer."""
        shapes = [array.shape for array in inputs]
        if shapes != self._shapes:
            self._shapes = []
            for place, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(place, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for place, array in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(place, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(place) for place in self._outputs]

    def close(self) -> None:
        """Let go of the interpreter."""
        self._interpreter = None


class LitertRuntime:
    """Loads ``model.tflite``."""

    platform = "litert_tflite"
    model_file = _FILE
    runs_at_once = False

    def load(self, folder: Path, manifest: Manifest, grant: Grant) -> LoadedModel:
        """Load, and try a batch of two: some files fix their batch without saying so."""
        if grant.gpus:
            raise refused("LiteRT runs on cores, and its replica has a GPU", "Deploy it without a GPU.")
        content = (folder / _FILE).read_bytes()
        model = LitertModel(manifest, _interpreter(content, grant.threads), len(content))
        specs = manifest.signature.inputs
        if {slot.name for slot in model.inputs} == {spec.name for spec in specs}:
            _try(model, specs)
        return model

    def signature(self, path: Path) -> Signature:
        """What the file declares. A batch of 1 counts as free: the interpreter is fitted to any."""
        interpreter = _interpreter(path.read_bytes(), 1)
        return Signature(
            inputs=tuple(_spec(item) for item in interpreter.get_input_details()),
            outputs=tuple(_spec(item) for item in interpreter.get_output_details()),
        )


def _interpreter(content: bytes, threads: int) -> Any:
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise refused(f"{_FILE} cannot be loaded by LiteRT", "Convert the model again.") from error
    return interpreter


def _try(model: LitertModel, specs: Sequence[TensorSpec]) -> None:
    rows = [np.zeros([2, *(max(axis, 1) for axis in spec.shape[1:])], DTYPES[spec.datatype]) for spec in specs]
    try:
        outputs = model.run(rows)
    except (ValueError, RuntimeError) as error:
        raise refused(f"{_FILE} does not take two rows at once", "Convert it with a free batch.") from error
    if any(not output.ndim or len(output) != 2 for output in outputs):
        raise refused(f"{_FILE} does not answer two rows with two", "Convert it with a free batch.")


def _slots(details: Sequence[Any]) -> tuple[Slot, ...]:
    return tuple(Slot(item["name"], _datatype(item) or str(item["dtype"]), len(item["shape"])) for item in details)


def _datatype(item: Any) -> Datatype | None:
    return _DATATYPES.get(np.dtype(item["dtype"]))


def _spec(item: Any) -> TensorSpec:
    datatype = _datatype(item)
    shape = tuple(int(axis) for axis in item.get("shape_signature", item["shape"]))
    if datatype is None or not shape or shape[0] not in (-1, 1):
        raise refused(
            f"{item['name']} has the type {item['dtype']} and the shape {list(shape)}",
            "Convert it with numbers and a free batch.",
        )
    return TensorSpec(name=item["name"], datatype=datatype, shape=(-1, *shape[1:]))


RUNTIME = LitertRuntime()
