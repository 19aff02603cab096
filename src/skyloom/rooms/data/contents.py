"""What a version holds, and what was lost on the way to it: columns, statistics, losses with their examples, fitted scales."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Digest
from skyloom.rooms.data.making import ColumnName, ColumnType, Scale

MAX_EXAMPLES = 10
MAX_TOP_VALUES = 50


class ColumnRole(enum.StrEnum):
    """A guess at what a column is for."""

    FEATURE = "feature"
    LABEL = "label"
    IDENTIFIER = "identifier"
    SPLIT = "split"


class Column(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One column.

    Attributes:
        arrow_type: how it is stored, in Arrow's words.
        shape: of each value of an image or vector column.
        role: a hint, from name and content.
        num_missing, num_distinct: the second is an estimate above some thousands; 0 where it was not counted.
        minimum, maximum, mean, deviation: of numbers; for images over all pixels.
        top: the most frequent values of columns with few, with their counts.
    """

    name: ColumnName
    type: ColumnType
    arrow_type: Annotated[str, Meta(max_length=400)]
    nullable: bool = True
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)] = ()
    role: ColumnRole = ColumnRole.FEATURE
    num_missing: Count = 0
    num_distinct: Count = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    top: Annotated[dict[str, Count], Meta(max_length=MAX_TOP_VALUES)] = {}


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row that was lost.

    Attributes:
        source: file it came from.
        line: line of that file, from 1.
        row_id: stable id, for rows that were in an earlier version.
        text: the raw row or the value, cut.
    """

    source: Annotated[str, Meta(max_length=300)] = ""
    line: Count | None = None
    row_id: Count | None = None
    text: Annotated[str, Meta(max_length=400)] = ""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were left out for one reason."""

    reason: Annotated[str, Meta(max_length=400)]
    num_rows: Count
    examples: Annotated[tuple[Example, ...], Meta(max_length=MAX_EXAMPLES)] = ()


class StepReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one step did.

    Attributes:
        losses: why rows are gone; their sum is ``rows_in - rows_out``.
        num_changed: column → values that are not what they were.
        notes: what a person should know.
    """

    step: Annotated[str, Meta(max_length=200)]
    rows_in: Count
    rows_out: Count
    losses: Annotated[tuple[Loss, ...], Meta(max_length=200)] = ()
    num_changed: Annotated[dict[str, Count], Meta(max_length=10_000)] = {}
    notes: Annotated[tuple[Annotated[str, Meta(max_length=1_000)], ...], Meta(max_length=200)] = ()


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """What was fitted for one column: a value x became ``(x - offset) / divisor``. Serving must do the same, in this order."""

    column: ColumnName
    scale: Scale
    offset: float
    divisor: float


class Contents(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a version holds and how it came to be so.

    Attributes:
        digest: of all values in their order, without row ids (`skyloom.tables.rows.ContentDigest`).
        scalings: all that were applied since the source files, oldest first.
        num_rejects: source rows that are not in the version; ``rejects`` names the blob (JSON lines) that keeps them.
    """

    num_rows: Count
    columns: Annotated[tuple[Column, ...], Meta(max_length=10_000)]
    digest: Digest
    reports: Annotated[tuple[StepReport, ...], Meta(max_length=100)] = ()
    scalings: Annotated[tuple[Scaling, ...], Meta(max_length=10_000)] = ()
    num_rejects: Count = 0
    rejects: Digest | None = None
