"""The generated client: it is valid Python of known types, and speaks to a real replica."""

import ast
import importlib.util

import pytest

from skyloom.rooms.registry.services import ServiceMethod, ServiceParameter, ServiceSpec
from skyloom.sdk.client_text import client_text
from tests.inference.services.workplace import write_service
from tests.inference.serving import TOKEN, running


def loaded(path, text):
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_client_calls_streams_and_is_refused(tmp_path) -> None:
    (tmp_path / "bundle").mkdir()
    manifest = write_service(tmp_path / "bundle")
    module = loaded(tmp_path / "toys_client.py", client_text(manifest.service, "toys"))
    with running(tmp_path) as (_, client, _):
        toys = module.Toys(str(client.base_url), TOKEN)
        assert toys.greet(name="Ada") == "hello Ada"
        assert toys.greet(name="Ada", loud=True) == "HELLO Ada"
        assert toys.echo(content=b"abc") == b"abc"
        assert list(toys.count(to=3)) == [0, 1, 2]
        with pytest.raises(module.ServiceError, match="two is not allowed") as refusal:
            toys.fail(how="value")
        assert refusal.value.status == 422
        with pytest.raises(module.ServiceError, match="half way"):
            list(toys.count(to=5, fail_at=1))


def test_words_of_a_manifest_cannot_become_code() -> None:
    evil = 'x"""\nimport os\n"""'
    spec = ServiceSpec(
        entry="service/a.py",
        class_name="Odd",
        doc=evil,
        methods=(
            ServiceMethod(
                name="ask",
                doc=evil,
                parameters=(ServiceParameter(name="text", annotation="__import__('os')", schema="{}"),),
                returns="str):\n  import os",
            ),
        ),
    )
    tree = ast.parse(client_text(spec, "odd"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"base64", "json", "urllib.error", "urllib.request"}
