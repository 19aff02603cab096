"""``skyloom train``: a recipe or a script on a dataset, as a run."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.frame import (
    AsJson,
    BudgetUsd,
    Cpus,
    Detach,
    Gpus,
    Isolated,
    MaxDuration,
    Memory,
    Mounts,
    Project,
    Requirements,
    Workers,
    cloud,
    word,
)
from skyloom.cli.job import attend
from skyloom.cli.render import show

app = word("Train a model on a dataset.")


@app.command()
def train(
    what: Annotated[str, typer.Argument(metavar="RECIPE|SCRIPT.py", help="image, tabular, or a Python file.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "--data", metavar="NAME[:VERSION]", help="What to train on.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Column to predict.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the result; - registers nothing.  [default: the dataset's]")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="NAME=VALUE", help="A parameter; repeat it.")
    ] = None,
    workers: Workers = "1",
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "2GiB",
    retries: Annotated[int, typer.Option("--retries", min=0, help="More attempts; each resumes.")] = 2,
    max_duration: MaxDuration = None,
    budget: BudgetUsd = None,
    include: Annotated[
        list[Path] | None, typer.Option("--include", help="File or folder to take along with a script; repeat.")
    ] = None,
    requirements: Requirements = None,
    isolated: Isolated = False,
    mount: Mounts = None,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Train a model: `skyloom train image --dataset digits --target label --workers 2`.

    Follows the output and exits with the job's code. Ctrl-C only stops following: the training goes on.
    """
    script = Path(what) if what.endswith(".py") else None
    name, _, version = (dataset or "").partition(":")
    options: dict[str, Any] = {"model": model} if model else {}
    if version:
        options["version"] = version
    if max_duration is not None:
        options["max_duration_s"] = values.duration_s(max_duration)
    with cloud(project) as client:
        begun = client.trainings.start(
            "" if script else what,
            script=script,
            dataset=name or None,
            target=target,
            parameters={key: parameter_value(text) for key, text in values.variables(parameter or (), "--set").items()},
            include=values.files(include or ()),
            workers=values.workers(workers),
            cpus=cpus,
            gpus=gpus,
            memory=values.size(memory),
            max_retries=retries,
            budget_usd=budget,
            requirements=requirements,
            isolated=isolated,
            mounts=values.mounts(mount or ()),
            **options,
        )
        if detach:
            return show(begun, as_json)
        if not as_json:
            typer.echo(f"{begun.run.id} in {begun.run.job_id}", err=True)
        attend(client, begun.run.job_id, as_json)


def parameter_value(text: str) -> Any:
    """A parameter as JSON has it (3, true, [8, 4]); what is no JSON is text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
