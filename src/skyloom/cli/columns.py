"""How a noun is shown: columns of lists and pairs of pages, each a heading and what to write. Data, not code."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from skyloom.cli.wording import human, label


class View(msgspec.Struct, frozen=True):
    """A page about one noun: pairs, then parts under headings."""

    pairs: Sequence[tuple[str, str]]
    parts: Sequence[tuple[str, object]]


class Column(msgspec.Struct, frozen=True):
    """One column of a list, or one pair of a page: a heading and what to write for a noun. ``path`` is empty for a drawn one."""

    heading: str
    write: Callable[[Any], str]
    path: str = ""


def of(path: str, heading: str | None = None) -> Column:
    """A column that shows an attribute, or an attribute of an attribute: ``job.spec.name``."""
    last = path.split(".")[-1]
    return Column(heading or label(last), lambda noun: human(last, attribute(noun, path)), path)


def attribute(noun: object, path: str) -> Any:
    """An attribute of an attribute; None as soon as one of them is."""
    for name in path.split("."):
        noun = getattr(noun, name, None)
    return noun
