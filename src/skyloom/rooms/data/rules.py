"""Pure decisions about datasets."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from skyloom.core.errors import Category, ErrorBody, InvalidInput
from skyloom.rooms.data.contents import Column, ColumnRole
from skyloom.rooms.data.making import SPLIT_COLUMN, Clean, Columns, ColumnType, Format, Making, Split
from skyloom.rooms.data.model import (
    NEWEST,
    DatasetState,
    DatasetVersion,
    Draft,
    DraftState,
    DraftStatus,
    VersionMissing,
)

_SHOWN_BYTES = 32 * 2**20
_SHOWN_BULKY = 20
_SHOWN_CHARACTERS = 1_000
_LABELS = {"label", "labels", "target", "class", "species", "y", "outcome"}
_FORMATS = {
    "csv": Format.CSV,
    "tsv": Format.CSV,
    "parquet": Format.PARQUET,
    "pq": Format.PARQUET,
    "jsonl": Format.JSONL,
    "ndjson": Format.JSONL,
    "png": Format.IMAGES,
    "jpg": Format.IMAGES,
    "jpeg": Format.IMAGES,
    "tar": Format.IMAGES,
}


class UnknownColumn(InvalidInput):
    """A column is named that the version does not have."""


class ImpossibleChange(InvalidInput):
    """The change cannot be made to this version."""


class UnknownFormat(InvalidInput):
    """The files do not say what they are."""


def role(name: str, kind: ColumnType, num_distinct: int, num_rows: int) -> ColumnRole:
    """Guess what a column is for."""
    plain = name.strip().lower()
    if plain == SPLIT_COLUMN and kind is ColumnType.TEXT:
        return ColumnRole.SPLIT
    if plain in _LABELS:
        return ColumnRole.LABEL
    is_key = kind in {ColumnType.TEXT, ColumnType.INTEGER} and num_distinct >= 0.9 * num_rows > 0
    if is_key and (plain in {"id", "key", "uuid", "path"} or plain.endswith(("_id", " id"))):
        return ColumnRole.IDENTIFIER
    return ColumnRole.FEATURE


def format_of(paths: Iterable[str]) -> Format:
    """What files are, by the endings of their names. Raises `UnknownFormat`."""
    names = list(paths)
    found = {_FORMATS.get(name.rpartition(".")[2].lower()) for name in names}
    if Format.IMAGES in found and found <= {Format.IMAGES, Format.CSV}:
        return Format.IMAGES  # the CSV file holds the labels
    if len(found) == 1 and None not in found:
        return Format(found.pop() or "")
    raise UnknownFormat(
        f"The format of {names[0] if names else 'no files'} cannot be told from the names.",
        next_action=f"Name it: {', '.join(Format)}.",
    )


def columns_named(making: Making) -> set[str]:
    """The columns that a change speaks of."""
    if isinstance(making, Split):
        return {making.stratify} if making.stratify else set()
    if isinstance(making, Clean):
        found: set[str] = set()
        for step in making.steps:
            names: Columns = getattr(step, "columns", ()) or (getattr(step, "column", ""),)
            found.update(name for name in names if name)
        return found
    return set()


def check(making: Clean | Split, columns: Iterable[Column]) -> None:
    """Raise `UnknownColumn` or `ImpossibleChange` when a change cannot be made to a version with these columns."""
    known = [column.name for column in columns]
    unknown = sorted(columns_named(making) - set(known))
    if unknown:
        raise UnknownColumn(
            f"There is no column {', '.join(map(repr, unknown))}.",
            next_action=f"The version has: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}.",
        )
    if isinstance(making, Split):
        total = making.train + making.validation + making.test
        if abs(total - 1) > 1e-6 or making.train == 0:
            raise ImpossibleChange(
                f"The shares of train, validation and test add up to {total:g}, with {making.train:g} for train.",
                next_action="Give shares that add up to 1, with some for train.",
            )


def draft_status(draft: Draft, job_ended: str | None) -> DraftStatus:
    """What became of a draft. ``job_ended`` says why its job is over; None while it may still commit."""
    if draft.number is not None:
        return DraftStatus(draft=draft, state=DraftState.DONE)
    if draft.error is not None:
        return DraftStatus(draft=draft, state=DraftState.FAILED, error=draft.error)
    if job_ended is None:
        return DraftStatus(draft=draft, state=DraftState.WORKING)
    error = ErrorBody(
        code="draft_failed",
        category=Category.UNAVAILABLE,
        message=f"The job that makes it ended without a version: {job_ended}.",
        next_action=f"See: skyloom why {draft.job_id}.",
    )
    return DraftStatus(draft=draft, state=DraftState.FAILED, error=error)


def dataset_state(num_versions: int, drafts: Iterable[DraftStatus]) -> DatasetState:
    """What a dataset is good for."""
    if num_versions:
        return DatasetState.READY
    working = any(draft.state is DraftState.WORKING for draft in drafts)
    return DatasetState.CREATING if working else DatasetState.FAILED


def version_of(versions: Sequence[DatasetVersion], reference: str, dataset: str) -> DatasetVersion:
    """The version that ``3``, a tag or ``newest`` means. Raises `VersionMissing`. ``versions`` are in the order they were made."""
    found = [one for one in versions if reference in (str(one.number), *one.tags)]
    if reference == NEWEST and versions:
        found = [versions[-1]]
    if not found:
        known = ", ".join("/".join((str(one.number), *one.tags)) for one in versions[-20:])
        raise VersionMissing(
            f"Dataset {dataset!r} has no version {reference!r}.",
            next_action=f"It has: {known}." if known else f"See what became of it: skyloom data show {dataset}.",
        )
    return found[0]


def rows_shown(columns: Iterable[Column], asked: int) -> int:
    """How many rows may be read to show them: bulky ones fewer, so that a glance never costs gigabytes."""
    row_bytes = sum(math.prod(column.shape) for column in columns if column.shape)
    bulky = any(column.type in (ColumnType.BYTES, ColumnType.ENCODED_IMAGE) for column in columns)
    return max(1, min(asked, _SHOWN_BYTES // max(1, row_bytes), _SHOWN_BULKY if bulky else asked))


def cell(value: Any, shape: Sequence[int] = ()) -> bool | int | float | str | None:
    """One value for people and JSON. Bulk becomes its shape and digest."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes):
        form = "x".join(map(str, shape)) if shape else f"{len(value)} bytes"
        return f"{form} sha256:{hashlib.sha256(value).hexdigest()[:12]}"
    return str(value)
