"""``skyloom project``: tenants."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, cloud, words
from skyloom.cli.render import show

app = words("Projects: every dataset, job, model and token belongs to one.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, '-'.")], as_json: AsJson = False
) -> None:
    """Make a project."""
    with cloud() as client:
        show(client.projects.create(name), as_json)


@app.command("list")
def list_(limit: Limit = 100, cursor: Cursor = None, as_json: AsJson = False) -> None:
    """List the projects that your token can see."""
    with cloud() as client:
        show(client.projects.list(limit, cursor), as_json)
