"""From rows of a table to the tensors of a model, and the rows that cannot go in, with why."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skyloom.inference.elements import to_bfloat16
from skyloom.inference.pictures import PictureReader, PictureRefused
from skyloom.inference.tensors import DTYPES, Array
from skyloom.recipes.describing import value_shape
from skyloom.recipes.features import encoded
from skyloom.rooms.registry.bundle import ENCODING_FILE, Datatype, FeatureColumn, Manifest, TensorSpec

Mask = NDArray[np.bool_]


class RowReader:
    """Turns batches of rows into tensors, in the order of the signature.

    Args:
        columns: what the model takes → column of the table (`rules.fit`).
        bundle: folder of the verified bundle, for the encoding of texts.

    Attributes:
        names: the columns that are needed.
    """

    def __init__(self, manifest: Manifest, columns: Mapping[str, str], bundle: Path) -> None:
        self._specs = manifest.signature.inputs
        self._columns = columns
        self._features: tuple[FeatureColumn, ...] = ()
        self._encoded = (bundle / ENCODING_FILE).is_file()
        if manifest.is_tabular:
            told = (bundle / ENCODING_FILE).read_bytes() if self._encoded else b""
            encoding = msgspec.json.decode(told, type=tuple[FeatureColumn, ...]) if told else ()
            known = {feature.name: feature for feature in encoding}
            self._features = tuple(known.get(name, FeatureColumn(name=name)) for name in manifest.columns)
        described = manifest.image
        drawn = [spec for spec in self._specs if described is not None and spec.name == described.tensor]
        self._pictures = PictureReader(described, drawn[0]) if described is not None and drawn else None
        self.names = tuple(dict.fromkeys(columns.values()))

    def read(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[Array], dict[int, str]]:
        """The rows that can be predicted, them as the model takes them, and place in the batch → why another one cannot be."""
        reasons = self.rejects(batch)
        pictures = self._decoded(batch, reasons)
        if not reasons:
            return batch, self.tensors(batch, pictures), reasons
        good = [place for place in range(batch.num_rows) if place not in reasons]
        kept = batch.take(pa.array(good, pa.int64()))
        return kept, self.tensors(kept, pictures) if good else [], reasons

    def _decoded(self, batch: pa.RecordBatch, reasons: dict[int, str]) -> list[Array]:
        """The pictures of the rows, each with a first axis of one; what is none is added to the reasons."""
        if self._pictures is None or not _is_bytes(batch.column(self._columns[self._pictures.spec.name])):
            return []
        name = self._columns[self._pictures.spec.name]
        column, found = batch.column(name), []
        for place in range(batch.num_rows):
            if place in reasons:
                continue
            try:
                found.append(self._pictures.read(column[place].as_py()))
            except PictureRefused as error:
                reasons[place] = f"{name!r}: {error.message}"
        return found

    def rejects(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Place in the batch → why the row cannot be predicted. An encoded model knows what a missing value means; others do not."""
        found: dict[int, str] = {}
        if self._features and self._encoded:
            return found
        for name in self.names:
            for place in np.flatnonzero(_missing(batch.column(name))).tolist():
                found.setdefault(place, f"no value in {name!r}")
        for spec in () if self._features else self._specs:
            name = self._columns[spec.name]
            for place in np.flatnonzero(_beyond(spec, batch.column(name))).tolist():
                found.setdefault(place, f"a value in {name!r} that {spec.datatype} does not hold")
        return found

    def tensors(self, batch: pa.RecordBatch, pictures: Sequence[Array] = ()) -> list[Array]:
        """The rows as the model takes them, none of them a rejected one; their ``pictures`` decoded already."""
        if self._features:
            parts = [
                encoded(feature, pa.chunked_array([batch.column(self._columns[feature.name])]))
                for feature in self._features
            ]
            rows = np.stack(parts, axis=1)
            kind = self._specs[0].datatype
            return [to_bfloat16(rows) if kind is Datatype.BF16 else rows.astype(DTYPES[kind], copy=False)]
        named = [(spec, self._columns[spec.name]) for spec in self._specs]
        return [
            np.concatenate(pictures)
            if pictures and self._pictures is not None and spec.name == self._pictures.spec.name
            else _tensor(spec, batch.schema.field(name), batch.column(name))
            for spec, name in named
        ]


def _is_bytes(column: pa.Array) -> bool:
    return bool(pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))


def _missing(column: pa.Array) -> Mask:
    is_list = pa.types.is_fixed_size_list(column.type)
    if not column.null_count and not (is_list and column.flatten().null_count):
        return np.zeros(len(column), dtype=bool)  # a large row is not to be looked at number by number
    missing: Mask = column.is_null().to_numpy(zero_copy_only=False)
    if is_list:
        inside = column.drop_null().flatten().is_null().to_numpy(zero_copy_only=False)
        if inside.any():
            missing = missing.copy()
            missing[~missing] = inside.reshape(-1, column.type.list_size).any(axis=1)
    return missing


def _beyond(spec: TensorSpec, column: pa.Array) -> Mask:
    """Rows with a whole number that is larger or smaller than the input's type holds: a cast would make another number of it."""
    is_list = pa.types.is_fixed_size_list(column.type)
    kind = column.type.value_type if is_list else column.type
    dtype = np.dtype(DTYPES[spec.datatype])
    if dtype.kind not in "iu" or not pa.types.is_integer(kind) or np.can_cast(kind.to_pandas_dtype(), dtype):
        return np.zeros(len(column), dtype=bool)
    flat = (column.fill_null(0) if not is_list else _filled(column)).to_numpy(zero_copy_only=False)
    holds = np.iinfo(dtype)
    beyond: Mask = ((flat < holds.min) | (flat > holds.max)).reshape(len(column), -1).any(axis=1)
    return beyond


def _filled(column: pa.Array) -> pa.Array:
    """All numbers of a column of lists; zeros where there is none."""
    size = column.type.list_size
    return column.values.slice(column.offset * size, len(column) * size).fill_null(0)


def _tensor(spec: TensorSpec, field: pa.Field, column: pa.Array) -> Array:
    """A whole column as one input; `rules.misfit` has found that it fits."""
    is_list = pa.types.is_fixed_size_list(column.type)
    flat = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
    tail = value_shape(field) if is_list else (1,) * (len(spec.shape) - 1)
    shaped = flat.reshape(len(column), *tail)
    if spec.datatype is Datatype.BF16:
        return to_bfloat16(shaped.astype(np.float32))
    made: Array = shaped.astype(DTYPES[spec.datatype], copy=False)
    return made
