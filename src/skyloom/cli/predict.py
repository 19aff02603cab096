"""``skyloom predict``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput

app = word("Ask an endpoint for predictions.")


class RowsUnreadable(InvalidInput):
    """The rows to predict cannot be read."""


@app.command()
def predict(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.")],
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="JSON: [[…], …] or {input: [[…], …]}; @FILE; - for stdin.")
    ],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Send rows to an endpoint and print what it says. The first axis is the batch: one row is [[1, 2, 3]]."""
    inputs = _read(rows)
    with cloud(project) as client:
        show(client.endpoints.predict(endpoint, inputs), as_json)


def _read(rows: str) -> Any:
    try:
        text = sys.stdin.read() if rows == "-" else Path(rows[1:]).read_text() if rows.startswith("@") else rows
        return msgspec.json.decode(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RowsUnreadable(f"{rows!r} cannot be read: {error}.", next_action="Name a file with JSON rows.") from error
    except msgspec.MsgspecError as error:
        raise RowsUnreadable(
            f"The rows are not JSON: {error}.", next_action="Write for example [[1, 2, 3]]."
        ) from error
