"""``skyloom apply``: make what a file describes, after showing what that is."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from skyloom.cli.confirming import confirm
from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show
from skyloom.rooms.templates.model import TemplatePlan

app = word("Make the jobs, arrays and schedules that a file describes.")
_WOULD_CHANGE = 1


@app.command()
def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="A template in YAML.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make what a file describes: it shows what it would do, asks, and does all of it or nothing.

    With --dry-run it exits with 0 when nothing would be done and with 1 when something would.
    """
    with cloud(project) as client:
        wanted = client.templates.read(file)
        plan = client.templates.plan(wanted)
        if dry_run:
            show(plan, as_json)
            raise typer.Exit(_WOULD_CHANGE if plan.num_changes else 0)
        if not plan.num_changes:
            return show(plan, as_json)
        if not yes:
            _confirm(plan)
        show(client.templates.apply(wanted), as_json)


def _confirm(plan: TemplatePlan) -> None:
    """Show the plan and ask. Raises `NotConfirmed` where nobody can be asked."""
    show(plan, file=sys.stderr)
    confirm(
        f"{plan.num_changes} things would be done", next_action="Add --yes to do them, or --dry-run to only see them."
    )
