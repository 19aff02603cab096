"""One list of operations, many faces: each operation is a route, a client method of the same two words, and a heading of the reference."""

import importlib
import importlib.util
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.routing import Route, WebSocketRoute

from skyloom.blobs.memory import MemoryBlobs
from skyloom.cli.commands import TABLE
from skyloom.core.operation import Operation, Verb
from skyloom.faces.rest.app import GUARDED, OPEN, SIGNED, SOCKETS, make_app
from skyloom.operations import OPERATIONS
from skyloom.rooms.tenancy.rules import RIGHTS
from skyloom.sdk.client import Client
from skyloom.settings import SETTINGS
from skyloom.tables.memory import MemoryTables

ROOT = Path(__file__).parents[2]
BY_NAME = pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.route.name)


class NoTransport:
    """A transport that keeps what it was asked."""

    patience_s = 5.0
    project = "default"
    url = ""

    def __init__(self) -> None:
        self.sent: list[Operation[Any]] = []

    def send(self, ask: Operation[Any]) -> Any:
        self.sent.append(ask)
        raise InterruptedError


def all_operations() -> set[type[Operation[Any]]]:
    """Every operation class that any room's model declares."""
    for path in sorted((ROOT / "src" / "skyloom" / "rooms").glob("*/model.py")):
        importlib.import_module(f"skyloom.rooms.{path.parent.name}.model")
    return {kind for kind in Operation.__subclasses__() if kind.__module__.startswith("skyloom.rooms.")}


def test_operations_declared_by_rooms_are_all_in_the_list() -> None:
    declared = {kind for kind in all_operations() if "route" in vars(kind)}
    assert declared == set(OPERATIONS)


def test_operation_names_and_routes_are_unique() -> None:
    assert max(Counter(kind.route.name for kind in OPERATIONS).values()) == 1
    places = Counter((kind.route.verb, re.sub(r"{\w+}", "{}", kind.route.full_path)) for kind in OPERATIONS)
    assert max(places.values()) == 1


@BY_NAME
def test_operation_has_an_answer_type_and_says_what_it_does(kind: type[Operation[Any]]) -> None:
    assert kind.route.answer is not None
    assert kind.__doc__ and kind.__doc__.strip()
    assert re.fullmatch(r"[a-z_]+\.[a-z_]+", kind.route.name)
    fields = {field.name for field in msgspec.structs.fields(kind)}
    assert set(re.findall(r"{(\w+)}", kind.route.path)) <= fields


@BY_NAME
def test_operation_right_is_held_by_some_role(kind: type[Operation[Any]]) -> None:
    assert any(kind.route.right in rights for rights in RIGHTS.values())


@BY_NAME
def test_operation_has_a_client_method_of_the_same_words(kind: type[Operation[Any]]) -> None:
    noun, verb = kind.route.name.split(".")
    client = Client(NoTransport())  # type: ignore[arg-type]
    method = getattr(getattr(client, noun), verb)
    assert inspect.getdoc(method)


@BY_NAME
def test_operation_bounds_every_text_and_number(kind: type[Operation[Any]]) -> None:
    """A string without a length or a number without a limit is a way to fill a disk or a memory."""
    schema = msgspec.json.schema(kind)
    unbounded = sorted(set(loose(schema, schema.get("$defs", {}))))
    assert not unbounded


def loose(schema: dict[str, Any], definitions: dict[str, Any], at: str = "") -> list[str]:
    found: list[str] = []
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [] if f"<{name}>" in at else loose(definitions[name], definitions, f"{at}<{name}>")
    kind = schema.get("type")
    free_text = not {"maxLength", "pattern", "enum", "format", "contentEncoding"} & set(schema)
    if kind == "string" and free_text:
        found.append(at)
    if kind == "integer" and not {"maximum", "exclusiveMaximum"} & set(schema):
        found.append(at)
    for name, part in schema.get("properties", {}).items():
        found += loose(part, definitions, f"{at}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += loose(schema[key], definitions, f"{at}.{key}")
    for part in schema.get("anyOf", ()):
        found += loose(part, definitions, at)
    return found


def test_every_route_of_the_app_stands_in_one_table() -> None:
    app = make_app(
        None,
        MemoryBlobs(),
        OPERATIONS,
        tables=MemoryTables(),
        sessions=None,
        devices=None,
        take_call=None,
        registry=CollectorRegistry(),
    )._app  # type: ignore[arg-type, attr-defined]
    doors: list[tuple[str, str]] = []
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            doors.append(("SOCKET", route.path))
            continue
        assert isinstance(route, Route), f"{route} is a mount: a door in no table"
        methods = route.methods or set()
        # Whoever may read an answer may ask for its head alone.
        doors += [(method, route.path) for method in methods if method != "HEAD" or "GET" not in methods]
    allowed = (
        [("GET", path) for path in OPEN]
        + list(GUARDED)
        + [("POST", path) for path in SIGNED]
        + [("SOCKET", path) for path in SOCKETS]
        + [(kind.route.verb.value, kind.route.full_path) for kind in OPERATIONS]
    )
    assert sorted(doors) == sorted(allowed)
    assert len(set(allowed)) == len(allowed)


@BY_NAME
def test_operation_that_changes_is_no_get(kind: type[Operation[Any]]) -> None:
    looks = kind.route.name.rpartition(".")[2] in {"get", "list", "show", "status", "why", "logs", "result"}
    assert not looks or kind.route.verb is Verb.GET


def test_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "reference.md").read_text()
    assert text == module.reference(), "run: make reference"
    for kind in OPERATIONS:
        assert f"#### {kind.route.name}\n" in text
    for setting in SETTINGS:
        assert f"`{setting.variable}`" in text


def test_every_word_of_the_terminal_has_its_module() -> None:
    assert [row.name for row in TABLE if importlib.util.find_spec(row.module) is None] == []
