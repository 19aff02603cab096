"""``skyloom why ID``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show

app = word("Explain why something is in its state.")


@app.command()
def why(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of a job, task, array, schedule, run, plan, dataset, endpoint, alert or budget.",
        ),
    ],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Explain why something is in its state: the reason, the evidence, what to do next."""
    with cloud(project) as client:
        show(client.overview.why(subject), as_json)
