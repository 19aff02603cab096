"""Asking a person before something is done that cannot be undone."""

import sys

import typer

from skyloom.core.errors import InvalidInput


class NotConfirmed(InvalidInput):
    """Nobody can be asked whether it is meant."""


def confirm(what: str, *, next_action: str) -> None:
    """Ask on the terminal; leaves by ``typer.Abort`` for a no.

    Args:
        what: would be done, as a sentence without its end.
        next_action: for a script. Raises `NotConfirmed` with it where nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{what}, and nobody can be asked.", next_action=next_action)
    typer.confirm(f"{what}. Do it?", err=True, abort=True)
