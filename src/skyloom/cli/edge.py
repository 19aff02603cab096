"""``skyloom edge``: hands over to the small process, which imports none of this."""

import os
import sys

import typer

app = typer.Typer(help="A model on a small device: join, run, status.", add_completion=False, rich_markup_mode=None)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="A model on a small device: join, run, status. It serves offline, and reports when it can.",
)
def edge(context: typer.Context) -> None:
    """Become ``python -m skyloom.edge``; its words have helps of their own."""
    if context.args in ([], ["--help"], ["-h"]):
        typer.echo(
            f"{context.get_help()}\n\nSee: skyloom edge join --help, skyloom edge run --help, skyloom edge status --help."
        )
        return
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "skyloom.edge", *context.args])  # noqa: S606
