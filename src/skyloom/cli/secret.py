"""``skyloom secret``: what jobs may know and nobody may read."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.core.errors import InvalidInput
from skyloom.sdk.files import read_chunks

app = words("Secrets: what jobs may know and nobody may read.")
SecretNameWord = Annotated[str, typer.Argument(metavar="NAME")]


class SecretUnreadable(InvalidInput):
    """The value is no text."""


@app.command("set")
def set_(
    name: SecretNameWord,
    file: Annotated[Path | None, typer.Option("--file", help="Read the value from a file.")] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Keep a secret, or replace its value. It is asked for on the terminal, or read from a pipe: never an argument.

    One line end at the end of a pipe or file is left out.
    """
    value = _value(name, file)
    with cloud(project) as client:
        show(client.secrets.set(name, value), as_json)


def _value(name: str, file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        return str(typer.prompt(f"Value of {name}", hide_input=True, err=True))
    content = sys.stdin.buffer.read() if file is None else b"".join(read_chunks(file))
    try:
        return re.sub(rb"\r?\n\Z", b"", content).decode()
    except UnicodeDecodeError as error:
        raise SecretUnreadable(
            f"The value of {name} is no text in UTF-8.", next_action="Encode it first, for example with base64."
        ) from error


@app.command("list")
def list_(limit: Limit = 100, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List the names of secrets; never their values."""
    with cloud(project) as client:
        show(client.secrets.list(limit, cursor), as_json)


@app.command()
def delete(name: SecretNameWord, project: Project = None, as_json: AsJson = False) -> None:
    """Forget a secret. Jobs that run keep it until they end."""
    with cloud(project) as client:
        show(client.secrets.delete(name), as_json)
