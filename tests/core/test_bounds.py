"""Every bound holds at its end too: ``$`` alone lets a line feed follow, and a line feed in a name forges a line in a log."""

from typing import Any

import msgspec
import pytest

from skyloom.core import bounds
from skyloom.operations import OPERATIONS
from skyloom.ports import engine
from skyloom.rooms.data.model import Reference, Tag
from skyloom.rooms.serving.plan import ServePlan

SAMPLES = [
    (bounds.Name, "a"),
    (bounds.Id, "a"),
    (bounds.Digest, "sha256:" + "0" * 64),
    (bounds.RelativePath, "a/b"),
    (Reference, "newest"),
    (Tag, "gold"),
]


def patterns(schema: Any) -> list[str]:
    """All patterns anywhere in a JSON schema."""
    if isinstance(schema, dict):
        own = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        return own + [found for part in schema.values() for found in patterns(part)]
    return [found for part in schema for found in patterns(part)] if isinstance(schema, list) else []


@pytest.mark.parametrize(("kind", "text"), SAMPLES)
def test_bounded_text_with_a_line_feed_behind_it_is_refused(kind: Any, text: str) -> None:
    assert msgspec.convert(text, kind) == text
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text + "\n", kind)


def test_pattern_of_any_operation_ends_where_the_text_ends() -> None:
    _, schemas = msgspec.json.schema_components([*OPERATIONS, engine.TaskPlan, ServePlan])
    found = set(patterns(schemas))
    assert len(found) > 8
    assert [one for one in found if one.endswith("$") and one != r"^[^\x00]*$"] == []


def test_operation_that_takes_a_secret_keeps_not_even_a_plain_digest_of_it() -> None:
    named = {"token", "value", "secret", "password"}
    holding = {ask.route.name for ask in OPERATIONS if named.intersection(ask.__struct_fields__)}
    assert holding == {"secrets.set", "pools.add"}
    assert {ask.route.name for ask in OPERATIONS if ask.route.private} >= holding
