"""Types in help as words for people: NUMBER and not ``<float range>``, and nothing behind the name of an argument."""

from pathlib import Path
from typing import Any, get_args, get_origin

from typer.core import TyperArgument, TyperOption

_WORDS = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def plainly(command: Any) -> Any:
    """A command, or a group with all below it, whose help has such words."""
    for below in getattr(command, "commands", {}).values():
        plainly(below)
    for param in command.params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: ""  # type: ignore[method-assign]
        elif isinstance(param, TyperOption) and param.metavar is None and not param.type_descriptor.is_choice:
            param.metavar = _word(param.type_descriptor.annotation)
    return command


def _word(annotation: Any) -> str | None:
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return _WORDS.get(inner)
