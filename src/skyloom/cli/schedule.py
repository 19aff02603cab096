"""``skyloom schedule``: jobs that begin by the clock."""

from typing import Annotated

import typer

from skyloom.cli import values
from skyloom.cli.frame import (
    AsJson,
    Command,
    Cpus,
    Cursor,
    Env,
    Gpus,
    Include,
    Limit,
    MaxDuration,
    Memory,
    Project,
    Secret,
    Workers,
    cloud,
    words,
)
from skyloom.cli.render import show
from skyloom.rooms.schedules.model import Missed, Overlap

app = words("Schedules: jobs that begin by the clock.")
ScheduleName = Annotated[str, typer.Argument(metavar="NAME")]


@app.command(context_settings={"allow_interspersed_args": False})
def create(
    name: Annotated[str, typer.Argument(help="Of the schedule.")],
    command: Command,
    cron: Annotated[str, typer.Option("--cron", help="Minute, hour, day, month, weekday: '30 2 * * *'; or @daily.")],
    time_zone: Annotated[str, typer.Option("--time-zone", help="Whose clock: Europe/Berlin.")] = "UTC",
    missed: Annotated[Missed, typer.Option("--missed", help="When slots went by while it was down.")] = Missed.SKIP,
    overlap: Annotated[Overlap, typer.Option("--overlap", help="When the earlier job has not ended.")] = Overlap.SKIP,
    workers: Workers = "1",
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "1GiB",
    retries: Annotated[int, typer.Option("--retries", min=0, help="More attempts when one fails.")] = 0,
    max_duration: MaxDuration = None,
    env: Env = None,
    secret: Secret = None,
    include: Include = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Run a Python script, or any command after `--`, at each slot of a cron line. Options come before NAME."""
    options = values.work(command, max_duration)
    with cloud(project) as client:
        status = client.schedules.create(
            name,
            cron,
            time_zone=time_zone,
            missed=missed,
            overlap=overlap,
            **options,
            include=values.files(include or ()),
            cpus=cpus,
            gpus=gpus,
            memory=values.size(memory),
            num_workers=values.workers(workers),
            max_retries=retries,
            environment=values.variables(env or ()),
            secrets=values.secrets(secret or ()),
        )
        show(status, as_json)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List schedules, newest first."""
    with cloud(project) as client:
        show(client.schedules.list(limit, cursor), as_json)


@app.command("show")
def show_(name: ScheduleName, project: Project = None, as_json: AsJson = False) -> None:
    """Show a schedule, its next slots and its last job."""
    with cloud(project) as client:
        show(client.schedules.get(name), as_json)


@app.command()
def pause(name: ScheduleName, project: Project = None, as_json: AsJson = False) -> None:
    """Begin no more jobs until it is resumed. Safe to repeat."""
    with cloud(project) as client:
        show(client.schedules.pause(name), as_json)


@app.command()
def resume(name: ScheduleName, project: Project = None, as_json: AsJson = False) -> None:
    """Go on from now, with your rights; slots that went by are gone. Safe to repeat."""
    with cloud(project) as client:
        show(client.schedules.resume(name), as_json)


@app.command()
def delete(name: ScheduleName, project: Project = None, as_json: AsJson = False) -> None:
    """Forget a schedule. Jobs that it began go on."""
    with cloud(project) as client:
        show(client.schedules.delete(name), as_json)
