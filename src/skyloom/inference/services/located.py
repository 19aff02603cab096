"""Models that lie in the service's process: ``self.model("digits").predict(rows)``, with the types of their signature kept."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from skyloom.core.errors import InvalidInput
from skyloom.inference import model as models
from skyloom.inference.elements import to_bfloat16
from skyloom.inference.model import Model
from skyloom.inference.tensors import DTYPES, FLOATS, Array
from skyloom.rooms.registry.bundle import Datatype, TensorSpec


class EdgeMismatch(InvalidInput):
    """What a service hands to a model beside it does not fit the model's signature."""


class Located:
    """One model in memory. Thread-safe: calls go one after the other."""

    def __init__(self, name: str, model: Model) -> None:
        self.name = name
        self.signature = model.manifest.signature
        self._model = model
        self._lock = threading.Lock()

    @classmethod
    def load(cls, name: str, folder: Path, threads: int) -> "Located":
        """Verify and load a bundle. Raises `BundleRefused`."""
        return cls(name, models.load(folder, threads))

    def predict(self, inputs: Any = None, /, **named: Any) -> dict[str, Array]:
        """Arrays in, arrays out, by name. Raises `EdgeMismatch`, `ModelFailed`."""
        specs = self.signature.inputs
        if inputs is not None:
            named = dict(inputs) if isinstance(inputs, dict) else {specs[0].name: inputs}
        if set(named) != {spec.name for spec in specs}:
            raise self._mismatch(f"takes {[spec.name for spec in specs]}, and was given {sorted(named)}")
        arrays = [self._fitted(spec, named[spec.name]) for spec in specs]
        if len({len(array) for array in arrays}) > 1:
            raise self._mismatch("was given inputs with different numbers of rows")
        with self._lock:
            outputs = self._model.run(arrays)
        return {spec.name: output for spec, output in zip(self.signature.outputs, outputs, strict=True)}

    def _fitted(self, spec: TensorSpec, value: Any) -> Array:
        """As the model takes it: of its type, or numbers that it can hold. Floats are rounded to it; nothing else changes a value."""
        wanted = DTYPES[spec.datatype]
        try:
            array = np.asarray(value, wanted if wanted.hasobject else None)
        except ValueError:
            raise self._mismatch(f"takes {spec.name} as an array, and was given ragged lists") from None
        if array.dtype != wanted:
            array = self._cast(spec, array)
        fits = array.ndim == len(spec.shape) and all(
            axis in (-1, size) for axis, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or not len(array):
            raise self._mismatch(f"takes {spec.name} as {list(spec.shape)}, and was given {list(array.shape)}")
        return np.ascontiguousarray(array)

    def _cast(self, spec: TensorSpec, array: Array) -> Array:
        is_float = spec.datatype in FLOATS
        if array.dtype.kind not in ("biuf" if is_float or not array.size else "biu"):
            raise self._mismatch(f"takes {spec.name} as {spec.datatype.value}, and was given {array.dtype.name}")
        if spec.datatype is Datatype.BF16:
            return to_bfloat16(array.astype(np.float32))
        with np.errstate(over="ignore"):
            made = array.astype(DTYPES[spec.datatype])
        if not is_float and not np.array_equal(made, array):
            raise self._mismatch(f"takes {spec.name} as {spec.datatype.value}, and was given numbers beyond it")
        return made

    def _mismatch(self, what: str) -> EdgeMismatch:
        return EdgeMismatch(f"The model {self.name!r} {what}.", next_action="Change what the service hands to it.")
