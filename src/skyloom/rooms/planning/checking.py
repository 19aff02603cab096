"""What can be meant by measurements and aims, and what cannot: every refusal says what would do."""

import csv
import io
import math
from collections.abc import Sequence

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.rooms.planning.model import (
    MAX_MEASUREMENTS,
    Aim,
    AimUnclear,
    Measurement,
    MeasurementsUnusable,
)

COLUMNS, OPTIONAL = ("workers", "data_fraction", "seconds"), ("batch_size",)
_NEED = f"The columns are {', '.join(COLUMNS)}, and {OPTIONAL[0]} where it changes; one line a measured run."


def read_csv(text: str) -> tuple[Measurement, ...]:
    """Read measurements. Raises `MeasurementsUnusable`, which names the line."""
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    found = []
    try:
        header = [name.strip() for name in next(lines, [])]
        _check_header(header)
        for cells in lines:
            if any(cell.strip() for cell in cells):
                found.append(_measurement(header, cells, lines.line_num))
    except csv.Error as error:
        raise MeasurementsUnusable(f"Line {lines.line_num} is no CSV: {error}.", next_action=_NEED) from error
    return tuple(found)


def check(measurements: Sequence[Measurement], aim: Aim) -> None:
    """Raise `MeasurementsUnusable` when they cannot tell what was asked, `AimUnclear` when the aim cannot be meant."""
    check_aim(aim)
    if not 2 <= len(measurements) <= MAX_MEASUREMENTS:
        raise MeasurementsUnusable(
            f"There are {len(measurements)} measurements; a plan needs 2 to {MAX_MEASUREMENTS:,}.",
            next_action="Measure at two or more numbers of workers, or leave some out.",
        )
    if len({one.batch_size is None for one in measurements}) > 1:
        raise MeasurementsUnusable(
            "Some measurements name a batch size and others do not.",
            next_action="Name it for all of them, or for none.",
        )
    for place, one in enumerate(measurements, 1):
        for name in ("workers", "data_fraction", "seconds"):
            _check_number(f"Measurement {place}", name, getattr(one, name))
        _bounded(one, MeasurementsUnusable, f"Measurement {place}")


def check_aim(aim: Aim) -> None:
    """Raise `AimUnclear` for a value that is no number, or cannot be meant."""
    for name, value in msgspec.structs.asdict(aim).items():
        if value is None:
            continue
        if not 0 <= value < math.inf or (value == 0 and name not in _MAY_BE_0):
            words = _WORDS.get(name, name.replace("_", " "))
            raise AimUnclear(f"{words[0].upper()}{words[1:]} is {value:g}.", next_action=_meant(name))
    _bounded(aim, AimUnclear, "The plan")
    if aim.min_workers > aim.max_workers:
        raise AimUnclear(
            f"At least {aim.min_workers} and at most {aim.max_workers} workers leaves none.",
            next_action="Give the smaller number first.",
        )


def _bounded(value: Measurement | Aim, error: type[InvalidInput], what: str) -> None:
    """Raise ``error`` for a number beyond the bounds that its type declares; callers in this process were not decoded."""
    try:
        msgspec.convert(msgspec.to_builtins(value), type(value))
    except msgspec.ValidationError as wrong:
        raise error(f"{what} cannot be meant: {wrong}.", next_action="Correct that number.") from wrong


_MAY_BE_0 = {"price_usd_per_worker_hour", "noise_scale_rows"}
_WORDS = {
    "deadline_s": "the deadline (in seconds from now)",
    "budget_usd": "the budget in USD",
    "price_usd_per_worker_hour": "the price of a worker and hour in USD",
    "data_fraction": "the share of the data",
}


def _meant(name: str) -> str:
    if name == "deadline_s":
        return "Give a time that is still to come, for example 2h."
    if name in _MAY_BE_0:
        return "Give a number, 0 or more."
    return "Give a number above 0."


def needs_more(measurements: Sequence[Measurement], aim: Aim) -> bool:
    """True when the measurements say nothing about some number of workers that is asked for."""
    counts = {one.workers for one in measurements}
    fractions = {one.data_fraction for one in measurements}
    if len(counts) > 1:
        return False
    asked_only_that = counts == {aim.min_workers} == {aim.max_workers}
    return not (asked_only_that and (len(fractions) > 1 or fractions == {aim.data_fraction}))


def notes_of(measurements: Sequence[Measurement], aim: Aim, chosen_workers: int) -> tuple[str, ...]:
    """What to know before believing the forecast."""
    counts = sorted({one.workers for one in measurements})
    fractions = {one.data_fraction for one in measurements}
    found = []
    if chosen_workers > 2 * counts[-1]:
        found.append(f"Measured with up to {counts[-1]} workers: what {chosen_workers} do is extrapolated.")
    if len(counts) == 2:
        found.append("With two numbers of workers measured, how communication grows is a guess; the interval says so.")
    if len(fractions) == 1 and fractions != {aim.data_fraction}:
        found.append("All measurements have one data fraction: start-up and work cannot be told apart well.")
    return tuple(found)


def _check_header(header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in (*COLUMNS, *OPTIONAL)]
    missing = [name for name in COLUMNS if name not in header]
    if not any(header):
        raise MeasurementsUnusable("The file is empty.", next_action=_NEED)
    if unknown:
        raise MeasurementsUnusable(f"Unknown column{_s(unknown)}: {', '.join(unknown)}.", next_action=_NEED)
    if missing:
        raise MeasurementsUnusable(f"Missing column{_s(missing)}: {', '.join(missing)}.", next_action=_NEED)
    if len(set(header)) < len(header):
        raise MeasurementsUnusable("A column is there twice.", next_action=_NEED)


def _s(some: Sequence[str]) -> str:
    return "s" if len(some) > 1 else ""


def _measurement(header: Sequence[str], cells: Sequence[str], line: int) -> Measurement:
    if len(cells) != len(header):
        raise MeasurementsUnusable(f"Line {line} has {len(cells)} values, not {len(header)}.", next_action=_NEED)
    numbers: dict[str, float | int | None] = {}
    for name, text in zip(header, cells, strict=True):
        whole = name in {"workers", "batch_size"}
        try:
            number = float(text)
        except ValueError as error:
            raise MeasurementsUnusable(
                f"Line {line}: {name} is {text[:40]!r}, no number.", next_action=_NEED
            ) from error
        _check_number(f"Line {line}", name, number)
        if whole and number != int(number):
            raise MeasurementsUnusable(f"Line {line}: {name} is {text}, not whole.", next_action=_NEED)
        numbers[name] = int(number) if whole else number
    try:
        return msgspec.convert(numbers, Measurement)
    except msgspec.ValidationError as error:
        raise MeasurementsUnusable(f"Line {line} cannot be meant: {error}.", next_action=_NEED) from error


def _check_number(where: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise MeasurementsUnusable(
            f"{where}: {name} is {value:g}.", next_action="Leave that line out, or correct it: it has to be above 0."
        )
