"""From rows of a table to the tensors of a model, and the rows that cannot go in, with why."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skyloom.inference.elements import from_bfloat16, to_bfloat16
from skyloom.inference.pictures import PictureReader, PictureRefused
from skyloom.inference.tensors import DTYPES, FLOATS, Array
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
        if not (self._features and self._encoded):
            for name in self.names:
                for place in np.flatnonzero(_missing(batch.column(name))).tolist():
                    found.setdefault(place, f"no value in {name!r}")
        for name, kind, numbers in self._numbers(batch):
            for place in np.flatnonzero(unheld(kind, numbers)).tolist():
                found.setdefault(place, _why(name, kind, numbers[place]))
        return found

    def _numbers(self, batch: pa.RecordBatch) -> Iterator[tuple[str, Datatype, Array]]:
        """Column, the type that it has to become, and its numbers, one row each. Columns of anything else are not among them."""
        for feature in self._features:
            name, kind = self._columns[feature.name], self._specs[0].datatype
            column = batch.column(name)
            is_safe = kind in FLOATS and (bool(feature.values) or (_is_number(column) and _fits(column.type, kind)))
            if not is_safe:
                yield name, kind, _feature(feature, column, kind)
        for spec in () if self._features else self._specs:
            column = batch.column(self._columns[spec.name])
            if _is_number(column) and not _fits(_element_type(column), spec.datatype):
                flat = _filled(column).to_numpy(zero_copy_only=False)
                yield self._columns[spec.name], spec.datatype, flat.reshape(len(column), -1)

    def tensors(self, batch: pa.RecordBatch, pictures: Sequence[Array] = ()) -> list[Array]:
        """The rows as the model takes them, none of them a rejected one; their ``pictures`` decoded already."""
        if self._features:
            kind = self._specs[0].datatype
            dtype = np.dtype(np.float32) if kind is Datatype.BF16 else DTYPES[kind]
            named_parts = ((feature, batch.column(self._columns[feature.name])) for feature in self._features)
            parts = [_feature(feature, column, kind).astype(dtype, copy=False) for feature, column in named_parts]
            rows = np.stack(parts, axis=1)
            return [to_bfloat16(rows) if kind is Datatype.BF16 else rows]
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


def unheld(kind: Datatype, numbers: Array) -> Mask:
    """Rows with a number that ``kind`` does not hold, so that a cast would make another one of it: a fraction, NaN or an infinity where
    whole numbers go in, and what is out of its range. What floats round is held."""
    if kind in FLOATS:
        beyond = _overflows(kind, numbers)
    elif kind is Datatype.BOOL:
        beyond = np.isin(numbers, (0, 1), invert=True)
    else:
        beyond = _not_whole(DTYPES[kind], numbers)
    rows: Mask = np.any(beyond.reshape(len(numbers), -1), axis=1)
    return rows


def _overflows(kind: Datatype, numbers: Array) -> Mask:
    with np.errstate(over="ignore"):
        made = from_bfloat16(to_bfloat16(numbers.astype(np.float32))) if kind is Datatype.BF16 else None
        infinite = np.isinf(numbers.astype(DTYPES[kind]) if made is None else made)
    found: Mask = infinite & np.isfinite(numbers) if infinite.any() else infinite
    return found


def _not_whole(dtype: "np.dtype[Any]", numbers: Array) -> Mask:
    holds = np.iinfo(dtype)
    if numbers.dtype.kind == "b":
        return np.zeros(numbers.shape, dtype=bool)
    if numbers.dtype.kind == "f":  # the largest integer is one below a power of two, which floats have exactly
        within = (numbers >= float(holds.min)) & (numbers < float(int(holds.max) + 1))
        beyond: Mask = ~(within & (np.floor(numbers) == numbers))
        return beyond
    beyond = (numbers < holds.min) | (numbers > holds.max)
    return beyond


def _why(name: str, kind: Datatype, row: Array) -> str:
    """What is wrong with a row's numbers in a column; the same words for all rows that lack the same."""
    numbers = np.ravel(row)
    bad = numbers[unheld(kind, numbers)][0]
    if not np.isfinite(bad):
        return f"a value in {name!r} that is no number; the model takes {kind}"
    if kind not in FLOATS and bad != np.floor(bad):
        return f"a fraction in {name!r}; the model takes {kind}"
    return f"a value in {name!r} that {kind} does not hold"


def _feature(feature: FeatureColumn, column: pa.Array, kind: Datatype) -> Array:
    """A column of a tabular model as numbers that have lost nothing yet; NaN for a missing or unknown value."""
    if feature.values:
        return encoded(feature, pa.chunked_array([column]))
    if kind in FLOATS or column.null_count or not _is_number(column):
        column = column.cast(pa.float64(), safe=False)
    numbers: Array = column.to_numpy(zero_copy_only=False)
    return numbers


def _element_type(column: pa.Array) -> pa.DataType:
    return column.type.value_type if pa.types.is_fixed_size_list(column.type) else column.type


def _is_number(column: pa.Array) -> bool:
    kind = _element_type(column)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _fits(kind: pa.DataType, wanted: Datatype) -> bool:
    """Whether no number of a column can be beyond an input's type; then a large row is not looked at number by number."""
    if wanted is Datatype.BYTES or pa.types.is_boolean(kind):
        return True
    have, most = np.dtype(kind.to_pandas_dtype()), DTYPES[wanted]
    if wanted is Datatype.BF16:
        return have.kind in "iu" or have.itemsize == 2
    return np.can_cast(have, most) or (most.kind == "f" and have.kind in "iu" and most.itemsize > 2)


def _filled(column: pa.Array) -> pa.Array:
    """All numbers of a column, or of its lists; zeros where there is none."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.fill_null(0)
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
