"""``skyloom plan``: how long will it take, what will it cost, how many workers suit it."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from skyloom.cli import pictures, values
from skyloom.cli.frame import AsJson, Cpus, Cursor, Detach, Gpus, Include, Limit, Memory, Project, cloud
from skyloom.cli.job import attend
from skyloom.cli.render import show
from skyloom.cli.train import parameter_value
from skyloom.cli.trials import PlanUnclear, epochs_of, numbers_to_try, order_of, sizes_to_try, try_out
from skyloom.core.resources import Resources, parse_bytes
from skyloom.rooms.planning.checking import check_aim
from skyloom.rooms.planning.model import Aim, AimUnclear, Forecast, TimePlan
from skyloom.sdk.client import Client
from skyloom.sdk.planning import forecast, measurements_in, worker_price, workers_that_fit

_MAKE = "make"
_MOST_FROM_FILE = 64


class _Words(TyperGroup):
    """A noun with verbs, of which one goes without saying: ``skyloom plan train.py`` is ``skyloom plan make train.py``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = args or ["--help"]
        told = args[0] == "--help" or args[0] in self.commands
        return super().parse_args(ctx, args if told else [_MAKE, *args])


app = typer.Typer(
    help="Predict time and cost of a training; choose its workers: skyloom plan train.py --deadline 2h --budget 5",
    cls=_Words,
    add_completion=False,
    rich_markup_mode=None,
    epilog="All options of a plan: skyloom plan make --help (the word make may be left out).",
)
app.callback()(lambda: None)

What = Annotated[str | None, typer.Argument(metavar="[RECIPE|SCRIPT.py]", help="image, tabular, or a Python file.")]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-measurements", metavar="FILE.csv", help="Instead of trials: workers,data_fraction,seconds"),
]
Deadline = Annotated[str | None, typer.Option("--deadline", help="End by then: 2h, or 2026-01-31T18:00.")]
Budget = Annotated[float | None, typer.Option("--budget", help="Spend at most this, in USD.")]
Price = Annotated[
    float | None,
    typer.Option("--price-per-worker-hour", help="In USD, for measurements.  [default: by the settings]"),
]
Picture = Annotated[Path | None, typer.Option("--plot", help="Draw the curve: a .png or .html file.")]
WorkerRange = Annotated[
    str | None, typer.Option("--workers", "-w", metavar="N|LEAST-MOST", help="May be chosen.  [default: all that fit]")
]
MaxWorkers = Annotated[int | None, typer.Option("--max-workers", help="The same as --workers 1-MOST.")]
TrialShare = Annotated[float, typer.Option("--trial-share", help="Of the steps, tried with each number of workers.")]
TrialWorkers = Annotated[str | None, typer.Option("--trial-workers", metavar="1,2,4", help="Try with these.")]
TrialSizes = Annotated[
    str | None,
    typer.Option("--batch-sizes", metavar="64,128", help="May be chosen: each is tried. Needs --set epochs."),
]
NoiseScale = Annotated[
    float | None, typer.Option("--noise-scale", help="Gradient noise scale in rows: lets the batch size change.")
]
Go = Annotated[bool, typer.Option("--go", help="Start the training with the chosen workers.")]
GoElastic = Annotated[
    bool, typer.Option("--elastic", help="With --go: the scheduler may give it any of the planned numbers of workers.")
]
PlanId = Annotated[str, typer.Argument(metavar="PLAN")]


