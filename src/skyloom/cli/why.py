"""``skyloom why ID``."""

import contextlib
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show
from skyloom.core.errors import NotFound
from skyloom.rooms.overview.model import Explanation, SubjectMissing
from skyloom.sdk.client import Client

app = word("Explain why something is in its state.")


@app.command()
def why(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of a job, task, array, schedule, run, plan, dataset, endpoint, alert or budget; or an endpoint's name.",
        ),
    ],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Explain why something is in its state: the reason, the evidence, what to do next."""
    with cloud(project) as client:
        show(_explained(client, subject), as_json)


def _explained(client: Client, subject: str) -> Explanation:
    try:
        return client.overview.why(subject)
    except SubjectMissing:
        with contextlib.suppress(NotFound):  # its name, as everywhere else
            return client.overview.why(client.endpoints.get(subject).endpoint.id)
        raise
