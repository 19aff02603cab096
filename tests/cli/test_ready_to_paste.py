"""The line below a deployment is a command that a shell takes as it is."""

import shlex
from types import SimpleNamespace

import pytest

from skyloom.cli import ready_to_paste
from skyloom.cli.ready_to_paste import ask_endpoint, ask_function
from skyloom.core.errors import NotFound
from skyloom.rooms.registry.bundle import RuntimeName
from skyloom.rooms.registry.services import ServiceMethod, ServiceParameter

METHOD = ServiceMethod(
    name="tell", parameters=(ServiceParameter(name="text", annotation="str", schema='{"type":"string"}'),)
)
URL = "http://127.0.0.1:1"


def asked(monkeypatch, example=None, **manifest) -> str:
    made = {"service": None, "runtime": RuntimeName.ONNX, "image": None, **manifest}
    version = SimpleNamespace(manifest=SimpleNamespace(**made))
    client = SimpleNamespace(transport=None, models=SimpleNamespace(version=lambda model, label: version))
    monkeypatch.setattr(ready_to_paste, "example_of", lambda transport, manifest: example)
    return ask_endpoint(client, endpoint())


def endpoint():
    revision = SimpleNamespace(number=1, model="m", version_label="1")
    return SimpleNamespace(revisions=(revision,), endpoint=SimpleNamespace(name="shop", model="m"), url=URL)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"example": {"city": "L'Aquila"}}, ["skyloom", "predict", "shop", '{"city":"L\'Aquila"}']),
        ({"image": object()}, ["skyloom", "predict", "shop", "@picture.png"]),
        ({}, ["skyloom", "predict", "shop", "@rows.json"]),
        ({"service": SimpleNamespace(methods=(METHOD,))}, ["curl", f"{URL}/tell"]),
        ({"runtime": RuntimeName.GGUF}, ["curl", f"{URL}/v1/chat/completions"]),
    ],
)
def test_each_kind_of_model_is_asked_in_its_way(monkeypatch, manifest, words) -> None:
    line = asked(monkeypatch, **manifest)
    assert shlex.split(line)[: len(words)] == words and URL in line


def test_version_that_is_not_known_any_more_leaves_the_line_out() -> None:
    def gone(model: str, label: str) -> None:
        raise NotFound("It is gone.", next_action="Register it.")

    assert ask_endpoint(SimpleNamespace(models=SimpleNamespace(version=gone)), endpoint()) == ""


def test_function_is_called_by_its_entry_where_it_has_several() -> None:
    status = SimpleNamespace(function=SimpleNamespace(name="greet"), methods=(METHOD,))
    assert ask_function(status) == """skyloom function call greet --json '{"text":"hello"}'"""
    status.methods = (METHOD, METHOD)
    assert ask_function(status).startswith("skyloom function call greet:tell ")
    status.methods = ()
    assert ask_function(status) == ""
