"""``skyloom data``: datasets from files, cleaned, split, looked at."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skyloom.cli.frame import AsJson, Cursor, Detach, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.cli.steps import Columns, Pairs, casts, fillings, removals, scalings, shares
from skyloom.core.errors import InvalidInput
from skyloom.rooms.data.making import Clean, Format, Scale, Step
from skyloom.rooms.data.model import NEWEST, DraftStatus
from skyloom.sdk.client import Client

app = words("Datasets: versions of tables, from files.")
DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Name or id.")]
Base = Annotated[str, typer.Option("--version", help="Which version: a number, a tag or newest.")]


class StepsUnreadable(InvalidInput):
    """The file with the steps cannot be read, or there is no step."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, dot, dash, underscore.")],
    paths: Annotated[list[Path], typer.Argument(metavar="FILE… | FOLDER", help="Files, or one folder of images.")],
    format_: Annotated[
        Format | None, typer.Option("--format", help="What the files are; names say it by default.")
    ] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", help="Of CSV files.")] = ",",
    encoding: Annotated[str, typer.Option("--encoding", help="Of CSV files.")] = "utf-8",
    types: Annotated[list[str] | None, typer.Option("--type", metavar="COLUMN=TYPE", help="Repeat it.")] = None,
    max_bad_rows: Annotated[int | None, typer.Option("--max-bad-rows", min=0, help="Fail beyond this many.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files that are no image.")] = False,
    labels: Annotated[str | None, typer.Option("--labels", help="CSV file in the folder: file,label.")] = None,
    height: Annotated[int, typer.Option("--height", min=0, help="Resize images to this; with --width.")] = 0,
    width: Annotated[int, typer.Option("--width", min=0, help="Resize images to this; with --height.")] = 0,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a dataset of CSV, Parquet or JSON lines files, or of a folder of PNG and JPEG images.

    Rows that cannot be read are counted, shown with their line and kept; the good ones go in.
    """
    with cloud(project) as client:
        draft = client.data.create(
            name,
            *paths,
            format=format_,
            delimiter=delimiter,
            encoding=encoding,
            types={cast.column: cast.to for cast in casts(types)},
            max_bad_rows=max_bad_rows,
            skip_bad=skip_bad,
            labels=labels,
            image_height=height,
            image_width=width,
        )
        _attend(client, draft, detach, as_json)


@app.command()
def clean(
    dataset: DatasetName,
    drop: Columns = None,
    cast: Pairs = None,
    deduplicate: Annotated[bool, typer.Option("--deduplicate", help="Keep the first of equal rows.")] = False,
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Drop rows with a missing value.")] = False,
    fill: Annotated[
        list[str] | None,
        typer.Option("--fill", metavar="[COLUMN=]mean|median|mode|VALUE", help="Fill missing values; repeat it."),
    ] = None,
    outliers: Annotated[list[str] | None, typer.Option("--drop-outliers", metavar="COLUMN", help="Repeat it.")] = None,
    normalise: Annotated[Scale | None, typer.Option("--normalise", help="Scale columns of numbers.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Only these, for --normalise and --drop-missing; repeat it.")
    ] = None,
    steps: Annotated[Path | None, typer.Option("--steps", help="JSON file with the steps, instead of options.")] = None,
    base: Base = NEWEST,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a cleaned version. Steps go in this order: columns, types, duplicates, missing values, outliers, scales."""
    chosen = tuple(columns or ())
    plan: tuple[Step, ...] = (
        *removals(drop, casts(cast), deduplicate, drop_missing, chosen),
        *fillings(fill),
        *scalings(outliers, normalise, chosen),
    )
    if steps is not None:
        plan = _read_steps(steps)
    if not plan:
        raise StepsUnreadable("No step is given.", next_action="Say what to clean: skyloom data clean --help.")
    with cloud(project) as client:
        _attend(client, client.data.clean(dataset, *plan, base=base), detach, as_json)


@app.command()
def split(
    dataset: DatasetName,
    parts: Annotated[str, typer.Option("--shares", help="Of train, validation and test.")] = "0.8,0,0.2",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another split.")] = 0,
    stratify: Annotated[
        str | None, typer.Option("--stratify", metavar="COLUMN", help="Divide each class alike.")
    ] = None,
    base: Base = NEWEST,
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Divide the rows into train, validation and test. The same row gets the same part every time."""
    with cloud(project) as client:
        draft = client.data.split(dataset, base=base, seed=seed, stratify=stratify, **shares(parts))
        _attend(client, draft, detach, as_json)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List datasets, newest first."""
    with cloud(project) as client:
        show(client.data.list(limit, cursor), as_json)


@app.command("show")
def show_(dataset: DatasetName, base: Base = "", project: Project = None, as_json: AsJson = False) -> None:
    """Show a dataset: its columns, and what was lost on the way to its newest version (or to another)."""
    with cloud(project) as client:
        show(client.data.version(dataset, base) if base else client.data.get(dataset), as_json)


@app.command()
def versions(
    dataset: DatasetName, limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False
) -> None:
    """List the versions of a dataset, newest first."""
    with cloud(project) as client:
        show(client.data.versions(dataset, limit, cursor), as_json)


@app.command()
def head(
    dataset: DatasetName,
    base: Base = NEWEST,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many rows at most.")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Rows to leave out first.")] = 0,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show some rows."""
    with cloud(project) as client:
        show(client.data.head(dataset, base, limit=limit, offset=offset), as_json)


@app.command()
def tag(
    dataset: DatasetName,
    number: Annotated[int, typer.Argument(min=1, metavar="VERSION")],
    name: Annotated[str, typer.Argument(metavar="TAG")],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Point a tag at a version."""
    with cloud(project) as client:
        show(client.data.tag(dataset, number, name), as_json)


def _attend(client: Client, draft: DraftStatus, detach: bool, as_json: bool) -> None:
    """Wait for the version and show it."""
    show(draft if detach else client.data.finish(draft), as_json)


def _read_steps(path: Path) -> tuple[Step, ...]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Clean).steps
    except (OSError, msgspec.MsgspecError) as error:
        raise StepsUnreadable(
            f"{path} cannot be read: {error}.",
            next_action='Write {"type": "clean", "steps": [{"type": "deduplicate"}]}.',
        ) from error
