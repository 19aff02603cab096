"""What every command shares: how its `typer.Typer` is made, ``--json``, ``--project``, and the client it speaks through."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from skyloom.cli.checking import CheckedTransport
from skyloom.core.operation import Page
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect

Noun = TypeVar("Noun")
Limit = Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on after an earlier list.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON, for programs.")]
Project = Annotated[
    str | None, typer.Option("--project", help="Project to work in.  [default: SKYLOOM_PROJECT]", show_default=False)
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Return when it is queued.")]
Workers = Annotated[
    str, typer.Option("--workers", "-w", metavar="N|MIN-MAX", help="Size of the gang; 1-8 for an elastic one.")
]
Cpus = Annotated[float, typer.Option("--cpus", min=0, help="CPU cores for each worker.")]
Gpus = Annotated[int, typer.Option("--gpus", min=0, help="GPUs for each worker.")]
Command = Annotated[list[str], typer.Argument(metavar="SCRIPT.py [ARGS]… | -- COMMAND [ARGS]…")]
Env = Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="A variable; repeat it.")]
Include = Annotated[list[Path] | None, typer.Option("--include", help="File or folder to take along; repeat.")]
Secret = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="NAME[=VARIABLE]", help="A secret, as a file or as a variable; repeat it."),
]
Memory = Annotated[str, typer.Option("--memory", help="Memory for each worker: a hard limit.")]
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        "--budget", help="Dollars that it may cost; before that it writes a checkpoint and stops.", show_default=False
    ),
]
MaxDuration = Annotated[str | None, typer.Option("--max-duration", help="End an attempt after: 90s, 2h.")]
Requirements = Annotated[
    Path | None,
    typer.Option(
        "--requirements",
        "-r",
        metavar="FILE",
        help="requirements.txt or pyproject.toml: packages beside those of the pool, installed once and kept.",
        show_default=False,
    ),
]
Isolated = Annotated[bool, typer.Option("--isolated", help="Only those packages: nothing of the pool is visible.")]
Mounts = Annotated[
    list[str] | None,
    typer.Option(
        "--mount",
        metavar="NAME=dataset:NAME[:VERSION]",
        help="Folder $SKYLOOM_MOUNTS/NAME with a dataset, or with a model:NAME[:VERSION]; read-only; repeat it.",
    ),
]

Preemptible = Annotated[
    bool, typer.Option("--preemptible/--not-preemptible", help="May be stopped for others, and goes on later.")
]
Deadline = Annotated[str | None, typer.Option("--deadline", help="Should be done by then: 2h, or 2026-01-31T18:00.")]
Expected = Annotated[str | None, typer.Option("--expected", help="How long it will run, as you think: 30min.")]
OnPool = Annotated[list[str] | None, typer.Option("--pool", help="Run on this pool only; repeat for more.")]
Require = Annotated[
    list[str] | None, typer.Option("--require", metavar="NAME=VALUE", help="Label its machines must have; repeat.")
]


def word(help: str) -> typer.Typer:  # noqa: A002  (typer's own word)
    """A Typer for a word that is one command: ``skyloom status``."""
    return typer.Typer(help=help, add_completion=False, rich_markup_mode=None)


def words(help: str) -> typer.Typer:  # noqa: A002
    """A Typer for a noun with verbs: ``skyloom job list``."""
    app = typer.Typer(help=help, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    app.callback()(lambda: None)
    return app


def every(list_page: Callable[..., Page[Noun]]) -> Iterator[Noun]:
    """All items of a list, page by page. ``list_page`` takes ``limit`` and ``cursor``."""
    page = list_page(limit=1_000)
    yield from page.items
    while page.next_cursor:
        page = list_page(limit=1_000, cursor=page.next_cursor)
        yield from page.items


def cloud(project: str | None = None) -> Client:
    """The client of the cloud that settings name; what it asks for is checked before it is sent. Use it in a ``with``."""
    return Client(CheckedTransport(connect(project=project).transport))
