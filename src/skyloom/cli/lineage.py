"""``skyloom lineage``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, Project, cloud, word
from skyloom.cli.render import show

app = word("Follow a prediction back to its rows, or a row forward.")


@app.command()
def lineage(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A prediction, endpoint, revision, model version or run; dataset:NAME[:VERSION]; with --row a dataset.",
        ),
    ],
    row: Annotated[
        int | None, typer.Option("--row", help="Walk forward from this row id of the dataset.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option("--split", help="List the rows of another split than the training's.")] = "",
    after: Annotated[int, typer.Option("--after", help="Go on after this row id.", show_default=False)] = -1,
    limit: Limit = 20,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show where something comes from, down to the rows that trained it. With --row: what came of one row of a dataset."""
    with cloud(project) as client:
        if row is None:
            show(client.lineage.get(subject, split, after, limit), as_json)
        else:
            show(client.lineage.row(subject, row), as_json)
