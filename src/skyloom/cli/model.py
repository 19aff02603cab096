"""``skyloom model``: what can be deployed."""

from pathlib import Path
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import TextLimits
from skyloom.sdk.client_text import client_text

app = words("Models: numbered versions with evaluation and provenance.")


class NoService(InvalidInput):
    """A client is made of a service's endpoints; a model has none."""


Name = Annotated[str, typer.Argument(metavar="MODEL")]


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List models, newest first."""
    with cloud(project) as client:
        show(client.models.list(limit, cursor), as_json)


@app.command("show")
def show_(
    model: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="VERSION is a number or an alias.")],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show a model with its versions, or one version whole."""
    name, _, reference = model.partition(":")
    with cloud(project) as client:
        show(client.models.version(name, reference) if reference else client.models.get(name), as_json)


@app.command()
def register(
    model: Name,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="model.onnx, .tflite, .pt2 or .gguf; or graph.toml, of registered models."),
    ],
    description: Annotated[str, typer.Option("--description", help="One line for people.")] = "",
    context_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Of a .gguf: tokens of all running requests together; its own, at most 8192, if 0."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(min=1, max=64, help="Of a .gguf: requests that run together; 4 unless said.")
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Register a model file as a model's next version. Estimators: skyloom.recipes.registering.register_estimator, from Python."""
    # The file's own engine reads it; the rest does not pay for one.
    from skyloom.recipes.registering import register_file

    text = None
    if context_tokens is not None or at_once is not None:
        text = TextLimits(context_tokens=context_tokens or 0, num_at_once=at_once or 4)
    with cloud(project) as here:
        show(register_file(here, model, file, description=description, text=text), as_json)


@app.command()
def client(
    model: Annotated[str, typer.Argument(metavar="SERVICE[:VERSION]", help="VERSION is a number or an alias.")],
    project: Project = None,
) -> None:
    """Write a typed Python client of a service to the terminal: skyloom model client mood > mood_client.py."""
    name, _, reference = model.partition(":")
    with cloud(project) as here:
        spec = here.models.version(name, reference or "newest").manifest.service
    if spec is None:
        raise NoService(
            f"{name} is a model, not a service.",
            next_action="Ask it with: skyloom predict. A language model answers OpenAI's clients, at its url and /v1.",
        )
    typer.echo(client_text(spec, name), nl=False)


@app.command()
def alias(
    model: Name,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="For example champion.")],
    number: Annotated[int, typer.Argument(metavar="VERSION", min=1)],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version."""
    with cloud(project) as client:
        show(client.models.alias(model, alias, number), as_json)
