"""Cleaning steps as lazy queries: what stays, what changes, what was fitted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from skyloom.ports.tables import ROW_ID
from skyloom.recipes.describing import column_type
from skyloom.recipes.reading.typing_columns import ARROW_TYPES, read_as
from skyloom.rooms.data import making, rules
from skyloom.rooms.data.contents import ColumnRole, Scaling
from skyloom.rooms.data.making import SPLIT_COLUMN, ColumnType, Filling, Scale, Step

_NUMBERS = {ColumnType.INTEGER, ColumnType.FLOAT}


@dataclass(frozen=True)
class Plan:
    """One step, ready to run.

    Attributes:
        rows: the rows that stay, as a query; ``schema`` is what they are stored as.
        reason: why the others go.
        num_changed: column → values that are not what they were.
    """

    rows: pl.LazyFrame
    schema: pa.Schema
    reason: str = ""
    num_changed: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    scalings: tuple[Scaling, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """What a step works on. ``fit`` are the rows that numbers are fitted on."""

    schema: pa.Schema
    rows: pl.LazyFrame
    fit: pl.LazyFrame

    def kind(self, name: str) -> ColumnType:
        return column_type(self.schema.field(name))

    def names(self, chosen: Sequence[str], allowed: Callable[[str], bool] = lambda _name: True) -> list[str]:
        """The chosen columns, or all that are allowed."""
        own = [name for name in self.schema.names if name not in (ROW_ID, SPLIT_COLUMN)]
        return list(chosen) or [name for name in own if allowed(name)]

    def numbers(self, chosen: Sequence[str], what: str) -> list[str]:
        """Columns of numbers that are features. Raises `ImpossibleChange` when a chosen one is none, or when there is none."""
        wrong = [name for name in chosen if self.kind(name) not in _NUMBERS]
        if wrong:
            raise rules.ImpossibleChange(
                f"Column {wrong[0]!r} is {self.kind(wrong[0])}; {what} needs numbers.",
                next_action="Cast it first, or name other columns.",
            )
        names = self.names(chosen, lambda name: self.kind(name) in _NUMBERS and self.role(name) is ColumnRole.FEATURE)
        if not names:
            raise rules.ImpossibleChange(f"There is no column of numbers; {what} needs one.", next_action="Cast first.")
        return names

    def role(self, name: str) -> ColumnRole:
        if self.kind(name) not in ARROW_TYPES:
            return ColumnRole.FEATURE
        distinct = self.rows.select(pl.col(name).approx_n_unique(), pl.len().alias("num_rows"))
        counts = distinct.collect(engine="streaming").row(0)
        return rules.role(name, self.kind(name), int(counts[0]), int(counts[1]))


def plan(step: Step, schema: pa.Schema, rows: pl.LazyFrame, fit: pl.LazyFrame) -> Plan:
    """Plan one step. Raises `ImpossibleChange` when the columns do not allow it, `UnknownColumn` when one is gone."""
    gone = sorted(rules.columns_named(making.Clean(steps=(step,))) - set(schema.names))
    if gone:
        raise rules.UnknownColumn(
            f"{name_of(step)}: there is no column {gone[0]!r} any more.", next_action="Change the order of the steps."
        )
    return _PLANS[type(step)](step, _Frame(schema, rows, fit))


def name_of(step: Step) -> str:
    """The step's name in reports."""
    return str(step.__struct_config__.tag)


def _cast(step: making.Cast, frame: _Frame) -> Plan:
    if step.to not in ARROW_TYPES or frame.kind(step.column) in {ColumnType.IMAGE, ColumnType.VECTOR, ColumnType.BYTES}:
        raise rules.ImpossibleChange(
            f"Column {step.column!r} is {frame.kind(step.column)} and cannot become {step.to}.",
            next_action=f"Cast between: {', '.join(ARROW_TYPES)}.",
        )
    value = _converted(pl.col(step.column), frame.kind(step.column), step.to)
    lost = pl.col(step.column).is_not_null() & value.is_null()
    index = frame.schema.get_field_index(step.column)
    schema = frame.schema.set(index, pa.field(step.column, ARROW_TYPES[step.to]))
    rows = frame.rows.filter(~lost) if step.drop_rows else frame.rows
    num_lost = 0 if step.drop_rows else _collected(frame.rows.select(lost.sum()))[0]
    notes = (f"{num_lost} values of {step.column!r} are no {step.to} and are missing now.",) if num_lost else ()
    return Plan(
        rows=rows.with_columns(value.alias(step.column)),
        schema=schema,
        reason=f"{step.column!r} is no {step.to}",
        num_changed={step.column: num_lost},
        notes=notes,
    )


