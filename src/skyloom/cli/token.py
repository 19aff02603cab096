"""``skyloom token``: who may do what in a project."""

from typing import Annotated

import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.rooms.tenancy.model import Role

app = words("Tokens of a project, each with one role.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.VIEWER,
    lifetime: Annotated[str | None, typer.Option("--lifetime", help="For example 12h or 30d; endless without.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a token. Its secret is shown this once."""
    ttl_s = None if lifetime is None else values.duration_s(lifetime)
    with cloud(project) as client:
        show(client.tokens.create(name, role, ttl_s), as_json)


@app.command("list")
def list_(limit: Limit = 100, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List the tokens of a project, never their secrets."""
    with cloud(project) as client:
        show(client.tokens.list(limit, cursor), as_json)


@app.command()
def revoke(token_id: str, project: Project = None, as_json: AsJson = False) -> None:
    """Make a token useless from now on."""
    with cloud(project) as client:
        show(client.tokens.revoke(token_id), as_json)
