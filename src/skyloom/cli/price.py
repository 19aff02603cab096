"""``skyloom price``."""

import time
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, cloud, words
from skyloom.cli.render import show
from skyloom.cli.values import duration_s
from skyloom.rooms.cost.prices import Tenure

app = words("Prices: what a pool's resources cost by the hour, from when on.")


@app.command("set")
def set_(
    pool: Annotated[str, typer.Argument(help="A pool; `default` for all without prices of their own.")],
    cpu: Annotated[float | None, typer.Option("--cpu", help="Dollars for one CPU core for an hour.")] = None,
    gpu: Annotated[float | None, typer.Option("--gpu", help="Dollars for one GPU for an hour.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", help="Dollars for one GiB of memory for an hour.")] = None,
    tenure: Annotated[Tenure | None, typer.Option("--tenure", help="How the machines are paid for.")] = None,
    starts: Annotated[
        str | None, typer.Option("--in", help="Valid after this time, not at once: 2h, 7d.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set prices of a pool; what is not named stays as it is. What was used before keeps its price."""
    moment = time.time() + duration_s(starts) if starts else None
    with cloud() as client:
        made = client.prices.set(
            pool,
            cpu_usd_per_hour=cpu,
            gpu_usd_per_hour=gpu,
            memory_gib_usd_per_hour=memory,
            tenure=tenure,
            valid_from=moment,
        )
        show(made, as_json)


@app.command("list")
def list_(
    history: Annotated[bool, typer.Option("--history", help="All that ever were, and those to come.")] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List the prices that are valid now."""
    with cloud() as client:
        show(client.prices.list(history, limit), as_json)
