"""``skyloom job``: run commands and scripts, watch them, stop them."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from skyloom.cli import exits, inside, values
from skyloom.cli.frame import (
    AsJson,
    BudgetUsd,
    Command,
    Cpus,
    Cursor,
    Deadline,
    Detach,
    Env,
    Expected,
    Gpus,
    Include,
    Isolated,
    Limit,
    MaxDuration,
    Memory,
    Mounts,
    OnPool,
    Preemptible,
    Project,
    Require,
    Requirements,
    Secret,
    Workers,
    cloud,
    words,
)
from skyloom.cli.inside import JobId, Rank
from skyloom.cli.panels import panelled
from skyloom.cli.render import show
from skyloom.cli.wording import safe_output
from skyloom.rooms.jobs.model import ENDED, Condition, Dependency, JobState, JobStatus
from skyloom.sdk.client import Client
from skyloom.sdk.jobs import waits_for
from skyloom.sdk.patience import patient_with_job

app = words("Jobs: a command, a script or a gang of workers.")
_SOON_S, _PAUSE_S = 1.0, 0.02
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Of yours: within a week, the same request with the same key is carried out once.",
        show_default=False,
    ),
]
After = Annotated[
    list[str] | None, typer.Option("--after", metavar="ID", help="Only once this job or array succeeded; repeat it.")
]
AfterEnded = Annotated[
    list[str] | None, typer.Option("--after-ended", metavar="ID", help="Only once this one ended, however; repeat it.")
]


Grace = Annotated[str, typer.Option("--grace", help="Time to write a checkpoint when it has to stop: 10s, 2min.")]


RUN_PANELS = {
    "What runs": "name env include secret requirements isolated mount",
    "On what": "workers cpus gpus memory pool require",
    "When": "after after_ended priority preemptible deadline expected",
    "How long, and how often": "max_duration budget retries grace",
    "This command": "detach key project as_json help",
}
RUN_EXAMPLES = """
\b
Examples:
  skyloom job run train.py --epochs 3
  skyloom job run --gpus 1 --workers 1-8 --max-duration 2h train.py
  skyloom job run -r requirements.txt --mount rows=dataset:shop train.py
  skyloom job run --detach --after job_01 -- python -m report
