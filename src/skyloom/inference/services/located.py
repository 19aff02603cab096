"""Models that lie in the service's process: ``self.model("digits").predict(rows)``, with the types of their signature kept."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from skyloom.core.errors import InvalidInput
from skyloom.inference import model as models
from skyloom.inference.model import Model
from skyloom.inference.tensors import DTYPES, Array
from skyloom.rooms.registry.bundle import TensorSpec


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
        """Lists become arrays of the model's type; arrays must be of its kind. Floats are rounded, integers beyond it refused."""
        wanted = DTYPES[spec.datatype]
        array = np.asarray(value) if hasattr(value, "dtype") else np.asarray(value, wanted)
        if array.dtype != wanted:
            if not np.can_cast(array.dtype, wanted, "same_kind"):
                raise self._mismatch(f"takes {spec.name} as {wanted.name}, and was given {array.dtype.name}")
            narrowed = array.astype(wanted)
            if wanted.kind in "iu" and (narrowed != array).any():
                raise self._mismatch(f"takes {spec.name} as {wanted.name}, and was given values beyond it")
            array = narrowed
        fits = array.ndim == len(spec.shape) and all(
            axis in (-1, size) for axis, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or not len(array):
            raise self._mismatch(f"takes {spec.name} as {list(spec.shape)}, and was given {list(array.shape)}")
        return np.ascontiguousarray(array)

    def _mismatch(self, what: str) -> EdgeMismatch:
        return EdgeMismatch(f"The model {self.name!r} {what}.", next_action="Change what the service hands to it.")
