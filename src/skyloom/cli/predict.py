"""``skyloom predict``: a few rows at an endpoint, or all rows of a dataset in a job."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any, TextIO

import typer

from skyloom.cli import values
from skyloom.cli.frame import AsJson, Detach, Project, cloud, word
from skyloom.cli.job import attend
from skyloom.cli.panels import panelled
from skyloom.cli.render import show
from skyloom.cli.rows import CsvRows, by_columns, read_rows
from skyloom.cli.wording import safe_output
from skyloom.core.errors import InvalidInput
from skyloom.core.resources import Resources, parse_bytes
from skyloom.recipes.batch.progress import is_line
from skyloom.sdk.asking import Answer
from skyloom.sdk.client import Client

app = word("Ask an endpoint for predictions, or predict a whole dataset.")


class PredictionUnclear(InvalidInput):
    """It is not said what to predict with what."""


class ProgressWriter:
    """Writes the output of a batch job: on a terminal each line of progress takes the place of the last; into a pipe all stay."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._rest, self._is_open = "", False

    def write(self, text: str) -> None:
        """Take in some output."""
        if not self._out.isatty():
            self._out.write(text)
        else:
            *lines, self._rest = (self._rest + safe_output(text)).split("\n")
            for line in lines:
                self._line(line)
        self._out.flush()

    def _line(self, line: str) -> None:
        over = is_line(line)
        self._out.write("\r\x1b[2K" if over and self._is_open else "\n" if self._is_open else "")
        self._is_open = over and " 100%" not in line
        self._out.write(line if self._is_open else f"{line}\n")


PANELS = {
    "Rows now": "model",
    "All rows of a dataset, in a job": "dataset to split column keep cpus memory detach",
    "Again and again": "schedule cron time_zone",
    "This command": "project as_json help",
}
EXAMPLES = """
\b
Examples:
  skyloom predict iris '[[5.1, 3.5, 1.4, 0.2]]'
  skyloom predict shop '{"age": 31, "city": "Paris"}'
  skyloom predict shop @rows.csv --json
  skyloom predict --dataset people --model churn --to people-scored
"""


@app.command(cls=panelled(PANELS), epilog=EXAMPLES)
def predict(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.", show_default=False)] = "",
    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS",
            help="JSON: {column: …} or a list of such, [[…], …], {input: [[…], …]}; @FILE: JSON, CSV or a picture; - for stdin.",
            show_default=False,
        ),
    ] = "",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", "--data", metavar="NAME[@VERSION]", help="Predict all of its rows.", show_default=False
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME[@VERSION]",
            help="With --dataset: what predicts them. At an endpoint: one of its pack.",
            show_default=False,
        ),
    ] = "",
    to: Annotated[str, typer.Option("--to", help="Dataset that the predictions become.", show_default=False)] = "",
    split: Annotated[str, typer.Option("--split", help="Only the rows of this part.")] = "",
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="TAKEN=COLUMN", help="What the model takes is called so there; repeat it."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--columns", "--keep", metavar="A,B", help="Columns to keep beside."),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus", min=0.1, help="Cores.  [default: the idle ones]", show_default=False)
    ] = None,
    memory: Annotated[str, typer.Option("--memory", help="Of the job: a hard limit.")] = "2GiB",
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="NAME", help="Call it so, and do it at each slot of --cron.")
    ] = "",
    cron: Annotated[str, typer.Option("--cron", help="When: '30 2 * * *' or @daily.")] = "",
    time_zone: Annotated[str, typer.Option("--time-zone", help="Whose clock: Europe/Berlin.")] = "UTC",
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Send rows to an endpoint and print what it says: labels and scores of a classifier; --json has the raw outputs too.

    A row names the model's columns, or is a list of numbers; the first axis is the batch then, one row is [[1, 2, 3]].

    With --dataset, --model and --to: predict all rows of a dataset version in a job, into a dataset. With --schedule and --cron, at each
    slot, with the newest versions at that time. Ctrl-C only stops following.
    """
    if not dataset:
        _check_plain(endpoint, rows, {"--to": to, "--schedule": schedule})
        inputs = read_rows(rows)
        with cloud(project) as client:
            if isinstance(inputs, CsvRows):
                inputs = by_columns(client, endpoint, model, inputs)
            return _show_answer(client.endpoints.predict(endpoint, inputs, model_name=model), as_json)
    _check_batch(endpoint, model, to, schedule, cron)
    asked = _order(dataset, model, to, split, column or [], keep or [])
    if cpus is not None:
        asked["resources"] = Resources(cpus=cpus, memory_bytes=parse_bytes(values.size(memory)))
    with cloud(project) as client:
        if schedule:
            return show(client.predictions.schedule(schedule, cron, **asked, time_zone=time_zone), as_json)
        _run(client, asked, detach, as_json)


def _run(client: Client, asked: dict[str, Any], detach: bool, as_json: bool) -> None:
    draft = client.predictions.run(**asked)
    if detach:
        return show(draft, as_json)
    if not as_json:
        try:
            attend(client, draft.draft.job_id, as_json=False, write=ProgressWriter().write)
        except typer.Exit as ended:
            if ended.exit_code:
                raise
    show(client.predictions.finish(draft), as_json)


def _order(dataset: str, model: str, to: str, split: str, column: Iterable[str], keep: Iterable[str]) -> dict[str, Any]:
    """What `PredictionCalls.run` takes."""
    (dataset, version), (model, model_version) = _referred(dataset), _referred(model)
    return {
        "dataset": dataset,
        "model_name": model,
        "to": to,
        "split": split,
        "columns": values.renamed(column),
        "keep": tuple(name for some in keep for name in some.split(",") if name),
        **({"version": version} if version else {}),
        **({"model_version": model_version} if model_version else {}),
    }


def _referred(text: str) -> tuple[str, str]:
    """``name@version``; a colon does too."""
    name, _, version = text.partition("@") if "@" in text else text.partition(":")
    return name, version


def _check_plain(endpoint: str, rows: str, batch: dict[str, str]) -> None:
    given = [name for name, value in batch.items() if value]
    if given:
        raise PredictionUnclear(
            f"{given[0]} goes with --dataset.", next_action="skyloom predict --dataset NAME --model NAME --to NAME"
        )
    if not endpoint or not rows:
        raise PredictionUnclear(
            "There is no endpoint or no rows.",
            next_action="skyloom predict ENDPOINT '[[1, 2, 3]]' or @rows.csv; or: skyloom predict --dataset NAME --model NAME --to NAME",
        )


def _check_batch(endpoint: str, model: str, to: str, schedule: str, cron: str) -> None:
    missing = [name for name, value in {"--model": model, "--to": to}.items() if not value]
    if endpoint:
        raise PredictionUnclear(
            f"{endpoint!r} is an endpoint, and --dataset is predicted by a model.", next_action="Leave one of them out."
        )
    if missing:
        raise PredictionUnclear(
            f"--dataset needs {' and '.join(missing)}.",
            next_action="skyloom predict --dataset NAME[@VERSION] --model NAME[@VERSION] --to NAME",
        )
    if bool(schedule) != bool(cron):
        raise PredictionUnclear("--schedule and --cron go together.", next_action="--schedule nightly --cron @daily")


def _show_answer(answer: Answer, as_json: bool) -> None:
    """What the outputs mean, where that is known; --json has the outputs too."""
    if as_json or not answer.predictions:
        return show(answer, as_json)
    show(answer.predictions)
    print()
    show({"prediction id": answer.prediction_id, "model": answer.model, "model version": answer.model_version})