"""


@app.command(cls=panelled(RUN_PANELS), epilog=RUN_EXAMPLES, context_settings={"allow_interspersed_args": False})
def run(
    command: Command,
    name: Annotated[str, typer.Option("--name", help="Shown in lists.")] = "",
    workers: Workers = "1",
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "1GiB",
    retries: Annotated[int, typer.Option("--retries", min=0, help="More attempts when one fails.")] = 0,
    max_duration: MaxDuration = None,
    budget: BudgetUsd = None,
    grace: Grace = "10s",
    priority: Annotated[int, typer.Option("--priority", help="Larger goes first.")] = 0,
    preemptible: Preemptible = True,
    deadline: Deadline = None,
    expected: Expected = None,
    pool: OnPool = None,
    require: Require = None,
    env: Env = None,
    include: Include = None,
    secret: Secret = None,
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
    """Run a Python script, or any command after `--`, as a job.

    Follows its output and exits with its exit code (122 budget used up, 124 time limit, 137 out of memory, 130 cancelled,
    126 could not start, 125 lost). Ctrl-C only stops following: the job goes on.
    """
    durations = {"max_duration_s": max_duration, "expected_duration_s": expected}
    options = values.work(command, None)
    options |= {field: values.duration_s(text) for field, text in durations.items() if text is not None}
    options |= values.deadline(deadline) if deadline is not None else {}
    with cloud(project) as client:
        status = client.jobs.run(
            **options,
            include=values.files(include or ()),
            cpus=cpus,
            gpus=gpus,
            memory=values.size(memory),
            name=name,
            num_workers=values.workers(workers),
            max_retries=retries,
            priority=priority,
            preemptible=preemptible,
            pools=tuple(pool or ()),
            requires=values.variables(require or (), "--require"),
            environment=values.variables(env or ()),
            secrets=values.secrets(secret or ()),
            budget_usd=budget,
            grace_s=values.duration_s(grace),
            requirements=requirements,
            isolated=isolated,
            mounts=values.mounts(mount or ()),
            after=after_of(after, after_ended),
            key=key,
        )
        if detach:
            return _show_queued(client.jobs.get(status.job.id) if key else status, as_json)
        attend(client, status.job.id, as_json)


@app.command("list")
def list_(
    live: Annotated[bool, typer.Option("--live", help="Only those that have not ended.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with cloud(project) as client:
        show(client.jobs.list(limit, cursor, live), as_json)


@app.command("show")
def show_(job: JobId, project: Project = None, as_json: AsJson = False) -> None:
    """Show a job and its workers."""
    with cloud(project) as client:
        show(client.jobs.get(job), as_json)


@app.command()
def cancel(job: JobId, project: Project = None, as_json: AsJson = False) -> None:
    """Stop a job and every process it started. Safe to repeat."""
    with cloud(project) as client:
        show(client.jobs.cancel(job), as_json)


@app.command()
def rerun(job: JobId, detach: Detach = False, project: Project = None, as_json: AsJson = False) -> None:
    """Run once more what a job did, and follow it like `job run`."""
    with cloud(project) as client:
        status = client.jobs.rerun(job)
        if detach:
            return _show_queued(status, as_json)
        attend(client, status.job.id, as_json)


@app.command()
def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; exit with its code.")
    ] = False,
    rank: Rank = 0,
    attempt: Annotated[int, typer.Option("--attempt", min=0, help="Which try; 0 is the newest.")] = 0,
    project: Project = None,
) -> None:
    """Print what a worker of a job printed."""
    with cloud(project) as client:
        job = client.jobs.get(job).job.id  # whole: the beginning that was typed may fit more jobs later
        if follow:
            attend(client, job, False, rank, attempt)
        for text in _so_far(client, job, rank, attempt):
            _write(text)


def after_of(succeeded: list[str] | None, ended: list[str] | None) -> tuple[Dependency, ...]:
    """The conditions that ``--after`` and ``--after-ended`` say."""
    return (
        *(Dependency(id=one) for one in succeeded or ()),
        *(Dependency(id=one, condition=Condition.ENDED) for one in ended or ()),
    )


app.command("exec")(inside.exec_)
app.command("port-forward")(inside.port_forward)


def _show_queued(status: JobStatus, as_json: bool) -> None:
    """What a person needs of a job that he does not follow yet; a program gets all of it."""
    told = {"job": status.job.id, "state": status.state, "follow": f"skyloom job logs -f {status.job.id}"}
    show(status if as_json else told, as_json)


def attend(
    client: Client,
    job_id: str,
    as_json: bool,
    rank: int = 0,
    attempt: int = 0,
    write: Callable[[str], None] | None = None,
) -> None:
    """Follow a job to its end and exit with its code. Ctrl-C lets go of it. ``write`` takes its output; by default it is printed."""
    client = Client(patient_with_job(client.transport, job_id))
    try:
        if not as_json:
            _say_what_it_waits_for(client, job_id)
            for text in _attempts(client, job_id, rank, attempt):
                (write or _write)(text)
        status = client.jobs.wait(job_id)
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe job goes on. Follow it: skyloom job logs -f {job_id}. Stop it: skyloom job cancel {job_id}.",
            err=True,
        )
        raise
    if as_json:
        show(status, as_json)
    elif exits.of_job(status):
        typer.echo(f"error {status.job.id} {status.state.value}: {status.message or status.reason.value}", err=True)
        typer.echo(f"next: {status.next_action or f'See: skyloom why {job_id}.'}", err=True)
    raise typer.Exit(exits.of_job(status))


def _say_what_it_waits_for(client: Client, job_id: str) -> None:
    """One line on stderr when a job does not start for lack of room; without it, following would look like a hang."""
    deadline = time.monotonic() + _SOON_S
    while (status := client.jobs.get(job_id)).state is JobState.QUEUED and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    if status.state is JobState.QUEUED:
        typer.echo(f"queued: {waits_for(status)}. {status.next_action} Why: skyloom why {job_id}.", err=True)


def _attempts(client: Client, job_id: str, rank: int, attempt: int) -> Iterator[str]:
    """The output of one attempt, or (0) of the newest and all that follow it, as it comes."""
    number = attempt or client.jobs.get(job_id).job.attempt
    while True:
        yield from client.jobs.follow(job_id, rank=rank, attempt=number)
        status = client.jobs.get(job_id)
        if attempt or status.state in ENDED:
            return
        if status.job.attempt > number:
            number = status.job.attempt
            typer.echo(_which_attempt(status), err=True)


def _which_attempt(status: JobStatus) -> str:
    """What a new attempt is: one more try, or going on after the gang made room or changed its size."""
    job = status.job
    failed = job.attempt - job.comebacks
    return f"attempt {failed} of {job.spec.max_retries + 1}" if failed > 1 or not job.comebacks else "goes on from here"


def _so_far(client: Client, job_id: str, rank: int, attempt: int) -> Iterator[str]:
    offset = 0
    while (chunk := client.jobs.logs(job_id, rank=rank, attempt=attempt, offset=offset)).next_offset > offset:
        yield chunk.text
        offset = chunk.next_offset


def _write(text: str) -> None:
    """Output of a job: as it is into a pipe, harmless on a terminal."""
    sys.stdout.write(safe_output(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