@app.command(_MAKE)
def make(
    what: What = None,
    from_measurements: FromFile = None,
    deadline: Deadline = None,
    budget: Budget = None,
    workers: WorkerRange = None,
    max_workers: MaxWorkers = None,
    data_fraction: Annotated[float, typer.Option("--data-fraction", help="Work to predict; 1 is all.")] = 1.0,
    price: Price = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="That the training was tuned for.")] = None,
    noise_scale: NoiseScale = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "--data", metavar="NAME[:VERSION]")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Column to predict.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the result, with --go.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="NAME=VALUE")] = None,
    include: Include = None,
    steps: Annotated[int, typer.Option("--steps", min=0, help="In all, where the script cannot say it.")] = 0,
    trial_share: TrialShare = 0.05,
    trial_on: TrialWorkers = None,
    batch_sizes: TrialSizes = None,
    go: Go = False,
    elastic: GoElastic = False,
    plot: Picture = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "2GiB",
    detach: Detach = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Predict the time of a training for each number of workers, price it, and choose one.

    With a deadline the cheapest in time is chosen, with a budget the fastest that it pays for, else the knee of the curve.
    A recipe or a script is tried first: its first steps run as jobs with 1, 2, 4 … workers.
    """
    _check_sense(what, from_measurements, price, data_fraction, go=go)
    if plot is not None:
        pictures.check(plot)
    least, most = _span(workers, max_workers)
    each = Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(values.size(memory)))
    aim = Aim(
        budget_usd=budget,
        min_workers=least,
        max_workers=max(least, _MOST_FROM_FILE) if most is None else most,
        data_fraction=data_fraction,
        base_batch_size=batch_size,
        noise_scale_rows=noise_scale,
    )
    ends_at = _ends_at(deadline)
    if from_measurements is not None:
        aim = _by(ends_at, aim, price_usd_per_worker_hour=worker_price(each) if price is None else price)
        found: Forecast | TimePlan = forecast(measurements_in(from_measurements), aim)
        return _told(found, plot, as_json)
    assert what is not None
    training = _training(what, dataset, target, parameter or (), include or (), each, memory)
    sizes = sizes_to_try(batch_sizes, training["parameters"], go=go)
    order = order_of(trial_share, steps)
    with cloud(project) as client:
        fits = workers_that_fit(client.overview.status().capacity, each)
        aim = aim if most is not None else msgspec.structs.replace(aim, max_workers=max(least, fits))
        check_aim(_by(ends_at, aim))
        counts = numbers_to_try(trial_on, aim, fits)
        trials = try_out(client, counts, sizes, order, training, budget, as_json)
        plan = client.plans.make(_name(what, dataset), trials, _by(ends_at, aim), resources=each)
        _told(plan, plot, as_json, quiet=go and as_json)
        if go:
            _start(client, plan, {**training, **_workers(plan, elastic)}, model, detach, as_json)


def _check_sense(
    what: str | None, from_measurements: Path | None, price: float | None, data_fraction: float, *, go: bool
) -> None:
    """Raise `PlanUnclear` for words that would be passed over in silence."""
    if (what is None) == (from_measurements is None):
        raise PlanUnclear(
            "It does not say what to plan.", next_action="Give a recipe, a script, or --from-measurements FILE.csv."
        )
    if go and what is None:
        raise PlanUnclear(
            "Measurements cannot be started (--go).", next_action="Give the recipe or the script instead."
        )
    if go and data_fraction != 1:
        raise PlanUnclear(
            "--go trains on all of the data, and --data-fraction plans for another share.",
            next_action="Give one of them.",
        )
    if price is not None and what is not None:
        raise PlanUnclear(
            "--price-per-worker-hour is for measurements.",
            next_action="Leave it out: what is tried costs what the price book says (skyloom price list).",
        )


def _told(found: Forecast | TimePlan, plot: Path | None, as_json: bool, *, quiet: bool = False) -> None:
    if plot is not None:
        pictures.draw(found, plot)
    if not quiet:
        show(found, as_json)


@app.command("show")
def show_(plan: PlanId, project: Project = None, as_json: AsJson = False) -> None:
    """Show a plan; while its training runs, with a new estimate of its end."""
    with cloud(project) as client:
        show(client.plans.get(plan), as_json)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List plans, newest first."""
    with cloud(project) as client:
        show(client.plans.list(limit, cursor), as_json)


@app.command()
def accuracy(limit: Limit = 1_000, project: Project = None, as_json: AsJson = False) -> None:
    """Show how far off the predictions of planned trainings were."""
    with cloud(project) as client:
        show(client.plans.accuracy(limit), as_json)


