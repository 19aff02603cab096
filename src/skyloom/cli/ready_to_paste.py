"""How to ask what was just deployed: one command with an example that fits, and the address."""

import shlex
from pathlib import Path
from typing import Any

import msgspec

from skyloom.cli.wording import safe
from skyloom.core.errors import SkyloomError
from skyloom.rooms.functions.model import FunctionStatus
from skyloom.rooms.registry.bundle import Manifest, RuntimeName
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.sdk.client import Client
from skyloom.sdk.examples import example_call, example_of
from skyloom.settings import Settings

_JSON = " -H 'Content-Type: application/json' -d "


def ask_endpoint(client: Client, status: EndpointStatus) -> str:
    """One line for an endpoint that answers; empty where its newest version is not known any more."""
    newest = max(status.revisions, key=lambda one: one.number)
    try:
        manifest = client.models.version(newest.model or status.endpoint.model, newest.version_label).manifest
        example = example_of(client.transport, manifest)
    except SkyloomError:  # the deployment is there all the same
        return ""
    name, address = shlex.quote(status.endpoint.name), status.url
    if manifest.service is not None:
        method = manifest.service.methods[0]
        return _curl(f"{address}/{method.name}", _arguments(method))
    if manifest.runtime is RuntimeName.GGUF:
        said = {"model": status.endpoint.model, "messages": [{"role": "user", "content": "Hello"}]}
        return _curl(f"{address}/v1/chat/completions", _words(said))
    return f"skyloom predict {name} {_rows(manifest, example)}    (REST: POST {safe(address)}/predict)"


def ask_function(status: FunctionStatus) -> str:
    """One line for a function; empty where nothing of it can be called yet."""
    if not status.methods:
        return ""
    method, name = status.methods[0], shlex.quote(status.function.name)
    entry = "" if len(status.methods) == 1 else f":{method.name}"
    return f"skyloom function call {name}{entry} --json {_arguments(method)}"


def _rows(manifest: Manifest, example: Any) -> str:
    if example is not None:
        return _words(example)
    return "@picture.png" if manifest.image is not None else "@rows.json"


def _arguments(method: ServiceMethod) -> str:
    return _words(example_call(method))


def _words(value: Any) -> str:
    return shlex.quote(safe(msgspec.json.encode(value).decode()))


def _curl(address: str, body: str) -> str:
    return f'curl {safe(address)} -H "Authorization: Bearer {_token()}"{_JSON}{body}'


def _token() -> str:
    """Where a shell finds the token that this command has shown itself."""
    settings = Settings.read()
    if settings.token:
        return "$SKYLOOM_TOKEN"
    file = Path(settings.token_file).expanduser() if settings.token_file else settings.home / "token"
    return f"$(cat {shlex.quote(str(file.absolute()))})"
