"""Words on the command line that mean a value: durations, sizes, variables, files to take along."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skyloom.core.errors import InvalidInput
from skyloom.core.resources import parse_bytes
from skyloom.rooms.secrets.model import SecretUse
from skyloom.sdk.files import LocalFileMissing, below

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


class UnreadableOption(InvalidInput):
    """An option's value cannot be read."""


def machine_words(
    option: str,
    text: str,
    what: str,
    needed: Sequence[str],
    others: Sequence[str],
    hint: str,
    refusal: type[InvalidInput],
) -> dict[str, str]:
    """Read ``cpus=8,memory=64GiB`` as words and their values. Raises ``refusal`` for a word that is strange, missing or said twice."""
    pairs = [part.partition("=") for part in text.split(",")]
    given = {name.strip(): value.strip() for name, _, value in pairs}
    strange, missing = sorted(given.keys() - {*needed, *others}), [name for name in needed if name not in given]
    if strange:
        raise refusal(f"{option} {text!r}: {what} has no {', '.join(strange)}.", next_action=hint)
    if missing:
        raise refusal(f"{option} {text!r} lacks {' and '.join(missing)}.", next_action=hint)
    if len(given) < len(pairs):
        raise refusal(f"{option} {text!r} says a word twice.", next_action=hint)
    return given


def duration_s(text: str) -> float:
    """Read ``90``, ``90s``, ``15min``, ``2h`` or ``1d`` as seconds. Raises `UnreadableOption`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip().lower())
    if match is None:
        raise UnreadableOption(
            f"{text!r} is not a duration.", next_action="Write a number and a unit: 90s, 15min, 2h or 1d."
        )
    return float(match[1]) * _UNITS[match[2] or "s"]


def deadline(text: str) -> dict[str, float]:
    """Read ``2h`` as ``deadline_s``, and a moment like ``2030-01-31T18:00`` (here, where it names no zone) as ``deadline_at``.

    Raises `UnreadableOption`, also for what is past.
    """
    try:
        if "-" not in text[1:]:
            left_s = duration_s(text.removeprefix("-")) * (-1 if text.startswith("-") else 1)
            found = {"deadline_s": left_s}
        else:
            at = datetime.fromisoformat(text).astimezone(UTC)
            left_s, found = (at - datetime.now(UTC)).total_seconds(), {"deadline_at": at.timestamp()}
    except (UnreadableOption, ValueError, OverflowError) as error:
        raise UnreadableOption(
            f"{text!r} is neither a duration nor a date.", next_action="Write 2h, or 2026-01-31T18:00."
        ) from error
    if left_s <= 0:
        raise UnreadableOption(
            f"The deadline {text} is in the past.",
            next_action="Give --deadline a time that is still to come, for example 2h.",
        )
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Read ``3250,7200``. Raises `UnreadableOption`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UnreadableOption(
            f"{option} {text!r} is no list of numbers.", next_action=f"Write {option} 3250,7200."
        ) from error


def workers(text: str) -> tuple[int, int]:
    """Read ``4`` or, for an elastic gang, ``1-8``; the second number is 0 for a gang of one size. Raises `UnreadableOption`."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    if match is None or not int(match[1]):
        raise UnreadableOption(
            f"{text!r} is no number of workers.", next_action="Write a number, or a smallest and a largest: 4, 1-8."
        )
    return int(match[1]), int(match[2] or 0)


def work(command: list[str], max_duration: str | None) -> dict[str, Any]:
    """What ``SCRIPT.py ARGS…`` or ``-- COMMAND ARGS…`` asks for, as options of `JobCalls.run`. Raises `UnreadableOption`."""
    words = command[1:] if command[0] == "--" and len(command) > 1 else command
    told: dict[str, Any] = {"command": words}
    if words[0].endswith(".py"):
        told = {"script": Path(words[0]), "args": words[1:]}
    return told if max_duration is None else {**told, "max_duration_s": duration_s(max_duration)}


