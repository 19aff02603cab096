"""Which JSON Schemas a model may be held to."""

import json

import pytest

from skyloom.inference.services.schemas import SchemaUnfit, check_schema


def nested(depth: int) -> dict:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "null"}


def test_schema_of_usual_size_may_be_followed() -> None:
    names = {"pattern": {"type": "string"}, "minLength": {"type": "integer", "maximum": 10**12}}
    check_schema(json.dumps({"type": "object", "properties": names, "required": ["pattern"]}))
    check_schema(json.dumps({"type": "array", "items": {"enum": ["x"] * 100}, "maxItems": 1000}))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("[", "no JSON"),
        ("7", "no object"),
        ("[" * 100_000, "no JSON"),
        (json.dumps({"type": "string", "minLength": 10**9}), "minLength"),
        (json.dumps({"type": "string", "maxLength": 2.5}), "maxLength"),
        (json.dumps({"type": "string", "minLength": -1}), "minLength"),
        (json.dumps({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}), "patterns"),
        (json.dumps({"anyOf": [{"type": "string", "maxLength": 900}] * 5}), "add up"),
        (json.dumps(nested(40)), "deeper"),
    ],
)
def test_schema_whose_grammar_would_be_large_is_refused(schema, why) -> None:
    with pytest.raises(SchemaUnfit, match=why):
        check_schema(schema)
