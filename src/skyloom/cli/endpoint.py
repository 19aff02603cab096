"""``skyloom endpoint``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.cli.values import duration_s

app = words("Endpoints: models under an address.")
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.")]


@app.command("list")
def list_(
    live: Annotated[bool, typer.Option("--live", help="Only those that were not stopped.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List endpoints, newest first."""
    with cloud(project) as client:
        show(client.endpoints.list(limit, cursor, live), as_json)


@app.command("show")
def show_(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Show an endpoint, its revisions and its replicas."""
    with cloud(project) as client:
        show(client.endpoints.get(endpoint), as_json)


@app.command()
def stop(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Stop an endpoint: its replicas finish what they have. Deploying to its name brings it back."""
    with cloud(project) as client:
        show(client.endpoints.stop(endpoint), as_json)


@app.command()
def monitor(
    endpoint: Name,
    window: Annotated[str, typer.Option("--window", help="How far back, up to 15min: 90s, 5min.")] = "60s",
    num_features: Annotated[int, typer.Option("--features", min=1, max=1_000, help="How many at most.")] = 20,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show its rate, errors, latency, open alerts, and how far live traffic has moved from training, feature by feature."""
    with cloud(project) as client:
        show(client.endpoints.monitor(endpoint, duration_s(window), num_features), as_json)
