"""``skyloom cost``."""

import time
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, Project, cloud, word
from skyloom.cli.render import show
from skyloom.cli.values import duration_s
from skyloom.rooms.cost.model import CostBy

app = word("What was used, and what it cost.")


@app.command()
def cost(
    by: Annotated[CostBy, typer.Option("--by", help="One row for each of these.")] = CostBy.JOB,
    last: Annotated[
        str | None, typer.Option("--last", help="Only this long back: 90s, 2h, 1d.", show_default=False)
    ] = None,
    limit: Limit = 20,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show what the project spent, in parts that add up to the total; tasks that still run count up to now."""
    since = time.time() - duration_s(last) if last else 0.0
    with cloud(project) as client:
        show(client.costs.get(by, max(0.0, since), limit), as_json)
