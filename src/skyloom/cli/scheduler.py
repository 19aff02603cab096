"""``skyloom scheduler``: how the cloud decides whose turn it is."""

from typing import Annotated, Any

import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, cloud, words
from skyloom.cli.render import show
from skyloom.rooms.scheduling.model import Policy, Renting

app = words("The scheduler: policy, preemption, elastic gangs.")


@app.command("show")
def show_(as_json: AsJson = False) -> None:
    """Show how this cloud schedules."""
    with cloud() as client:
        show(client.scheduling.get(), as_json)


@app.command("set")
def set_(
    policy: Annotated[Policy | None, typer.Option("--policy", help="Whose turn it is.")] = None,
    las_limits: Annotated[
        str | None, typer.Option("--las-limits", metavar="A,B,…", help="Borders of the LAS queues, in GPU-seconds.")
    ] = None,
    min_run: Annotated[
        str | None, typer.Option("--min-run", help="Nobody is stopped for others before: 60s, 5min.")
    ] = None,
    half_life: Annotated[
        str | None, typer.Option("--half-life", help="After this long, past use counts half: 7d.")
    ] = None,
    backfill: Annotated[
        bool | None, typer.Option("--backfill/--no-backfill", help="Smaller jobs may overtake.")
    ] = None,
    preempt: Annotated[
        bool | None, typer.Option("--preempt/--no-preempt", help="Jobs may be stopped for others.")
    ] = None,
    elastic: Annotated[bool | None, typer.Option("--elastic/--no-elastic", help="Elastic jobs are resized.")] = None,
    renting: Annotated[Renting | None, typer.Option("--renting", help="When rented machines are used.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change how this cloud schedules: `skyloom scheduler set --policy las --las-limits 3250,7200`."""
    rules: dict[str, Any] = {
        "policy": policy,
        "las_limits_gpu_s": values.numbers(las_limits, "--las-limits") if las_limits else None,
        "min_run_s": values.duration_s(min_run) if min_run else None,
        "half_life_s": values.duration_s(half_life) if half_life else None,
        "backfill": backfill,
        "preempt": preempt,
        "elastic": elastic,
        "renting": renting,
    }
    with cloud() as client:
        show(client.scheduling.set(**{name: value for name, value in rules.items() if value is not None}), as_json)
