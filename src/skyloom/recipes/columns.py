"""From Arrow columns to arrays: images, labels, numbers. Refuses, by name, what a recipe cannot use."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput
from skyloom.ports.tables import SHAPE

Array = NDArray[Any]


class NotAnImageColumn(InvalidInput):
    """The column holds no pixels of one shape."""


class TargetUnusable(InvalidInput):
    """The target column cannot be learned: missing values, one class only, or not numbers."""


def images(table: pa.Table, name: str) -> Array:
    """Pixels as uint8, shape [rows, height, width], [rows, channels, height, width] or [rows, height, width, channels], as stored.

    The column is a fixed-shape tensor, or fixed-size lists: nested, or flat with the shape in the field's metadata (``shape``, JSON), or
    flat and a square. Raises `NotAnImageColumn`.
    """
    column = table.column(name)
    if column.null_count:
        raise NotAnImageColumn(
            f"{column.null_count} rows have no {name}.", next_action="Drop them first: skyloom data clean."
        )
    values, nested = _flattened(pa.concat_arrays(column.chunks))
    if not nested or values.type != pa.uint8():
        raise NotAnImageColumn(
            f"The column {name!r} holds {column.type}, not images of one size.",
            next_action="Name a column of images, or give all images one size: skyloom data create --height H --width W.",
        )
    told = (table.schema.field(name).metadata or {}).get(SHAPE)
    shape = msgspec.json.decode(told, type=list[int]) if told else nested
    if len(shape) == 1:
        shape = _square(shape[0], name)
    pixels: Array = values.to_numpy(zero_copy_only=True).reshape(len(column), *shape)
    return pixels


def _flattened(values: pa.Array) -> tuple[pa.Array, list[int]]:
    """The innermost values of nested lists of fixed sizes, and the sizes from the outside in."""
    shape: list[int] = []
    if isinstance(values.type, pa.FixedShapeTensorType):
        return values.storage.flatten(), list(values.type.shape)
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    return values, shape


def _square(size: int, name: str) -> list[int]:
    side = math.isqrt(size)
    if side * side != size:
        raise NotAnImageColumn(
            f"The column {name!r} holds {size} numbers a row, which is no square image.",
            next_action="Store the images with their height and width.",
        )
    return [side, side]


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """The classes of a target column, in the order of the scores."""

    names: tuple[str, ...]

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """Class of every row; -1 for a label that training did not see."""
        places = {name: at for at, name in enumerate(self.names)}
        return np.array([places.get(_text(value), -1) for value in column.to_pylist()], dtype=np.int64)


def labels(column: pa.ChunkedArray, name: str) -> Labels:
    """The classes of a training target, sorted (numbers as numbers). Raises `TargetUnusable`."""
    refuse_missing(column, name)
    values = column.unique().to_pylist()
    if len(values) < 2:
        raise TargetUnusable(
            f"The target {name!r} has one class only: {_text(values[0])!r}.",
            next_action="A classifier needs two classes or more; check the target and the split.",
        )
    return Labels(names=tuple(_text(value) for value in sorted(values)))


def refuse_missing(column: pa.ChunkedArray, name: str) -> None:
    """Raise `TargetUnusable` when rows have no target."""
    if column.null_count:
        raise TargetUnusable(
            f"{column.null_count} training rows have no {name!r}.",
            next_action="Drop or fill them first: skyloom data clean.",
        )


def numbers(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """A numeric target. Raises `TargetUnusable`."""
    refuse_missing(column, name)
    if not is_number(column.type):
        raise TargetUnusable(
            f"The target {name!r} holds {column.type}, and regression needs numbers.",
            next_action="Name a numeric target, or train a classifier: task=classification.",
        )
    target: NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return target


def is_number(kind: pa.DataType) -> bool:
    """True for integers and floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def listed(names: Sequence[str]) -> str:
    """Names for a message; the first ten."""
    return ", ".join(repr(name) for name in names[:10]) + (" and more" if len(names) > 10 else "")


def _text(value: object) -> str:
    return str(value)
