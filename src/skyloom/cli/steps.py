"""Cleaning steps and shares in the words of the terminal: ``age=float``, ``city=mode``, ``0.8,0,0.2``."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from skyloom.core.errors import InvalidInput
from skyloom.rooms.data.making import (
    Cast,
    ColumnType,
    Deduplicate,
    DropColumns,
    DropMissing,
    DropOutliers,
    Filling,
    FillMissing,
    Normalise,
    Scale,
    Step,
)

Columns = Annotated[list[str] | None, typer.Option("--drop-column", metavar="COLUMN", help="Leave out; repeat it.")]
Pairs = Annotated[list[str] | None, typer.Option("--cast", metavar="COLUMN=TYPE", help="Change a type; repeat it.")]


class StepUnreadable(InvalidInput):
    """A step on the command line cannot be read."""


def casts(pairs: Iterable[str] | None) -> tuple[Cast, ...]:
    """Read ``column=type`` words. Raises `StepUnreadable`."""
    found = []
    for pair in pairs or ():
        column, _, kind = pair.rpartition("=")
        if not column or kind not in set(ColumnType):
            raise StepUnreadable(f"{pair!r} is no type.", next_action=f"Write COLUMN=TYPE: {', '.join(ColumnType)}.")
        found.append(Cast(column=column, to=ColumnType(kind)))
    return tuple(found)


def fillings(words: Iterable[str] | None) -> tuple[FillMissing, ...]:
    """Read ``mean``, ``age=median`` or ``city=unknown``; what is no method is a constant, a number when it looks like one."""
    found = []
    for word in words or ():
        column, _, what = word.rpartition("=")
        columns = (column,) if column else ()
        if what in set(Filling) - {Filling.CONSTANT}:
            found.append(FillMissing(method=Filling(what), columns=columns))
        else:
            found.append(FillMissing(method=Filling.CONSTANT, columns=columns, value=_value(what)))
    return tuple(found)


def removals(
    drop: Sequence[str] | None, cast: Sequence[Cast], deduplicate: bool, drop_missing: bool, columns: tuple[str, ...]
) -> tuple[Step, ...]:
    """The steps before missing values are filled, in the one order that makes sense."""
    steps: list[Step] = [DropColumns(columns=tuple(drop))] if drop else []
    steps += cast
    steps += [Deduplicate()] if deduplicate else []
    steps += [DropMissing(columns=columns)] if drop_missing else []
    return tuple(steps)


def scalings(outliers: Sequence[str] | None, normalise: Scale | None, columns: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps after missing values are filled."""
    steps: list[Step] = [DropOutliers(columns=tuple(outliers))] if outliers else []
    steps += [Normalise(scale=normalise, columns=columns)] if normalise else []
    return tuple(steps)


def shares(text: str) -> dict[str, Any]:
    """Read ``0.8,0,0.2`` as the shares of train, validation and test. Raises `StepUnreadable`."""
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise StepUnreadable(
            f"{text!r} are no shares.", next_action="Write three numbers that add up to 1: 0.7,0.1,0.2."
        ) from error
    return {"train": train, "validation": validation, "test": test}


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
