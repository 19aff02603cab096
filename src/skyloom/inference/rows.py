"""Rows of plain JSON ↔ tensors: what the protocols share that speak of fields and not of tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from skyloom.inference.codec import flattened, parse_elements
from skyloom.inference.elements import as_numbers, json_strings
from skyloom.inference.tensors import Array, Contract, refuse
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

_MAX_DEPTH = 7


def read_column(contract: Contract, spec: TensorSpec, values: Sequence[bytes | memoryview]) -> Array:
    """An input of as many rows as there are values, each the JSON of one row: nested as its shape says, or flat; a bare value where a row
    has one element. Raises `TensorRefused`."""
    depth = _depth(values[0]) if values else 0
    elements = parse_elements(b"[" + b",".join(values) + b"]", spec, depth + 1)
    shape = (len(values), *_row_shape(spec, elements[0] if elements else None))
    contract.expect(spec.name, spec.datatype.value, shape)
    is_flat = depth == 1 and len(shape) != 2
    if spec.datatype is Datatype.BYTES or is_flat:
        elements = flattened(elements, (len(values), math.prod(shape[1:])) if is_flat else shape, spec.name)
    if spec.datatype is Datatype.BYTES:
        return contract.from_strings(spec, shape, elements)
    return contract.from_numbers(spec, shape, elements)


def read_rows(
    contract: Contract, rows: Sequence[Mapping[str, msgspec.Raw]], others: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Inputs out of rows that name them. Raises `TensorRefused`: a field is missing, unknown (unless among ``others``) or does not fit."""
    specs = {spec.name: spec for spec in contract.signature.inputs}
    for row in rows:
        missing = next((name for name in specs if name not in row), None)
        if missing is not None:
            raise refuse(f"The field {missing[:80]!r} is missing.", f"The model takes: {', '.join(specs)}.")
        unknown = next((name for name in row if name not in specs and name not in others), None)
        if unknown is not None:
            raise refuse(f"The model has no field {unknown[:80]!r}.", f"The model takes: {', '.join(specs)}.")
    return {name: read_column(contract, spec, [memoryview(row[name]) for row in rows]) for name, spec in specs.items()}


def plain(spec: TensorSpec, tensor: Array) -> Any:
    """A tensor as JSON's lists; NaN and infinities become null when it is written."""
    if spec.datatype is Datatype.BYTES:
        texts, _ = json_strings(tensor)
        return np.array(texts, dtype=object).reshape(tensor.shape).tolist()
    return as_numbers(spec.datatype, tensor).tolist()


def _depth(value: bytes | memoryview) -> int:
    """How many lists a JSON value begins with."""
    depth = 0
    for byte in bytes(value[:64]):
        if byte == 0x5B:
            depth += 1
        elif byte not in b" \t\r\n":
            break
    return min(depth, _MAX_DEPTH)


def _row_shape(spec: TensorSpec, row: Any) -> tuple[int, ...]:
    """The shape that one row has, by its nesting; a flat or bare row takes the model's own where that is clear."""
    found: list[int] = []
    while type(row) is list:
        found.append(len(row))
        row = row[0] if row else None
    wanted = spec.shape[1:]
    if len(found) != len(wanted) and len(found) <= 1:
        size = found[0] if found else 1
        free = [place for place, axis in enumerate(wanted) if axis == -1]
        fixed = 1
        for axis in wanted:
            fixed *= max(axis, 1) if axis != -1 else 1
        if len(free) == 0 and fixed == size:
            return wanted
        if len(free) == 1 and size % fixed == 0:
            return tuple(size // fixed if axis == -1 else axis for axis in wanted)
    return tuple(found)
