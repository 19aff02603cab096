"""``skyloom array``: one job many times over."""

from typing import Annotated

import typer

from skyloom.cli import exits, values
from skyloom.cli.frame import (
    AsJson,
    Command,
    Cpus,
    Cursor,
    Detach,
    Env,
    Gpus,
    Include,
    Isolated,
    Limit,
    MaxDuration,
    Memory,
    Mounts,
    Project,
    Requirements,
    Secret,
    cloud,
    words,
)
from skyloom.cli.job import After, AfterEnded, Key, after_of
from skyloom.cli.render import progress, show
from skyloom.rooms.arrays.model import MAX_SIZE
from skyloom.sdk.client import Client

app = words("Arrays: one job many times over.")
ArrayId = Annotated[str, typer.Argument(metavar="ARRAY")]


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Command,
    size: Annotated[int, typer.Option("--size", "-n", min=1, max=MAX_SIZE, help="How many jobs.")],
    max_parallel: Annotated[
        int, typer.Option("--max-parallel", min=0, max=MAX_SIZE, help="So many at a time; 0: as there is room.")
    ] = 0,
    name: Annotated[str, typer.Option("--name", help="Shown in lists.")] = "",
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "1GiB",
    retries: Annotated[int, typer.Option("--retries", min=0, help="More attempts for each that fails.")] = 0,
    max_duration: MaxDuration = None,
    env: Env = None,
    secret: Secret = None,
    include: Include = None,
    requirements: Requirements = None,
    isolated: Isolated = False,
    mount: Mounts = None,
    after: After = None,
    after_ended: AfterEnded = None,
    key: Key = None,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Run a Python script, or any command after `--`, once for each index from 0.

    Each job reads SKYLOOM_ARRAY_INDEX and SKYLOOM_ARRAY_SIZE. Exits with 0 when all succeeded, else 1, or 130 when cancelled.
    Ctrl-C only stops following: the array goes on.
    """
    options = values.work(command, max_duration)
    with cloud(project) as client:
        status = client.arrays.run(
            size,
            **options,
            max_parallel=max_parallel,
            key=key,
            include=values.files(include or ()),
            cpus=cpus,
            gpus=gpus,
            memory=values.size(memory),
            name=name,
            max_retries=retries,
            environment=values.variables(env or ()),
            secrets=values.secrets(secret or ()),
            requirements=requirements,
            isolated=isolated,
            mounts=values.mounts(mount or ()),
            after=after_of(after, after_ended),
        )
        if detach:
            return show(client.arrays.get(status.array.id) if key else status, as_json)
        _attend(client, status.array.id, size, as_json)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List arrays, newest first."""
    with cloud(project) as client:
        show(client.arrays.list(limit, cursor), as_json)


@app.command("show")
def show_(array: ArrayId, project: Project = None, as_json: AsJson = False) -> None:
    """Show an array: counts, and the first failures."""
    with cloud(project) as client:
        show(client.arrays.get(array), as_json)


@app.command()
def jobs(
    array: ArrayId,
    live: Annotated[bool, typer.Option("--live", help="Only those that have not ended.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs of an array that were made so far."""
    with cloud(project) as client:
        show(client.jobs.list(limit, cursor, live, array), as_json)


@app.command()
def wait(array: ArrayId, project: Project = None, as_json: AsJson = False) -> None:
    """Follow an array to its end and exit like `array run`."""
    with cloud(project) as client:
        _attend(client, array, client.arrays.get(array).array.size, as_json)


@app.command()
def cancel(array: ArrayId, project: Project = None, as_json: AsJson = False) -> None:
    """Stop every job of an array. Safe to repeat."""
    with cloud(project) as client:
        show(client.arrays.cancel(array), as_json)


def _attend(client: Client, array_id: str, size: int, as_json: bool) -> None:
    try:
        with progress(array_id, size, quiet=as_json) as advance:
            for _ in client.arrays.follow(array_id):
                advance(1)
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe array goes on. Follow it: skyloom array wait {array_id}. Stop it: skyloom array cancel {array_id}.",
            err=True,
        )
        raise
    status = client.arrays.get(array_id)
    show(status, as_json)
    raise typer.Exit(exits.of_array(status))
