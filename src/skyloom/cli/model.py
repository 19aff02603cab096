"""``skyloom model``: what can be deployed."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show

app = words("Models: numbered versions with evaluation and provenance.")
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
