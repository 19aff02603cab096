"""``skyloom alert``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.rooms.monitoring.model import AlertState

app = words("Alerts: trouble at an endpoint, or a budget that runs out, from when it began until it is over.")


@app.command("list")
def list_(
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only of this one: its name or id.")] = None,
    state: Annotated[AlertState | None, typer.Option("--state", help="Only in this state.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first."""
    with cloud(project) as client:
        show(client.alerts.list(endpoint, state, cursor, limit), as_json)


@app.command()
def acknowledge(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Its id.")],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Say that you have seen it."""
    with cloud(project) as client:
        show(client.alerts.acknowledge(alert), as_json)
