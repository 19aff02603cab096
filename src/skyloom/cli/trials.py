"""What ``skyloom plan`` tries before it predicts: with how many workers, which batch sizes, how much, and for how much money."""

import re
from collections.abc import Sequence
from typing import Any

import typer

from skyloom.cli import values
from skyloom.cli.render import progress, show_error
from skyloom.rooms.planning.model import Aim, AimUnclear, TrialRun
from skyloom.rooms.training.model import TrialOrder
from skyloom.sdk.client import Client
from skyloom.sdk.planning import TrialFailed, trial_workers


class PlanUnclear(AimUnclear):
    """The command line does not say what to plan."""


def numbers_to_try(text: str | None, aim: Aim, fits: int) -> tuple[int, ...]:
    """With how many workers to try. Raises `PlanUnclear` for one number that tells nothing of the others."""
    counts = _numbers(text, "--trial-workers") or trial_workers(aim.min_workers, aim.max_workers, fits)
    if len(counts) == 1 and not counts[0] == aim.min_workers == aim.max_workers:
        raise PlanUnclear(
            f"A trial with {counts[0]} alone tells nothing of {aim.min_workers} to {aim.max_workers} workers.",
            next_action=f"Give --workers {counts[0]}, or --trial-workers 1,2 where there is room for two.",
        )
    return counts


def sizes_to_try(text: str | None, parameters: dict[str, Any], *, go: bool) -> tuple[int, ...]:
    """The batch sizes to try. Raises `PlanUnclear`, before the long work, for what could not be chosen or started after it."""
    sizes = _numbers(text, "--batch-sizes")
    if len(sizes) == 1:
        raise PlanUnclear(
            "One batch size leaves nothing to choose.",
            next_action=f"Give more of them, or --set batch_size={sizes[0]}.",
        )
    if go and sizes:
        epochs_of(parameters)
    return sizes


def order_of(share: float, steps: int) -> TrialOrder:
    """How much of the steps to try. Raises `UnreadableOption`."""
    if not 0 < share <= 1:
        raise values.UnreadableOption(f"--trial-share is {share:g}.", next_action="Give a share, for example 0.05.")
    return TrialOrder(share=share, total_steps=steps)


def try_out(
    client: Client,
    counts: Sequence[int],
    sizes: Sequence[int],
    order: TrialOrder,
    training: dict[str, Any],
    budget_usd: float | None,
    as_json: bool,
) -> list[TrialRun]:
    """Try with each number of workers and each batch size; all trials together spend no more than the budget."""
    found: list[TrialRun] = []
    each = [(count, size) for count in counts for size in (sizes or (None,))]
    with progress("Trying", len(each), as_json) as advance:
        for count, size in each:
            left_usd = None if budget_usd is None else max(0.0, budget_usd - _spent_usd(client, found))
            options = {**training, "budget_usd": left_usd}
            try:
                found.append(client.plans.try_out(workers=count, batch_size=size, order=order, **options))
            except TrialFailed as failure:
                show_error(failure, as_json)
                raise typer.Exit(1) from failure  # the user's program failed, and nothing of ours
            advance(1)
    return found


def _spent_usd(client: Client, trials: Sequence[TrialRun]) -> float:
    """What trials cost, by the ledger."""
    jobs = {trial.job_id for trial in trials}
    since = min((trial.started_at for trial in trials), default=0.0)
    rows = client.costs.get("job", since, 1_000).rows if trials else ()
    return sum(row.cost.usd for row in rows if row.name in jobs)


def epochs_of(parameters: dict[str, Any]) -> float:
    """How many epochs a training is told to do. Raises `PlanUnclear` where nothing says it."""
    epochs = parameters.get("epochs")
    if not isinstance(epochs, int | float):
        raise PlanUnclear(
            "Another batch size needs another number of epochs, and nothing says how many there are.",
            next_action="Give --set epochs=N too, or start it yourself.",
        )
    return epochs


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    if text is None:
        return ()
    if not re.fullmatch(r"[1-9]\d{0,7}(,[1-9]\d{0,7}){0,15}", text):
        raise values.UnreadableOption(f"{option} {text!r} is no list.", next_action="Write 1,2,4.")
    return tuple(sorted({int(word) for word in text.split(",")}))
