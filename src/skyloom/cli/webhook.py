"""``skyloom webhook``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.rooms.webhooks.model import NewsKind

app = words("Webhooks: news of a project, sent to an address of yours and signed.")


@app.command()
def create(
    url: Annotated[str, typer.Argument(help="Where to: http or https, on the public internet.")],
    on: Annotated[
        list[NewsKind] | None, typer.Option("--on", help="What to hear of; repeat it.  [default: all]")
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Send news, from now on, to an address. The secret that they are signed with is shown this once."""
    with cloud(project) as client:
        made = client.webhooks.create(url, tuple(on) if on else tuple(NewsKind))
        if made.webhook.last_error:
            typer.echo(f"warning: {made.webhook.last_error} It is asked for again when there are news.", err=True)
        show(made, as_json)


@app.command("list")
def list_(limit: Limit = 100, project: Project = None, as_json: AsJson = False) -> None:
    """List webhooks, what was sent, and why the next is not."""
    with cloud(project) as client:
        show(client.webhooks.list(limit), as_json)


@app.command()
def delete(
    webhook: Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.")],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Send nothing more to an address."""
    with cloud(project) as client:
        show(client.webhooks.delete(webhook), as_json)
