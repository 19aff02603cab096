"""Pure decisions about datasets."""

from collections.abc import Iterable

from skyloom.core.errors import InvalidInput
from skyloom.rooms.data.contents import Column, Role
from skyloom.rooms.data.making import SPLIT_COLUMN, Clean, Columns, ColumnType, Format, Making, Split

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


def role(name: str, kind: ColumnType, num_distinct: int, num_rows: int) -> Role:
    """Guess what a column is for."""
    plain = name.strip().lower()
    if plain == SPLIT_COLUMN and kind is ColumnType.TEXT:
        return Role.SPLIT
    if plain in _LABELS:
        return Role.LABEL
    is_key = kind in {ColumnType.TEXT, ColumnType.INTEGER} and num_distinct >= 0.9 * num_rows > 0
    if is_key and (plain in {"id", "key", "uuid", "path"} or plain.endswith(("_id", " id"))):
        return Role.IDENTIFIER
    return Role.FEATURE


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
