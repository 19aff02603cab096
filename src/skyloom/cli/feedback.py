"""``skyloom feedback``: what was true of rows that an endpoint has answered."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import progress, show
from skyloom.core.errors import InvalidInput
from skyloom.rooms.quality.model import LabelGiven
from skyloom.sdk.feedback import summed

app = word("Say what was true of rows that an endpoint has answered.")
_COLUMNS = "prediction_id,label[,row]"


class LabelsUnreadable(InvalidInput):
    """The labels cannot be read."""


@app.command()
def feedback(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.")],
    prediction_id: Annotated[
        str,
        typer.Argument(metavar="PREDICTION_ID", help="Of the answer: its skyloom-prediction-id.", show_default=False),
    ] = "",
    label: Annotated[
        str, typer.Option("--label", help="What was true: a class, or a number.", show_default=False)
    ] = "",
    row: Annotated[int, typer.Option("--row", min=0, help="Of an answer with several.")] = 0,
    file: Annotated[
        str,
        typer.Option(
            "--file",
            metavar="FILE",
            help=f"Many labels: .csv or .parquet with columns {_COLUMNS}; - for CSV on stdin.",
            show_default=False,
        ),
    ] = "",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Say what was true. It counts for the revision that answered, at the time of the answer.

    A row has one label: the same again changes nothing, another one takes its place. See what comes of it: skyloom endpoint quality.
    """
    if bool(file) == bool(prediction_id and label) or (file and (prediction_id or label)):
        raise LabelsUnreadable(
            "Give one label, or a file with many.",
            next_action="skyloom feedback ENDPOINT PREDICTION_ID --label X; or: skyloom feedback ENDPOINT --file labels.csv",
        )
    given = (
        _from_file(file) if file else iter([_given({"prediction_id": prediction_id, "label": label, "row": row}, 1)])
    )
    with cloud(project) as client, progress("labels", quiet=as_json or not file) as advance:
        parts = []
        for part in client.feedback.give_parts(endpoint, given):
            parts.append(part)
            advance(part.counted + part.corrected + part.repeated + part.refused)
        if not parts:
            raise LabelsUnreadable(f"{file} holds no labels.", next_action=f"It needs columns {_COLUMNS}.")
    report = summed(endpoint, parts)
    show(report, as_json)
    if report.refused and not report.counted + report.corrected + report.repeated:
        raise typer.Exit(1)


def _from_file(name: str) -> Iterator[LabelGiven]:
    """The labels of a file, as they are read. Raises `LabelsUnreadable`, naming the line."""
    try:
        if name == "-":
            yield from _from_csv(sys.stdin, name)
        elif name.endswith(".parquet"):
            yield from _labels(_parquet_rows(Path(name)), name)
        else:
            with Path(name).open(newline="", encoding="utf-8-sig") as lines:
                yield from _from_csv(lines, name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsUnreadable(
            f"{name} cannot be read: {error}.", next_action=f"Give a .csv or .parquet file with columns {_COLUMNS}."
        ) from error


def _from_csv(lines: Iterable[str], name: str) -> Iterator[LabelGiven]:
    return _labels(csv.DictReader(lines), name)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in ("prediction_id", "label", "row")]
            for batch in file.iter_batches(batch_size=4_096, columns=wanted):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise LabelsUnreadable(
            f"{path} is no Parquet file: {error}.", next_action="Give a .csv file instead."
        ) from error


def _labels(rows: Iterable[dict[str, Any]], name: str) -> Iterator[LabelGiven]:
    for number, row in enumerate(rows, 1):
        missing = [column for column in ("prediction_id", "label") if row.get(column) in (None, "")]
        if missing:
            raise LabelsUnreadable(
                f"Row {number} of {name} has no {missing[0]}.", next_action=f"It needs columns {_COLUMNS}."
            )
        yield _given(row, number)


def _given(row: dict[str, Any], number: int) -> LabelGiven:
    told = {"prediction_id": str(row["prediction_id"]).strip(), "label": str(row["label"]), "row": row.get("row") or 0}
    try:
        return msgspec.convert(told, LabelGiven, strict=False)
    except msgspec.ValidationError as error:
        raise LabelsUnreadable(
            f"Label {number} cannot be meant: {error}.", next_action=f"It needs columns {_COLUMNS}."
        ) from error