def size(text: str) -> str:
    """Check ``512MiB`` and give it back. Raises `UnreadableOption`."""
    try:
        parse_bytes(text)
    except ValueError as error:
        raise UnreadableOption(f"{error}.", next_action="Write a number and a unit: 512MiB, 2GiB.") from error
    return text


def renamed(pairs: Iterable[str], option: str = "--column") -> dict[str, str]:
    """Read ``TAKEN=COLUMN`` words; names may hold anything but ``=``. Raises `UnreadableOption`."""
    found = {}
    for pair in pairs:
        taken, _, column = pair.partition("=")
        if not taken or not column:
            raise UnreadableOption(
                f"{option} {pair!r} is no TAKEN=COLUMN.", next_action=f"Write {option} 'sepal length=a'."
            )
        found[taken] = column
    return found


def variables(pairs: Iterable[str], option: str = "--env") -> dict[str, str]:
    """Read ``NAME=value`` words. Raises `UnreadableOption`."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UnreadableOption(f"{option} {pair!r} is no NAME=value.", next_action=f"Write {option} NAME=value.")
        found[name] = value
    return found


def labels(pairs: Iterable[str], option: str) -> dict[str, str]:
    """Read ``site=a`` words. Raises `UnreadableOption`."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise UnreadableOption(f"{option} {pair!r} is no NAME=VALUE.", next_action=f"Write {option} site=a.")
        if name in found:
            raise UnreadableOption(f"{option} {name} is given twice.", next_action="Give each label one value.")
        found[name] = value
    return found


def shares(text: str, option: str) -> tuple[int, ...]:
    """Read ``10,50,100``, in percent. Raises `UnreadableOption`."""
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 100 for part in parts):
        raise UnreadableOption(f"{option} {text!r} is no list of percent.", next_action=f"Write {option} 10,50,100.")
    return tuple(map(int, parts))


def mounts(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``data=dataset:digits:3`` words; without a name, the subject's own. Raises `UnreadableOption`."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, subject = pair.rpartition("=")
        kind, _, rest = subject.partition(":")
        name = name if equals else rest.partition(":")[0]
        if kind not in ("dataset", "model") or not rest or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
            raise UnreadableOption(
                f"--mount {pair!r} is no folder and its contents.",
                next_action="Write --mount data=dataset:NAME:VERSION, or --mount old=model:NAME:VERSION.",
            )
        if name in found:
            raise UnreadableOption(f"Two mounts are called {name!r}.", next_action="Give each a name of its own.")
        found[name] = subject
    return found


def secrets(uses: Iterable[str]) -> tuple[SecretUse, ...]:
    """Read ``NAME`` (a file) and ``NAME=VARIABLE`` words. Raises `UnreadableOption`."""
    found = []
    for word in uses:
        name, equals, variable = word.partition("=")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
            raise UnreadableOption(
                f"--secret: {name!r} is no name of a secret.",
                next_action="Write --secret NAME, or --secret NAME=VARIABLE; names have lower-case letters, digits and dashes.",
            )
        if equals and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise UnreadableOption(
                f"--secret {name}: {variable!r} is no name of a variable.",
                next_action="Use letters, digits and _, no digit first: --secret NAME=VARIABLE.",
            )
        found.append(SecretUse(name=name, variable=variable or None))
    return tuple(found)


def files(paths: Iterable[Path]) -> dict[str, Path]:
    """Files and folders to take along, as path in the job → path here; paths below this folder keep their shape.

    Raises `LocalFileMissing`.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise LocalFileMissing(f"There is no {path}.", next_action="Check the path after --include.")
        there = path.resolve()
        name = there.relative_to(Path.cwd()).as_posix() if there.is_relative_to(Path.cwd()) else there.name
        if path.is_dir():
            prefix = "" if name == "." else f"{name}/"
            found |= {f"{prefix}{inner}": file for inner, file in below(path, ("**/*",)).items()}
        else:
            found[name] = path
    return found
