"""Text columns become typed ones: a column is what all of its values are. A column that mixes stays text and says so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from skyloom.core.errors import InvalidInput
from skyloom.rooms.data.making import ColumnType

_ORDER = (ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.BOOLEAN, ColumnType.DATE, ColumnType.TIMESTAMP)
# An integer with leading zeros is a code (a postcode, an article number), and more than 18 digits do not fit.
_INTEGER = r"^[+-]?(0|[1-9]\d{0,17})$"
_NUMBER = r"^[+-]?((0|[1-9]\d{0,17})(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?$"
_MOMENT = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?Z?)?$"
_TRUTH = {"true": True, "false": False}
_WIDER = {ColumnType.INTEGER: ColumnType.FLOAT, ColumnType.DATE: ColumnType.TIMESTAMP}
_MIXED_SHARE = 0.5

ARROW_TYPES = {
    ColumnType.INTEGER: pa.int64(),
    ColumnType.FLOAT: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.TEXT: pa.string(),
    ColumnType.DATE: pa.date32(),
    ColumnType.TIMESTAMP: pa.timestamp("us"),
}


class NotAType(InvalidInput):
    """A column cannot be turned into that type."""


def read_as(text: pl.Expr, kind: ColumnType) -> pl.Expr:
    """Values of a text column as ``kind``, one of `ARROW_TYPES`; null where a value is none."""
    text = text.str.strip_chars()
    if kind is ColumnType.INTEGER:
        return pl.when(text.str.contains(_INTEGER)).then(text).cast(pl.Int64, strict=False)
    if kind is ColumnType.FLOAT:
        number = pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    if kind is ColumnType.BOOLEAN:
        return text.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Boolean)
    if kind is ColumnType.DATE:
        return text.str.to_date("%Y-%m-%d", strict=False)
    if kind is ColumnType.TIMESTAMP:
        moment = pl.when(text.str.contains(_MOMENT)).then(text).str.replace("Z$", "").str.replace("T", " ")
        forms = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
        return pl.coalesce(moment.str.to_datetime(form, strict=False, time_unit="us") for form in forms)
    return text


def check_type(column: str, kind: ColumnType) -> None:
    """Raise `NotAType` when text cannot be read as ``kind``."""
    if kind not in ARROW_TYPES:
        raise NotAType(
            f"Column {column!r} is text and cannot become {kind}.", next_action=f"Use one of: {', '.join(ARROW_TYPES)}."
        )


@dataclass
class Guess:
    """What is known of one text column so far: how many values there are, and how many can be read as each type."""

    num_values: int = 0
    readable: dict[ColumnType, int] = field(default_factory=lambda: dict.fromkeys(_ORDER, 0))

    def kind(self) -> ColumnType:
        """The narrowest type that takes every value."""
        whole = [kind for kind in _ORDER if self.num_values and self.readable[kind] == self.num_values]
        return whole[0] if whole else ColumnType.TEXT

    def mixed(self) -> str:
        """Say what the values are when most but not all are of one type; else an empty text."""
        kind = max((ColumnType.FLOAT, ColumnType.DATE, ColumnType.BOOLEAN), key=lambda one: self.readable[one])
        count = self.readable[kind]
        if self.kind() is not ColumnType.TEXT or not self.num_values or count / self.num_values < _MIXED_SHARE:
            return ""
        return f"{count} values can be read as {kind} and {self.num_values - count} cannot"


def missing(column: str, null_tokens: Sequence[str]) -> pl.Expr:
    """True where a text means that there is no value."""
    return pl.col(column).str.strip_chars().is_in(list(null_tokens))


def guess(batches: Iterator[pa.RecordBatch], names: Sequence[str], null_tokens: Sequence[str]) -> dict[str, Guess]:
    """Look at every value of some text columns."""
    guesses = {name: Guess() for name in names}
    for batch in batches:
        frame = pl.DataFrame(batch)
        for name, one in guesses.items():
            values = frame.select(pl.when(~missing(name, null_tokens)).then(pl.col(name)).drop_nulls().alias(name))
            _count(values, name, one)
    return guesses


def _count(values: pl.DataFrame, name: str, one: Guess) -> None:
    left = values.height
    for kind in _ORDER:
        # No text is of two kinds, but for those that a wider kind takes too; so once all are read, nothing is left to try.
        if left and not (one.num_values and one.readable[kind] * 4 < one.num_values):
            count = values.select(read_as(pl.col(name), kind).is_not_null().sum()).item() or 0
            one.readable[kind] += count
            left = 0 if count == values.height else left
            if not left and kind in _WIDER:
                one.readable[_WIDER[kind]] += count
    one.num_values += values.height


def typed(name: str, kind: ColumnType, null_tokens: Sequence[str]) -> pl.Expr:
    """A text column as ``kind``; in text columns only the empty text means that there is no value."""
    if kind is ColumnType.TEXT:
        return pl.when(pl.col(name) != "").then(pl.col(name)).alias(name)
    return pl.when(~missing(name, null_tokens)).then(read_as(pl.col(name), kind)).alias(name)


def arrow_schema(kinds: Mapping[str, ColumnType]) -> pa.Schema:
    """The schema of columns of these types."""
    return pa.schema([pa.field(name, ARROW_TYPES[kind]) for name, kind in kinds.items()])