def _converted(column: pl.Expr, before: ColumnType, after: ColumnType) -> pl.Expr:
    if before is ColumnType.TEXT:
        return read_as(column, after)
    if after is ColumnType.INTEGER and before is ColumnType.FLOAT:
        whole = column.is_finite() & (column == column.floor()) & (column.abs() < 2**53)
        return pl.when(whole).then(column).cast(pl.Int64, strict=False)
    targets: dict[ColumnType, Any] = {
        ColumnType.INTEGER: pl.Int64,
        ColumnType.FLOAT: pl.Float64,
        ColumnType.BOOLEAN: pl.Boolean,
        ColumnType.TEXT: pl.String,
        ColumnType.DATE: pl.Date,
        ColumnType.TIMESTAMP: pl.Datetime("us"),
    }
    return column.cast(targets[after], strict=False)


def _deduplicate(step: making.Deduplicate, frame: _Frame) -> Plan:
    # A path names a row and says nothing about its content; with it no two rows would ever be equal.
    names = frame.names(step.columns, lambda name: name != "path" and frame.role(name) is not ColumnRole.IDENTIFIER)
    if not names:
        raise rules.ImpossibleChange(
            "There is no column to compare.", next_action="Name the columns that make rows equal."
        )
    rows = frame.rows.unique(subset=names, keep="first", maintain_order=True)
    return Plan(rows=rows, schema=frame.schema, reason=f"equal to an earlier row in {_some(names)}")


def _drop_missing(step: making.DropMissing, frame: _Frame) -> Plan:
    names = frame.names(step.columns)
    present = pl.all_horizontal(~_is_missing(frame, name) for name in names)
    return Plan(rows=frame.rows.filter(present), schema=frame.schema, reason=f"a missing value in {_some(names)}")


def _fill_missing(step: making.FillMissing, frame: _Frame) -> Plan:
    names = _fillable(step, frame)
    values = dict.fromkeys(names, step.value) if step.method is Filling.CONSTANT else _fitted(step.method, names, frame)
    counts = dict(
        zip(
            names,
            _collected(frame.rows.select(_is_missing(frame, name).sum().alias(name) for name in names)),
            strict=False,
        )
    )
    empty = [name for name in names if values[name] is None and counts[name]]
    if empty:
        raise rules.ImpossibleChange(
            f"Column {empty[0]!r} has no value to take a {step.method} from.",
            next_action="Fill it with a constant, or drop the column.",
        )
    filled = [
        pl.when(_is_missing(frame, name))
        .then(pl.lit(_fitting(frame, name, values[name])))
        .otherwise(pl.col(name))
        .cast(frame.rows.collect_schema()[name])
        .alias(name)
        for name in names
        if counts[name]
    ]
    notes = tuple(f"{name!r}: missing values became {values[name]!r}." for name in names if counts[name])[:200]
    return Plan(rows=frame.rows.with_columns(filled), schema=frame.schema, num_changed=counts, notes=notes)


def _fillable(step: making.FillMissing, frame: _Frame) -> list[str]:
    if step.method in (Filling.MEAN, Filling.MEDIAN):
        return frame.numbers(step.columns, step.method)
    if step.method is Filling.MODE:
        return frame.names(step.columns, lambda name: frame.kind(name) in ARROW_TYPES)
    if step.value is None:
        raise rules.ImpossibleChange("No constant is given to fill with.", next_action="Give a value.")
    names = frame.names(step.columns, lambda name: _takes(frame.kind(name), step.value))
    wrong = [name for name in names if not _takes(frame.kind(name), step.value)]
    if wrong:
        raise rules.ImpossibleChange(
            f"Column {wrong[0]!r} is {frame.kind(wrong[0])} and cannot be filled with {step.value!r}.",
            next_action="Give a value of its type.",
        )
    return names


def _fitted(method: Filling, names: Sequence[str], frame: _Frame) -> dict[str, Any]:
    known = {name: pl.col(name).filter(~_is_missing(frame, name)) for name in names}
    if method is Filling.MODE:
        # Several values may be the most frequent; the smallest is the same one every time.
        return {name: _collected(frame.fit.select(one.mode().min()))[0] for name, one in known.items()}
    asked = [one.mean() if method is Filling.MEAN else one.median() for one in known.values()]
    values = _collected(frame.fit.select(expression.alias(name) for name, expression in zip(names, asked, strict=True)))
    return dict(zip(names, values, strict=True))


