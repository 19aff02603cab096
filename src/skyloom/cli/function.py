"""``skyloom function``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli import ready_to_paste, values
from skyloom.cli.awaiting import awaited
from skyloom.cli.frame import AsJson, Cursor, Limit, Project, Secret, cloud, words
from skyloom.cli.render import say_how, show, to_json
from skyloom.cli.wording import safe_output
from skyloom.core.errors import InvalidInput
from skyloom.rooms.functions.model import InvocationState
from skyloom.sdk.client import Client

app = words("Functions: plain Python that sleeps until it is asked.")
FunctionName = Annotated[
    str, typer.Argument(metavar="NAME[:ENTRY]", help="The entry may be left out where it has one.")
]
OnlyName = Annotated[str, typer.Argument(metavar="NAME")]
_WAIT_S = 120.0
InvocationId = Annotated[str, typer.Argument(metavar="INVOCATION", help="Its id.")]


DEPLOY_EXAMPLES = """
\b
Examples:
  skyloom function deploy greet.py
  skyloom function deploy work.py:greet,count --name tools --max 8
"""
CALL_EXAMPLES = """
\b
Examples:
  skyloom function call greet --json '{"name": "Ann"}'
  skyloom function call tools:count --async --json '{"text": "a b"}'
"""


class ArgumentsNotJson(InvalidInput):
    """What is given as arguments is no JSON object."""


@app.command(epilog=DEPLOY_EXAMPLES)
def deploy(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py[:FUNCTION,…]", help="Without FUNCTION: those that are decorated, else the only one."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called by.  [default: the file's]", show_default=False)
    ] = None,
    requirements: Annotated[
        Path | None,
        typer.Option("--requirements", "-r", metavar="FILE", help="Packages; else the file's own '# /// script'."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="How long one call may take.  [default: 60s]")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Calls at a time in a process.  [default: 1]")
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="CPU cores of each process.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Memory of each process, a hard limit: 1GiB.")] = None,
    most: Annotated[int, typer.Option("--max", min=1, max=100, help="So many processes at most.")] = 4,
    idle: Annotated[str, typer.Option("--idle", help="Asleep after so long without a call.")] = "60s",
    attempts: Annotated[int, typer.Option("--attempts", min=1, max=20, help="How often a queued call is tried.")] = 5,
    secret: Secret = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return at once.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Put functions of a file up; again: their next revision. Typed arguments become the schema."""
    path, _, names = file.partition(":")
    with cloud(project) as client:
        status = client.functions.deploy(
            path,
            [one for one in names.split(",") if one],
            name=name,
            requirements=requirements,
            timeout_s=None if timeout is None else values.duration_s(timeout),
            concurrency=concurrency,
            cpus=cpus,
            memory=None if memory is None else values.size(memory),
            max_replicas=most,
            idle_s=values.duration_s(idle),
            max_attempts=attempts,
            secrets=None if secret is None else values.secrets(secret),
        )
        if not detach:
            awaited(client, status.endpoint.endpoint.name, _WAIT_S, f"skyloom function logs {status.function.name}")
            status = client.functions.get(status.function.name)
        show(status, as_json)
        if not (detach or as_json):
            say_how(ready_to_paste.ask_function(status))


@app.command(epilog=CALL_EXAMPLES)
def call(
    function: FunctionName,
    arguments: Annotated[
        str, typer.Option("--json", metavar="{…}", help="Its arguments; - reads them from stdin.")
    ] = "{}",
    later: Annotated[bool, typer.Option("--async", help="Queue the call and print its id.")] = False,
    key: Annotated[str, typer.Option("--key", help="With --async: the same key again is the same call.")] = "",
    project: Project = None,
) -> None:
    """Call a function and print its answer as JSON. With --async the call waits for its turn, and is made again when it fails."""
    name, _, entry = function.partition(":")
    given = _arguments(sys.stdin.read() if arguments == "-" else arguments)
    if key and not later:
        raise ArgumentsNotJson("A key is for calls that are queued.", next_action="Add --async, or leave --key out.")
    with cloud(project) as client:
        if later:
            print(client.functions.invoke_with(name, given, method=entry, key=key).id)
        else:
            print(to_json(client.functions.call(name, entry, **given)))


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List functions, newest first."""
    with cloud(project) as client:
        show(client.functions.list(limit, cursor), as_json)


@app.command("show")
def show_(function: OnlyName, project: Project = None, as_json: AsJson = False) -> None:
    """Show a function: what it takes, its address, waits, cost."""
    with cloud(project) as client:
        show(client.functions.get(function), as_json)


@app.command()
def logs(function: OnlyName, project: Project = None) -> None:
    """Print what its newest processes have printed, oldest first."""
    with cloud(project) as client:
        for job_id in reversed(client.functions.get(function).jobs):
            print(f"--- {job_id}")
            for text in _printed(client, job_id):
                sys.stdout.write(safe_output(text))


@app.command()
def rollback(function: OnlyName, project: Project = None, as_json: AsJson = False) -> None:
    """Give all calls back to the revision that had them before."""
    with cloud(project) as client:
        client.endpoints.rollback(client.functions.get(function).endpoint.endpoint.id)
        show(client.functions.get(function), as_json)


@app.command()
def delete(function: OnlyName, project: Project = None, as_json: AsJson = False) -> None:
    """Stop a function and forget it. What waits for it becomes dead letters."""
    with cloud(project) as client:
        show(client.functions.delete(function), as_json)


@app.command()
def calls(
    function: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    state: Annotated[InvocationState | None, typer.Option("--state", help="dead: the dead letters.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List queued calls and what became of them, newest first."""
    with cloud(project) as client:
        show(client.invocations.list(function, state, limit, cursor), as_json)


@app.command()
def result(
    invocation: InvocationId,
    wait: Annotated[str | None, typer.Option("--wait", help="So long, until it is there.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show a queued call and its answer. With --wait only the answer, as JSON."""
    with cloud(project) as client:
        if wait is None:
            show(client.invocations.get(invocation), as_json)
        else:
            print(to_json(client.invocations.wait(invocation, timeout_s=values.duration_s(wait))))


@app.command()
def retry(invocation: InvocationId, project: Project = None, as_json: AsJson = False) -> None:
    """Send a dead letter again, with your own rights."""
    with cloud(project) as client:
        show(client.invocations.retry(invocation), as_json)


def _arguments(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArgumentsNotJson(
            f"The arguments are no JSON object: {error}.", next_action="""Write them as --json '{"name": "Ann"}'."""
        ) from error


def _printed(client: Client, job_id: str) -> Any:
    """All that a job has printed, piece by piece."""
    offset = 0
    while (chunk := client.jobs.logs(job_id, offset=offset)).next_offset > offset:
        yield chunk.text
        offset = chunk.next_offset
