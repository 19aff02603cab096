"""The root command: finds the module behind a word when it is used, and turns every error into two lines and an exit code."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from skyloom import __version__
from skyloom.cli.commands import TABLE
from skyloom.cli.plain_help import plainly
from skyloom.core.errors import InternalError, InvalidInput, SkyloomError, Unavailable

_INTERRUPTED = 130
_WIDEST = 120  # columns of help, where the terminal has them


class UsageError(InvalidInput):
    """The command line cannot be read."""


class PackagesClash(Unavailable):
    """What is installed beside Skyloom does not go with it."""


class StillWaiting(Unavailable):
    """What was waited for has not come in the time that was given."""


class Words(TyperGroup):
    """A group whose commands are rows of the table until one is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._rows = {row.name: row for row in TABLE}
        self.commands = cast(Any, self._rows)  # only its keys are used, for "did you mean"

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        row = self._rows.get(cmd_name)
        return plainly(get_command(importlib.import_module(row.module).app)) if row else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.help) for row in self._rows.values()])


app = typer.Typer(
    cls=Words,
    help="Skyloom: an AI cloud in one package, from raw data to a monitored model service.",
    epilog="Start with: skyloom up --detach",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skyloom {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Version.")] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Never raises, never shows a traceback."""
    try:
        code = get_command(app).main(arguments, prog_name="skyloom", standalone_mode=False, max_content_width=_WIDEST)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SkyloomError as error:
        return _told(error)
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except SystemExit as end:
        # typer's way to end when the reader of our output went away (head, less), which is no error.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return 0
    except TimeoutError as error:
        return _told(
            StillWaiting(
                f"{str(error).rstrip('.')}.",
                next_action="It goes on without you; look again, or say a longer --timeout.",
            )
        )
    except Exception as error:
        return _told(_clash(error) if type(error).__module__.startswith("google.protobuf") else _defect(error))


def _told(error: SkyloomError) -> int:
    from skyloom.cli.render import show_error  # only now: help has to come at once

    return show_error(error)


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        typer.echo(context.get_help())
        return 2
    say = getattr(error, "format_message", lambda: str(error))
    words = str(say()).replace(": Value error, ", ": ")  # whose check it was, which says nothing to a person
    where = context.command_path if context is not None else "skyloom"
    words = " ".join(words.split())  # choices come one a line
    return _told(UsageError(words, next_action=f"See: {where} --help"))


def _clash(error: Exception) -> PackagesClash:
    """Another package brought a protobuf that generated code of this environment does not run with."""
    return PackagesClash(
        f"Packages of this environment do not fit together: {str(error).partition('. ')[0]}.",
        next_action="Run: pip install 'protobuf>=7.35.1'. What needs an older one (tritonclient) wants an environment of its own.",
    )


def _defect(error: Exception) -> InternalError:
    at, deepest = "", error.__traceback__
    while deepest is not None:
        at, deepest = f"{Path(deepest.tb_frame.f_code.co_filename).name}:{deepest.tb_lineno}", deepest.tb_next
    return InternalError(
        f"A defect in Skyloom: {type(error).__name__}: {error} ({at}).",
        next_action="Report it with this line and the command.",
    )
