"""``skyloom trigger``."""

from typing import Annotated, Any, TypeVar

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.triggers.model import (
    Happening,
    IssuedTrigger,
    Run,
    RunBatch,
    RunFunction,
    RunTemplateJob,
    TriggerStatus,
)
from skyloom.sdk.client import Client

Told = TypeVar("Told", IssuedTrigger, TriggerStatus)
app = words("Triggers: when this happens, run that.")
TriggerName = Annotated[str, typer.Argument(metavar="NAME")]
_RUN = "function:NAME[/ENTRY] | job-template:NAME[/JOB] | batch:dataset=…,model=…,to=…"


class RunUnreadable(InvalidInput):
    """What is to be run cannot be read."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Of the trigger.")],
    on: Annotated[Happening, typer.Option("--on", help="What to wait for.")],
    run: Annotated[str, typer.Option("--run", metavar=_RUN, help="What to run then.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FIELD=VALUE", help="Only then; VALUE* for a beginning; repeat it."),
    ] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="With --on cron: '30 2 * * *', or @daily.")] = None,
    time_zone: Annotated[str, typer.Option("--time-zone", help="Whose clock: Europe/Berlin.")] = "UTC",
    most: Annotated[int, typer.Option("--max-per-hour", min=1, help="One that runs away is paused.")] = 600,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Run something whenever something happens, from now on, with the rights of your token and no longer than it has them.

    With --on http the answer has a secret, shown this once: calls of the address are signed with it.
    """
    what = run_of(run)
    filters = values.labels(where or (), "--where")
    with cloud(project) as client:
        made = client.triggers.create(name, on, what, where=filters, cron=cron, time_zone=time_zone, max_per_hour=most)
        show(_with_address(client, made), as_json)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List triggers, newest first."""
    with cloud(project) as client:
        show(client.triggers.list(limit, cursor), as_json)


@app.command("show")
def show_(name: TriggerName, project: Project = None, as_json: AsJson = False) -> None:
    """Show a trigger and its newest deliveries."""
    with cloud(project) as client:
        show(_with_address(client, client.triggers.get(name)), as_json)


@app.command()
def pause(name: TriggerName, project: Project = None, as_json: AsJson = False) -> None:
    """Run nothing more until it is resumed; what happens meanwhile waits. Safe to repeat."""
    with cloud(project) as client:
        show(client.triggers.pause(name), as_json)


@app.command()
def resume(
    name: TriggerName,
    skip: Annotated[bool, typer.Option("--skip", help="Pass over what has happened meanwhile.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Go on where it was, from now on with the rights of your token. Safe to repeat."""
    with cloud(project) as client:
        show(client.triggers.resume(name, skip=skip), as_json)


@app.command()
def redeliver(
    name: TriggerName,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Of the delivery, as show has it.")],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Deliver again what was refused, or send its dead letter again."""
    with cloud(project) as client:
        show(client.triggers.redeliver(name, number), as_json)


@app.command()
def delete(name: TriggerName, project: Project = None, as_json: AsJson = False) -> None:
    """Forget a trigger. What it began goes on."""
    with cloud(project) as client:
        show(client.triggers.delete(name), as_json)


def _with_address(client: Client, told: Told) -> Told:
    """The whole address of a trigger that waits for calls, as this terminal reaches the cloud."""
    return msgspec.structs.replace(told, hook=client.transport.url + told.hook) if told.hook else told


def run_of(text: str) -> Run:
    """Read what is to be run. Raises `RunUnreadable`."""
    kind, _, rest = text.partition(":")
    name, _, part = rest.partition("/")
    try:
        if kind == "function":
            return msgspec.convert({"type": kind, "function": name, "method": part}, RunFunction)
        if kind == "job-template":
            return msgspec.convert({"type": kind, "template": name, "job": part or None}, RunTemplateJob)
        if kind == "batch":
            order: dict[str, Any] = values.labels(rest.split(","), "--run batch:")
            return RunBatch(order=msgspec.convert(order, BatchOrder))
    except msgspec.ValidationError as error:
        raise RunUnreadable(f"{text!r} cannot be run: {error}.", next_action=f"Write: {_RUN}") from error
    raise RunUnreadable(f"{text!r} is nothing that a trigger runs.", next_action=f"Write: {_RUN}")
