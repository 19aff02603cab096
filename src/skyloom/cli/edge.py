"""``skyloom edge``: hands over to the small program, which imports none of this. ``edge run`` becomes it; the other words only ask it."""

import os
import sys

import typer

app = typer.Typer(help="A model on a small device: join, run, status.", add_completion=False, rich_markup_mode=None)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="A model on a small device: join, run, status. It serves offline, and reports when it can.",
)
def edge(context: typer.Context) -> None:
    """Do what ``python -m skyloom.edge`` does with the same words."""
    words = list(context.args)
    if words[:1] == ["run"] and not {"-h", "--help"} & set(words):
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "skyloom.edge", *words])  # noqa: S606
    from skyloom.edge.__main__ import main

    try:
        code = main(words)
    except SystemExit as end:  # how argparse ends, after its help too
        code = end.code if isinstance(end.code, int) else 0
    raise typer.Exit(code)
