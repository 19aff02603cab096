"""Write docs/reference.md from the lists that the product itself is made from: ``python scripts/reference.py [--check]``.

With ``--check`` it writes nothing and fails when the file is not what it would write.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from skyloom.cli.commands import TABLE
from skyloom.cli.exits import JOB_CODES
from skyloom.core.exit_codes import EXIT_CODES
from skyloom.core.operation import Operation
from skyloom.faces.rest.errors import STATUS
from skyloom.operations import OPERATIONS
from skyloom.settings import SETTINGS

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"
_HEAD = """# Reference

Written by `make reference` from the code; a test fails when it is stale. Every operation below is one REST route, one method of the
Python client with the same two words (`cloud.jobs.submit(…)`), and one line in the audit log when it changes something.
"""


def main(arguments: list[str]) -> int:
    """Write or check the file; returns the exit code."""
    text = reference()
    if "--check" not in arguments:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text)
        return 0
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    print("docs/reference.md is stale: run make reference", file=sys.stderr)
    return 1


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, *_operations(), *_nouns(), *_commands(), *_settings(), *_errors()]
    return "\n".join(parts).rstrip() + "\n"


def _operations() -> Iterator[str]:
    yield "## Operations\n"
    for noun, group in groupby(OPERATIONS, key=lambda kind: kind.route.name.partition(".")[0]):
        yield f"### {noun}\n"
        for kind in group:
            yield from _operation(kind)


def _operation(kind: type[Operation[Any]]) -> Iterator[str]:
    route = kind.route
    yield f"#### {route.name}\n"
    yield f"`{route.verb.value} {route.full_path}` · right `{route.right.value}` · answers {_type(route.answer)}\n"
    yield inspect.cleandoc(kind.__doc__ or "") + "\n"
    yield from _fields(kind)


def _nouns() -> Iterator[str]:
    yield "## Nouns\n"
    found: dict[str, type[msgspec.Struct]] = {}
    for kind in OPERATIONS:
        _collect(kind.route.answer, found)
        for field in msgspec.structs.fields(kind):
            _collect(field.type, found)
    for name in sorted(found):
        yield f"### {name}\n"
        yield _docs(found[name]) + "\n"
        yield from _fields(found[name])


def _collect(kind: Any, found: dict[str, type[msgspec.Struct]]) -> None:
    """Add the nouns that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not get_args(kind):
        if kind.__name__ in found:
            return
        found[kind.__name__] = kind
        for field in msgspec.structs.fields(kind):
            _collect(field.type, found)
    for inner in get_args(kind):
        _collect(inner, found)


def _docs(kind: type) -> str:
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"\nAttributes:\n((?:.+\n?)*)", lambda match: f"\n```text\n{inspect.cleandoc(match[1])}\n```", text)


def _fields(kind: type[msgspec.Struct]) -> Iterator[str]:
    rows = [(field.encode_name, _type(field.type), _default(field)) for field in msgspec.structs.fields(kind)]
    if rows:
        yield _table(("field", "type", "default"), rows)


def _type(kind: Any) -> str:
    """A type in words: its bounds are in /openapi.json."""
    origin, inner = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _type(inner[0])
    if origin is None:
        return "none" if kind is type(None) else str(getattr(kind, "__name__", kind))
    if origin is dict:
        return f"{_type(inner[0])} → {_type(inner[1])}"
    if origin in (tuple, list, frozenset, set):
        return f"list of {_type(inner[0])}"
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return f"{origin.__name__} of {', '.join(map(_type, inner))}"
    if getattr(origin, "__name__", "") == "Literal":
        return " or ".join(repr(value) for value in inner)
    return " or ".join(_type(part) for part in inner)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{msgspec.json.encode(value).decode()}`"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "Every command has `--help`; those that answer something have `--json`.\n"
    yield _table(("command", "what it does"), [(f"`skyloom {row.name}`", row.help) for row in TABLE])


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    rows = [
        (f"`{row.variable}`", f"`{_shown(row.default)}`" if row.default != "" else "", row.help) for row in SETTINGS
    ]
    yield _table(("variable", "default", "what it means"), rows)


def _shown(value: object) -> str:
    return str(value).replace(str(Path.home()), "~")


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "An error has a code, a category, a message that names the thing, and a next action.\n"
    rows = [(category.value, str(STATUS[category]), str(EXIT_CODES[category])) for category in STATUS]
    yield _table(("category", "HTTP status", "exit code"), rows)
    yield "Exit codes of `job run` and `job logs -f` for a job that ended without one of its own; 128 and the number for a signal:\n"
    yield _table(("reason", "exit code"), [(reason.value, str(code)) for reason, code in JOB_CODES.items()])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