def _training(
    what: str,
    dataset: str | None,
    target: str | None,
    parameters: Sequence[str],
    include: Sequence[Path],
    each: Resources,
    memory: str,
) -> dict[str, Any]:
    """What `TrainingCalls.start` takes, but for the workers."""
    name, _, version = (dataset or "").partition(":")
    script = Path(what) if what.endswith(".py") else None
    return {
        "recipe": "" if script else what,
        "script": script,
        "dataset": name or None,
        **({"version": version} if version else {}),
        "target": target,
        "parameters": {key: parameter_value(text) for key, text in values.variables(parameters, "--set").items()},
        "include": values.files(include),
        "cpus": each.cpus,
        "gpus": each.gpus,
        "memory": memory,
    }


def _start(
    client: Client, plan: TimePlan, training: dict[str, Any], model: str | None, detach: bool, as_json: bool
) -> None:
    """Start what was planned, held to its budget and queued by its deadline, and follow it."""
    training = {**training, **_batch(plan, training["parameters"]), **({"model": model} if model else {})}
    begun = client.trainings.start(
        deadline_at=plan.deadline_at,
        budget_usd=plan.aim.budget_usd,
        **training,
    )
    client.plans.follow(plan.id, begun.run.id)
    if detach:
        return show(client.plans.get(plan.id) if as_json else begun, as_json)
    if not as_json:
        typer.echo(f"{begun.run.id} in {begun.run.job_id}. How it goes: skyloom plan show {plan.id}", err=True)
    attend(client, begun.run.job_id, as_json)


def _workers(plan: TimePlan, elastic: bool) -> dict[str, Any]:
    """The chosen workers; or any of the planned numbers, with what each of them was found to be worth."""
    if not elastic:
        return {"workers": plan.chosen.workers, "expected_duration_s": plan.chosen.seconds}
    least, most = plan.predictions[0], plan.predictions[-1]
    below = tuple(count / least.workers for count in range(1, least.workers))
    return {
        "workers": (least.workers, most.workers),
        "expected_duration_s": least.seconds,
        "speedups": (*below, *(least.seconds / one.seconds for one in plan.predictions)),
    }


def _batch(plan: TimePlan, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a training whose batch size was chosen too: its rows teach less, so it takes more epochs."""
    size = plan.chosen.batch_size
    if size is None:
        return {}
    epochs = math.ceil(epochs_of(parameters) * plan.epochs_factor)
    return {"parameters": {**parameters, "batch_size": size, "epochs": epochs}}


def _name(what: str, dataset: str | None) -> str:
    """What the planner's own error is told by."""
    on = (dataset or "").partition(":")[0]
    return f"{Path(what).name} on {on}" if on else Path(what).name


def _span(workers: str | None, max_workers: int | None) -> tuple[int, int | None]:
    """The least and the most workers; None for the most when nothing says it."""
    if workers is None:
        return 1, max_workers
    if max_workers is not None:
        raise PlanUnclear("--workers and --max-workers say the same.", next_action="Give one of them.")
    least, most = values.workers(workers)
    return least, most or least


def _ends_at(text: str | None) -> float | None:
    """A duration from now, or a moment of the calendar, as Unix seconds. Raises `AimUnclear` for what is past."""
    if text is None:
        return None
    if "-" not in text[1:]:
        left_s = values.duration_s(text.removeprefix("-")) * (-1 if text.startswith("-") else 1)
    else:
        try:
            left_s = (datetime.fromisoformat(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError) as error:
            raise values.UnreadableOption(
                f"{text!r} is neither a duration nor a date.", next_action="Write 2h, or 2026-01-31T18:00."
            ) from error
    if left_s <= 0:
        raise AimUnclear(
            f"The deadline {text} is in the past.", next_action="Give a time that is still to come, for example 2h."
        )
    return time.time() + left_s


def _by(ends_at: float | None, aim: Aim, **changes: Any) -> Aim:
    """An aim with the time that is left until its deadline. Raises `AimUnclear` when that has passed."""
    left_s = None if ends_at is None else ends_at - time.time()
    if left_s is not None and left_s <= 0:
        raise AimUnclear("The deadline passed during the trials.", next_action="Allow more time, or try less of it.")
    return msgspec.structs.replace(aim, deadline_s=left_s, **changes)