def _takes(kind: ColumnType, value: object) -> bool:
    if isinstance(value, bool):
        return kind is ColumnType.BOOLEAN
    if isinstance(value, int):
        return kind in _NUMBERS
    return kind is (ColumnType.FLOAT if isinstance(value, float) else ColumnType.TEXT)


def _fitting(frame: _Frame, name: str, value: Any) -> Any:
    """A value in the column's type: whole columns stay whole, so a mean is rounded."""
    return round(value) if frame.kind(name) is ColumnType.INTEGER and isinstance(value, float) else value


def _drop_outliers(step: making.DropOutliers, frame: _Frame) -> Plan:
    names = frame.numbers(step.columns, "the search for outliers")
    inside = []
    for name in names:
        low, high = _collected(
            frame.fit.select(
                pl.col(name).quantile(0.25, "linear").alias("low"),
                pl.col(name).quantile(0.75, "linear").alias("high"),
            )
        )
        if low is not None and low < high:  # a column that is mostly one value has no middle half to measure by
            room = step.spread * (high - low)
            inside.append(pl.col(name).is_between(low - room, high + room) | pl.col(name).is_null())
    rows = frame.rows.filter(pl.all_horizontal(inside)) if inside else frame.rows
    return Plan(rows=rows, schema=frame.schema, reason=f"an outlier in {_some(names)}")


def _normalise(step: making.Normalise, frame: _Frame) -> Plan:
    names = frame.numbers(step.columns, "normalising")
    scalings = tuple(_scaling(step.scale, name, frame) for name in names)
    scaled = [((pl.col(one.column).cast(pl.Float64) - one.offset) / one.divisor).alias(one.column) for one in scalings]
    schema = frame.schema
    for name in names:
        schema = schema.set(schema.get_field_index(name), pa.field(name, pa.float64()))
    counts = _collected(frame.rows.select(pl.col(name).is_not_null().sum() for name in names))
    return Plan(
        rows=frame.rows.with_columns(scaled),
        schema=schema,
        num_changed=dict(zip(names, counts, strict=True)),
        scalings=scalings,
    )


def _scaling(scale: Scale, name: str, frame: _Frame) -> Scaling:
    column = pl.col(name).cast(pl.Float64).fill_nan(None)
    if scale is Scale.STANDARD:
        asked = (column.mean().alias("offset"), column.std(ddof=0).alias("divisor"))
    else:
        asked = (column.min().alias("offset"), (column.max() - column.min()).alias("divisor"))
    offset, divisor = _collected(frame.fit.select(asked))
    if offset is None:
        raise rules.ImpossibleChange(
            f"Column {name!r} has no value to fit a scale on.", next_action="Fill or drop it first."
        )
    if not (math.isfinite(offset) and math.isfinite(divisor)):
        raise rules.ImpossibleChange(
            f"Column {name!r} holds infinite values, so no scale fits.", next_action="Drop them first."
        )
    # A constant column says nothing: it becomes 0, and nothing is divided by 0.
    return Scaling(column=name, scale=scale, offset=float(offset), divisor=float(divisor) or 1.0)


def _drop_columns(step: making.DropColumns, frame: _Frame) -> Plan:
    schema = pa.schema([one for one in frame.schema if one.name not in step.columns])
    if len(schema) < 2:
        raise rules.ImpossibleChange("No column would be left.", next_action="Keep at least one.")
    return Plan(rows=frame.rows.drop(step.columns), schema=schema)


_PLANS: dict[type, Callable[[Any, _Frame], Plan]] = {
    making.Cast: _cast,
    making.Deduplicate: _deduplicate,
    making.DropMissing: _drop_missing,
    making.FillMissing: _fill_missing,
    making.DropOutliers: _drop_outliers,
    making.Normalise: _normalise,
    making.DropColumns: _drop_columns,
}


def _is_missing(frame: _Frame, name: str) -> pl.Expr:
    is_float = frame.kind(name) is ColumnType.FLOAT
    return pl.col(name).is_null() | pl.col(name).is_nan().fill_null(False) if is_float else pl.col(name).is_null()


def _collected(query: pl.LazyFrame) -> tuple[Any, ...]:
    return query.collect(engine="streaming").row(0)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
