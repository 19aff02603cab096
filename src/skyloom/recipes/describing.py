"""Columns described: types, missing and distinct values, ranges, frequent values, a guess at the role."""

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from skyloom.ports.tables import ROW_ID, SHAPE
from skyloom.recipes.spool import Spool
from skyloom.rooms.data import rules
from skyloom.rooms.data.contents import MAX_TOP_VALUES, Column
from skyloom.rooms.data.making import ColumnType

_MAX_TOP_COLUMNS = 500
_MAX_TOP_TEXT = 200
_NUMBERS = {ColumnType.INTEGER, ColumnType.FLOAT}
_COUNTED = {*_NUMBERS, ColumnType.TEXT, ColumnType.BOOLEAN, ColumnType.DATE, ColumnType.TIMESTAMP}


def describe(spool: Spool) -> tuple[Column, ...]:
    """Describe all columns but the row ids."""
    fields = [field for field in spool.schema if field.name != ROW_ID]
    kinds = {field.name: column_type(field) for field in fields}
    facts = _facts(spool, kinds)
    top = _top(spool, [name for name, kind in kinds.items() if _may_have_top(kind, facts[name])][:_MAX_TOP_COLUMNS])
    num_rows = spool.num_rows
    return tuple(_column(field, kinds[field.name], facts[field.name], top, num_rows) for field in fields)


def column_type(field: pa.Field) -> ColumnType:
    """What a stored column holds."""
    kind, types = field.type, pa.types
    if types.is_fixed_size_list(kind):
        is_image = types.is_uint8(kind.value_type) and SHAPE in (field.metadata or {})
        return ColumnType.IMAGE if is_image else ColumnType.VECTOR
    if types.is_binary(kind) or types.is_large_binary(kind):
        return ColumnType.ENCODED_IMAGE if field.name == "image" else ColumnType.BYTES
    tests = {
        ColumnType.BOOLEAN: types.is_boolean,
        ColumnType.INTEGER: types.is_integer,
        ColumnType.FLOAT: types.is_floating,
        ColumnType.DATE: types.is_date,
        ColumnType.TIMESTAMP: types.is_timestamp,
    }
    return next((name for name, test in tests.items() if test(kind)), ColumnType.TEXT)


def _facts(spool: Spool, kinds: dict[str, ColumnType]) -> dict[str, dict[str, Any]]:
    """One streaming query for all columns, and one pass over the pixels."""
    asked: list[pl.Expr] = []
    for name, kind in kinds.items():
        column = pl.col(name)
        asked.append(column.null_count().alias(f"{name}\0num_missing"))
        if kind in _COUNTED:
            asked.append(column.drop_nulls().approx_n_unique().alias(f"{name}\0num_distinct"))
        if kind in _NUMBERS:
            numbers = column.cast(pl.Float64).fill_nan(None)
            asked += [
                numbers.min().alias(f"{name}\0minimum"),
                numbers.max().alias(f"{name}\0maximum"),
                numbers.mean().alias(f"{name}\0mean"),
                numbers.std(ddof=0).alias(f"{name}\0deviation"),
            ]
    facts: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    if asked:
        for key, value in spool.lazy().select(asked).collect(engine="streaming").row(0, named=True).items():
            name, _, fact = key.rpartition("\0")
            facts[name][fact] = value
    for name in (name for name, kind in kinds.items() if kind is ColumnType.IMAGE):
        facts[name] |= _pixel_facts(spool, name)
    return facts


def _pixel_facts(spool: Spool, name: str) -> dict[str, float]:
    count, total, squares, low, high = 0, 0, 0, 255, 0
    for batch in spool.batches():
        pixels = batch.column(name).flatten().to_numpy(zero_copy_only=False)
        if pixels.size:
            frequency = np.bincount(pixels, minlength=256)
            present = np.flatnonzero(frequency)
            low, high = min(low, int(present[0])), max(high, int(present[-1]))
            values = np.arange(256)
            count += pixels.size
            total += int(frequency @ values)
            squares += int(frequency @ values**2)
    if not count:
        return {}
    mean = total / count
    deviation = max(0.0, squares / count - mean**2) ** 0.5
    return {"minimum": low, "maximum": high, "mean": mean, "deviation": deviation}


def _may_have_top(kind: ColumnType, facts: dict[str, Any]) -> bool:
    # The count is an estimate: leave room, the exact number is known after grouping.
    return (
        kind in {ColumnType.TEXT, ColumnType.BOOLEAN, ColumnType.INTEGER}
        and facts["num_distinct"] <= MAX_TOP_VALUES * 1.2
    )


def _top(spool: Spool, names: list[str]) -> dict[str, dict[str, int]]:
    found = {}
    for name in names:
        counts = spool.lazy().select(pl.col(name).drop_nulls().alias("value")).group_by("value").len()
        rows = counts.sort(["len", "value"], descending=[True, False]).collect(engine="streaming")
        if rows.height <= MAX_TOP_VALUES and all(len(str(value)) <= _MAX_TOP_TEXT for value in rows["value"]):
            found[name] = {str(value): int(count) for value, count in rows.iter_rows()}
    return found


def _column(
    field: pa.Field, kind: ColumnType, facts: dict[str, Any], top: dict[str, dict[str, int]], num_rows: int
) -> Column:
    known = {key: value for key, value in facts.items() if value is not None}
    if "num_distinct" in known:
        known["num_distinct"] = min(known["num_distinct"], num_rows)  # it is an estimate
    frequent = top.get(field.name, {})
    if frequent:
        known["num_distinct"] = len(frequent)
    return Column(
        name=field.name,
        type=kind,
        arrow_type=str(field.type),
        nullable=field.nullable,
        shape=value_shape(field),
        role=rules.role(field.name, kind, known.get("num_distinct", 0), num_rows),
        top=frequent,
        **known,
    )


def value_shape(field: pa.Field) -> tuple[int, ...]:
    """The shape of each value of an image or vector column; empty for others."""
    if SHAPE in (field.metadata or {}):
        return msgspec.json.decode(field.metadata[SHAPE], type=tuple[int, ...])
    return (field.type.list_size,) if pa.types.is_fixed_size_list(field.type) else ()
