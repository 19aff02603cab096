"""Rows to predict in the words of the terminal: JSON, a CSV file with a header, a picture."""

import base64
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from skyloom.cli.wording import safe
from skyloom.core.errors import InvalidInput
from skyloom.rooms.registry.bundle import Manifest
from skyloom.sdk.client import Client
from skyloom.sdk.examples import texts_of

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_TRUTHS = {"true": 1.0, "false": 0.0}
_EXAMPLE = """Write for example [[1, 2, 3]] or '{"age": 3, "city": "Paris"}', or name a file: @rows.json, @rows.csv."""


class RowsUnreadable(InvalidInput):
    """The rows to predict cannot be read."""


class CsvRows(msgspec.Struct, frozen=True):
    """The lines of a CSV file by its header, each with its number; their cells are texts still."""

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def read_rows(words: str) -> Any:
    """JSON rows, `CsvRows`, or a picture as a row that ``/predict`` takes. ``@FILE`` is read, ``-`` is stdin. Raises `RowsUnreadable`."""
    try:
        content = (
            sys.stdin.buffer.read()
            if words == "-"
            else Path(words[1:]).read_bytes()
            if words.startswith("@")
            else words.encode()
        )
        if content.startswith(_PICTURES):
            return {"b64": base64.b64encode(content).decode()}
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise RowsUnreadable(
            f"There is no file {words[1:]}.",
            next_action="Check the path: @FILE names a file of JSON, CSV or a picture.",
        ) from error
    except (OSError, UnicodeError) as error:
        raise RowsUnreadable(
            f"{words!r} cannot be read: {error}.", next_action="Name a file of JSON, CSV or a picture."
        ) from error
    if words.lower().endswith(".csv") or (words == "-" and text.lstrip()[:1] not in ("[", "{", '"')):
        return _csv(text)
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RowsUnreadable(f"The rows are not JSON: {error}.", next_action=_EXAMPLE) from error


def by_columns(client: Client, endpoint: str, model: str, found: CsvRows) -> list[dict[str, Any]]:
    """The lines of a CSV file as rows of an endpoint's model. Columns that it does not take are left aside, and said.

    Raises `RowsUnreadable`.
    """
    manifest = _manifest(client, endpoint, model)
    if not manifest.is_tabular:
        raise RowsUnreadable(
            "The model knows no columns, so a header says nothing.", next_action="Write the rows as JSON: [[1, 2, 3]]."
        )
    missing = [name for name in manifest.columns if name not in found.header]
    if missing:
        raise RowsUnreadable(
            f"The header has no column {missing[0]!r}.", next_action=f"The model takes: {', '.join(manifest.columns)}."
        )
    aside = [name for name in found.header if name not in manifest.columns]
    if aside:
        typer.echo(f"columns left aside: {safe(', '.join(aside))}", err=True)
    texts = texts_of(client.transport, manifest)
    places = {name: found.header.index(name) for name in manifest.columns}
    return [
        {name: _cell(row[place], name in texts, name, line) for name, place in places.items()}
        for line, row in found.rows
    ]


def _manifest(client: Client, endpoint: str, model: str) -> Manifest:
    """Of the version that answers most; of a pack's model, the one that it is pinned to."""
    status = client.endpoints.get(endpoint)
    if model and model != status.endpoint.model:
        packed = status.endpoint.pack.models if status.endpoint.pack is not None else ()
        label = next((one.label for one in packed if one.model == model), "")
        return client.models.version(model, label).manifest
    current = next(one for one in status.revisions if one.number == status.endpoint.current)
    return client.models.version(current.model or status.endpoint.model, current.version_label).manifest


def _csv(text: str) -> CsvRows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, tuple(line)) for line in reader if line]
    except csv.Error as error:
        raise RowsUnreadable(f"The rows are no CSV: {error}.", next_action=_EXAMPLE) from error
    if len(lines) < 2:
        raise RowsUnreadable("There is no row below a header.", next_action="Write a header and at least one row.")
    header = tuple(name.strip() for name in lines[0][1])
    _check(header, lines[1:])
    return CsvRows(header, tuple(lines[1:]))


def _check(header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise RowsUnreadable(f"The header names {twice!r} twice.", next_action="Give each column a name of its own.")
    for line, row in rows:
        if len(row) != len(header):
            raise RowsUnreadable(
                f"Line {line} has {len(row)} field{'s' * (len(row) != 1)}, the header {len(header)}.",
                next_action="Mend the line.",
            )


def _cell(text: str, is_text: bool, column: str, line: int) -> str | float | None:
    """A cell as the model takes it; an empty one is a missing value."""
    text = text.strip()
    if is_text or not text:
        return text or None
    try:
        value = _TRUTHS[text.lower()] if text.lower() in _TRUTHS else float(text)
        if math.isinf(value):
            raise ValueError("without end")
        return None if math.isnan(value) else value
    except ValueError:
        raise RowsUnreadable(
            f"Line {line}: {text!r} in the column {column!r} is no number.",
            next_action="Write a number, or leave the cell empty for a missing value.",
        ) from None
