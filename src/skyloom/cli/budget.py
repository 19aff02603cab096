"""``skyloom budget``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.rooms.cost.budget import BudgetMissing, Period
from skyloom.sdk.client import Client

app = words("Budgets: what a project or a user may spend. At the limit, jobs write a checkpoint and stop.")
User = Annotated[str | None, typer.Option("--user", help="Of this user, not of the whole project.")]
BudgetId = Annotated[str | None, typer.Argument(metavar="[BUDGET]", help="Its id; else the project's.")]


@app.command("set")
def set_(
    usd: Annotated[float | None, typer.Option("--usd", help="Dollars.")] = None,
    gpu_hours: Annotated[float | None, typer.Option("--gpu-hours", help="GPUs held, times hours.")] = None,
    cpu_hours: Annotated[float | None, typer.Option("--cpu-hours", help="CPU cores held, times hours.")] = None,
    per: Annotated[Period, typer.Option("--per", help="Counted anew each month, or once for all.")] = Period.TOTAL,
    user: User = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Set a budget, or change it: `skyloom budget set --usd 50 --per month`.

    Jobs whose work no longer fits are told to write a checkpoint and stop (BUDGET_EXHAUSTED).
    """
    with cloud(project) as client:
        show(client.budgets.set(usd=usd, gpu_hours=gpu_hours, cpu_hours=cpu_hours, user=user, period=per), as_json)


@app.command("list")
def list_(limit: Limit = 100, project: Project = None, as_json: AsJson = False) -> None:
    """List budgets: what is used, what is promised to jobs, where it is going."""
    with cloud(project) as client:
        show(client.budgets.list(limit), as_json)


@app.command("show")
def show_(
    budget: BudgetId = None,
    user: User = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show one budget."""
    with cloud(project) as client:
        show(client.budgets.get(budget or _named(client, user)), as_json)


@app.command()
def delete(
    budget: BudgetId = None,
    user: User = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Remove a budget: nothing is refused or stopped for it any more."""
    with cloud(project) as client:
        show(client.budgets.delete(budget or _named(client, user)), as_json)


def _named(client: Client, user: str | None) -> str:
    """The id of the project's budget, or of a user's."""
    name = user or client.project
    for status in client.budgets.list(1_000).items:
        if (status.budget.scope == "user") is bool(user) and status.budget.name == name:
            return status.budget.id
    whose = f"user {user}" if user else f"project {name}"
    raise BudgetMissing(f"There is no budget of {whose}.", next_action="List them: skyloom budget list.")
