"""``skyloom notebook``: JupyterLab on the cloud's machines, in this machine's browser."""

from typing import Annotated

import typer

from skyloom.cli import exits, values
from skyloom.cli.frame import AsJson, Cpus, Detach, Gpus, Memory, Mounts, Project, Requirements, cloud
from skyloom.cli.render import show, show_error
from skyloom.cli.wording import safe_output
from skyloom.core.errors import NotFound, Unavailable
from skyloom.rooms.jobs.model import JobStatus
from skyloom.sdk import notebook
from skyloom.sdk.client import Client
from skyloom.sdk.jobs import JobFailed
from skyloom.sdk.tunnel import Forward

app = typer.Typer(help="JupyterLab as a job.", add_completion=False, rich_markup_mode=None, invoke_without_command=True)
Name = Annotated[str, typer.Option("--name", help="Of the notebook; one of a name runs at a time.")]
_JUPYTERS_PORT = 8_888


class NotebookMissing(NotFound):
    """No notebook of that name runs."""


@app.callback()
def run(
    context: typer.Context,
    name: Name = "notebook",
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "2GiB",
    mount: Mounts = None,
    requirements: Requirements = None,
    folder: Annotated[
        str,
        typer.Option("--folder", help="Folder for the notebooks, on the machine that runs them.  [default: the job's]"),
    ] = "",
    idle: Annotated[str, typer.Option("--idle", help="It ends after so long without activity.")] = "8h",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="Port here; 0 takes a free one.  [default: 8888]")
    ] = None,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Start JupyterLab as a job, or find the one that runs, and have it answer on this machine until Ctrl-C.

    The job goes on after that: the same command finds it again, `skyloom notebook stop` ends it.
    """
    if context.invoked_subcommand is not None:
        return
    with cloud(project) as client:
        status = notebook.find(client, name)
        if status is None:
            status = notebook.start(
                client,
                name,
                cpus=cpus,
                gpus=gpus,
                memory=values.size(memory),
                mounts=values.mounts(mount or ()),
                requirements=requirements,
                folder=folder,
                idle_s=values.duration_s(idle),
            )
        if detach:
            return show(status, as_json)
        _attend(client, status, name, port)


@app.command()
def stop(name: Name = "notebook", project: Project = None, as_json: AsJson = False) -> None:
    """End the notebook's job. Its files in the job's folder are kept."""
    with cloud(project) as client:
        status = notebook.find(client, name)
        if status is None:
            raise NotebookMissing(f"No notebook {name!r} runs.", next_action="Start one: skyloom notebook.")
        show(client.jobs.cancel(status.job.id), as_json)


def _attend(client: Client, status: JobStatus, name: str, port: int | None) -> None:
    job_id = status.job.id
    typer.echo(f"notebook {name} is {job_id}, {status.state.value}", err=True)
    try:
        found = notebook.address(client, job_id, lambda text: typer.echo(safe_output(text), nl=False, err=True))
    except JobFailed as failure:
        if failure.status is None:
            raise
        show_error(failure)
        raise typer.Exit(exits.of_job(failure.status)) from failure
    forward = _listening(client, job_id, found.port, port)
    typer.echo(f"http://127.0.0.1:{forward.local_port}/lab?token={found.token}")
    typer.echo("Ctrl-C lets go of it; the notebook goes on until: skyloom notebook stop", err=True)
    try:
        forward.serve(show_error)
    finally:
        forward.close()


def _listening(client: Client, job_id: str, there: int, here: int | None) -> Forward:
    """On the port that was asked for; without one on Jupyter's own, or on any that is free."""
    if here is not None:
        return Forward(client, job_id, there, local_port=here)
    try:
        return Forward(client, job_id, there, local_port=_JUPYTERS_PORT)
    except Unavailable:
        return Forward(client, job_id, there)
