"""``skyloom run``: trainings and what they measured."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show

app = words("Training runs.")
RunId = Annotated[str, typer.Argument(metavar="RUN")]


@app.command("list")
def list_(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only those trained on this dataset.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    with cloud(project) as client:
        show(client.runs.list(dataset, limit, cursor), as_json)


@app.command("show")
def show_(run: RunId, project: Project = None, as_json: AsJson = False) -> None:
    """Show a run, its state and its newest measurements."""
    with cloud(project) as client:
        show(client.runs.get(run), as_json)


@app.command()
def metrics(
    run: RunId,
    name: Annotated[str | None, typer.Option("--name", help="One measurement, for example train/loss.")] = None,
    after_step: Annotated[int, typer.Option("--after-step", help="Only what came later.")] = -1,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")] = 10_000,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Print the measurements of a run, in the order they came."""
    with cloud(project) as client:
        found = client.runs.series(run, name, after_step, limit)
        show(found if as_json else found.points, as_json)
