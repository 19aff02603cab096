"""``skyloom cost``."""

import time
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, Project, cloud, word
from skyloom.cli.render import show
from skyloom.cli.values import duration_s
from skyloom.rooms.cost.model import CostBy

app = word("What was used, and what it cost.")
_DAY_S = 86_400


@app.command()
def cost(
    by: Annotated[CostBy, typer.Option("--by", help="One row for each of these.")] = CostBy.JOB,
    since: Annotated[
        str | None, typer.Option("--since", help="Only this long back: 90s, 2h, 7d.", show_default=False)
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="A bar for each day, and where the month is going.")] = False,
    limit: Limit = 20,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show what the project spent, in parts that add up to the total; tasks that still run count up to now.

    A model costs what its training cost and what its replicas cost.
    """
    back_s = duration_s(since) if since else None
    with cloud(project) as client:
        if plot:
            days = 30 if back_s is None else 1 + int(min(399, back_s / _DAY_S))
            show(client.costs.outlook(days), as_json)
        else:
            start = 0.0 if back_s is None else max(0.0, time.time() - back_s)
            show(client.costs.get(by, start, limit), as_json)
