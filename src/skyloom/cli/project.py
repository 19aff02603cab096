"""``skyloom project``: tenants."""

from typing import Annotated

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, Cursor, Limit, cloud, words
from skyloom.cli.render import show
from skyloom.core.resources import NOTHING, parse_bytes
from skyloom.rooms.scheduling.model import Allotment
from skyloom.sdk.client import Client

app = words("Projects: every dataset, job, model and token belongs to one.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, '-'.")], as_json: AsJson = False
) -> None:
    """Make a project."""
    with cloud() as client:
        show(client.projects.create(name), as_json)


@app.command("list")
def list_(limit: Limit = 100, cursor: Cursor = None, as_json: AsJson = False) -> None:
    """List the projects that your token can see."""
    with cloud() as client:
        show(client.projects.list(limit, cursor), as_json)


@app.command()
def quota(
    name: Annotated[str, typer.Argument(metavar="PROJECT")],
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="Guaranteed CPU cores.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="Guaranteed GPUs.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Guaranteed memory.")] = None,
    max_cpus: Annotated[float | None, typer.Option("--max-cpus", min=0, help="Never more CPU cores than this.")] = None,
    max_gpus: Annotated[int | None, typer.Option("--max-gpus", min=0, help="Never more GPUs than this.")] = None,
    max_memory: Annotated[str | None, typer.Option("--max-memory", help="Never more memory than this.")] = None,
    weight: Annotated[float | None, typer.Option("--weight", help="Its share of what is contended.")] = None,
    none: Annotated[
        bool, typer.Option("--none", help="No guarantee, no ceiling, weight 1; before the others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show or change what a project is guaranteed, may hold at most, and weighs; what is not named stays as it is.

    While others leave its guarantee idle, it is lent; when the project asks, it is given back.
    """
    with cloud() as client:
        found = client.quotas.get(name)
        before = None if none else found.quota
        guaranteed = _allotment(before.guaranteed if before else None, cpus, gpus, memory)
        ceiling = _allotment(before.ceiling if before else None, max_cpus, max_gpus, max_memory)
        heavier = weight if weight is not None else (before.weight if before else 1.0)
        asked = (cpus, gpus, memory, max_cpus, max_gpus, max_memory, weight)
        if none or any(value is not None for value in asked):
            found = client.quotas.set(name, guaranteed=guaranteed, ceiling=ceiling, weight=heavier)
            _warn_of_more_than_there_is(client, guaranteed)
        show(found, as_json)


def _warn_of_more_than_there_is(client: Client, guaranteed: Allotment | None) -> None:
    """A guarantee may be given before the machines come; but nobody should take it for one that holds now."""
    if guaranteed is None:
        return
    there = sum((status.total for status in client.pools.list(1_000).items), NOTHING)
    for unit, wanted, has in (
        ("CPUs", guaranteed.cpus, there.cpus),
        ("GPUs", guaranteed.gpus, there.gpus),
        ("bytes of memory", guaranteed.memory_bytes, there.memory_bytes),
    ):
        if wanted is not None and wanted > has:
            typer.echo(
                f"warning: {wanted:,g} {unit} are guaranteed, but all machines together have {has:,g}.", err=True
            )


def _allotment(before: Allotment | None, cpus: float | None, gpus: int | None, memory: str | None) -> Allotment | None:
    """What was allotted before, with what is named changed."""
    named = {"cpus": cpus, "gpus": gpus, "memory_bytes": parse_bytes(values.size(memory)) if memory else None}
    given = {key: value for key, value in named.items() if value is not None}
    return msgspec.structs.replace(before or Allotment(), **given) if given else before
