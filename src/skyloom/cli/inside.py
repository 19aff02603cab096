"""``skyloom job exec`` and ``skyloom job port-forward``: into a job while it runs.

`skyloom.sdk.tunnel` is imported where it is used: its WebSockets cost 0.1 s, which the other commands about jobs do not pay.
"""

import re
import sys
from typing import Annotated

import typer

from skyloom.cli import terminal
from skyloom.cli.frame import Project, cloud
from skyloom.cli.values import UnreadableOption
from skyloom.core.errors import SkyloomError
from skyloom.sdk.client import Client

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or as much of its beginning as no other has.")]
Rank = Annotated[int, typer.Option("--rank", min=0, help="Which worker of the gang.")]
_SIGNALLED = 128


def exec_(
    job: JobId,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND [ARGS]…", show_default=False)] = None,
    rank: Rank = 0,
    terminal_wanted: Annotated[
        bool | None, typer.Option("--tty/--no-tty", help="A terminal for the command.  [default: when this is one]")
    ] = None,
    project: Project = None,
) -> None:
    """Run a command inside of a running job: among its processes, with its variables, under its limits.

    Exits with the command's code. Options stand before the `--`: `skyloom job exec JOB --rank 1 -- bash`.
    """
    interactive = terminal.is_interactive() if terminal_wanted is None else terminal_wanted
    if not command:
        raise UnreadableOption(
            "There is no command to run.", next_action="Write it after --: skyloom job exec JOB -- ls"
        )
    with cloud(project) as client:
        raise typer.Exit(_run(client, job, command, rank, interactive))


def _run(client: Client, job: str, command: list[str], rank: int, interactive: bool) -> int:
    from skyloom.sdk.tunnel import open_tunnel, resized, run_inside

    size = terminal.size() if interactive else None
    session = client.jobs.exec(job, command, rank=rank, terminal=size)
    with open_tunnel(client.transport, session) as tunnel:
        if interactive and sys.stdin.isatty():
            with terminal.lent(lambda now: resized(tunnel, now)):
                end = run_inside(tunnel, terminal.keys, sys.stdout.buffer, sys.stderr.buffer)
        else:
            end = run_inside(tunnel, terminal.keys, sys.stdout.buffer, sys.stderr.buffer)
    if end.signal is not None:
        return _SIGNALLED + end.signal
    return end.exit_code or 0


def port_forward(
    job: JobId,
    port: Annotated[str, typer.Argument(metavar="[LOCAL:]PORT", help="The port here, and the one in the job.")],
    rank: Rank = 0,
    project: Project = None,
) -> None:
    """Have a port of a running job listen on this machine, on loopback only, until Ctrl-C."""
    from skyloom.sdk.tunnel import Forward

    here, there = _ports(port)
    with cloud(project) as client:
        job = client.jobs.get(job).job.id  # whole: the beginning that was typed may fit more jobs later
        forward = Forward(client, job, there, local_port=here, rank=rank)
        typer.echo(f"http://127.0.0.1:{forward.local_port} is port {there} of {job}. Ctrl-C ends this.", err=True)
        try:
            forward.serve(_told)
        finally:
            forward.close()


def _told(error: SkyloomError) -> None:
    typer.echo(f"error {error.message}\nnext: {error.next_action}", err=True)


def _ports(text: str) -> tuple[int, int]:
    """Read ``8888``, or ``9000:8888`` with the port here first, as ssh, docker and kubectl do. Raises `UnreadableOption`."""
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", text)
    here, there = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < there < 65_536 or not 0 <= here < 65_536:
        raise UnreadableOption(
            f"{text!r} is no port.",
            next_action="Write 8888, or LOCAL:PORT like 9000:8888; 0:8888 takes a free one here.",
        )
    return here, there
