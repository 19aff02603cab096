"""From the tensors that a model answers to columns of a table."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa

from skyloom.inference.elements import as_numbers
from skyloom.inference.tensors import DTYPES, Array
from skyloom.ports.tables import SHAPE
from skyloom.rooms.batch import rules
from skyloom.rooms.data.making import SOURCE_ROW
from skyloom.rooms.registry.bundle import Datatype, Manifest, ModelKind, TensorSpec


class AnswerWriter:
    """Turns answers into record batches: the id of the row, what was kept of it, and what the model said.

    Args:
        kept: fields of the columns that stay.
    """

    def __init__(self, manifest: Manifest, kept: Sequence[pa.Field]) -> None:
        self._manifest = manifest
        self._columns = rules.outputs(manifest)
        self._places = {spec.name: place for place, spec in enumerate(manifest.signature.outputs)}
        self._labels = pa.array(manifest.labels, pa.string()) if manifest.labels else None
        said = [self._field(name, spec) for name, spec in self._columns.items()]
        self.schema = pa.schema([pa.field(SOURCE_ROW, pa.int64(), nullable=False), *kept, *said])

    def batch(self, row_ids: pa.Array, kept: Sequence[pa.Array], answers: Sequence[Array]) -> pa.RecordBatch:
        """The predictions of some rows. ``answers`` are in the order of the signature."""
        numbers = {
            spec.name: as_numbers(spec.datatype, answers[self._places[spec.name]]) for spec in self._columns.values()
        }
        said = [self._column(name, numbers[spec.name]) for name, spec in self._columns.items()]
        return pa.RecordBatch.from_arrays([row_ids, *kept, *said], schema=self.schema)

    @property
    def _is_class(self) -> bool:
        return self._manifest.kind is ModelKind.CLASSIFICATION

    def _field(self, name: str, spec: TensorSpec) -> pa.Field:
        if name == rules.PREDICTION and self._is_class:
            return pa.field(name, pa.int64() if self._labels is None else pa.string(), nullable=False)
        if name in (rules.PREDICTION, rules.SCORE):
            return pa.field(name, pa.float64(), nullable=False)
        kind, tail = _stored(spec), spec.shape[1:]
        if math.prod(tail) == 1:
            return pa.field(name, kind, nullable=False)
        told = {SHAPE: msgspec.json.encode(tail)} if len(tail) > 1 else None
        return pa.field(name, pa.list_(kind, math.prod(tail)), nullable=False, metadata=told)

    def _column(self, name: str, answer: Array) -> pa.Array:
        if name == rules.PREDICTION and self._is_class:
            classes = pa.array(answer.argmax(axis=1).astype(np.int64))
            return classes if self._labels is None else self._labels.take(classes)
        if name == rules.SCORE:
            return pa.array(answer.max(axis=1).astype(np.float64))
        if name == rules.PREDICTION:
            return pa.array(answer.reshape(-1).astype(np.float64))
        field = self.schema.field(name)
        is_list = pa.types.is_fixed_size_list(field.type)
        kind = field.type.value_type if is_list else field.type
        flat = np.ascontiguousarray(answer).reshape(-1)
        flat = pa.array(_texts(flat) if pa.types.is_string(kind) else flat).cast(kind)
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type) if is_list else flat


def _texts(flat: Array) -> list[str]:
    """Strings as a column holds them; what is no UTF-8 is replaced."""
    return [text if isinstance(text, str) else bytes(text).decode("utf-8", "replace") for text in flat]


def _stored(spec: TensorSpec) -> pa.DataType:
    """What a tensor's numbers are stored as. Half floats and lists of truth values are not had everywhere."""
    if spec.datatype is Datatype.BYTES:
        return pa.string()
    if spec.datatype in (Datatype.FP16, Datatype.BF16):
        return pa.float32()
    if spec.datatype is Datatype.BOOL:
        return pa.bool_() if math.prod(spec.shape[1:]) == 1 else pa.uint8()
    return pa.from_numpy_dtype(DTYPES[spec.datatype])
