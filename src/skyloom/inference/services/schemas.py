"""Which JSON Schemas a language model may be held to: those whose grammar stays small. Pure.

A grammar is built by writing repetitions out, and all running requests share the thread that follows it.
"""

from typing import Any

import msgspec

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_MAX_COUNT = 1_000
_MAX_WRITTEN_OUT = 4_000  # repetitions of the whole schema
_MAX_DEPTH = 30


class SchemaUnfit(Exception):
    """No model is held to this schema; in words."""


def check_schema(text: str) -> None:
    """Raises `SchemaUnfit`."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SchemaUnfit(f"it is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise SchemaUnfit("it is no object")
    if _written_out(schema, 0) > _MAX_WRITTEN_OUT:
        raise SchemaUnfit(f"its lengths and numbers of items add up to more than {_MAX_WRITTEN_OUT}")


def _written_out(part: Any, depth: int) -> int:
    """The repetitions that a part of a schema asks for."""
    if depth > _MAX_DEPTH:
        raise SchemaUnfit(f"it is deeper than {_MAX_DEPTH}")
    if isinstance(part, list):
        return sum(_written_out(one, depth + 1) for one in part)
    if not isinstance(part, dict):
        return 0
    if isinstance(part.get("pattern"), str):
        raise SchemaUnfit("patterns are not done")
    total = 0
    for name in _COUNTS:
        count = part.get(name, 0)
        if isinstance(count, dict):  # a property of this name
            continue
        if not isinstance(count, int) or not 0 <= count <= _MAX_COUNT:
            raise SchemaUnfit(f"{name} is a whole number from 0 to {_MAX_COUNT}")
        total += count
    return total + sum(_written_out(one, depth + 1) for one in part.values())
