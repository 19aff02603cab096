"""``skyloom plan``: how long will it take, what will it cost, how many workers suit it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from skyloom.cli import pictures, values
from skyloom.cli.frame import AsJson, Cpus, Gpus, Memory
from skyloom.cli.render import show
from skyloom.core.resources import Resources, parse_bytes
from skyloom.rooms.planning.model import Aim, AimUnclear
from skyloom.sdk.planning import forecast, measurements_in, worker_price

_MAKE = "make"


class PlanUnclear(AimUnclear):
    """The command line does not say what to plan."""


class _Words(TyperGroup):
    """A noun with verbs, of which one goes without saying: ``skyloom plan train.py`` is ``skyloom plan make train.py``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = args or ["--help"]
        told = args[0] == "--help" or args[0] in self.commands
        return super().parse_args(ctx, args if told else [_MAKE, *args])


app = typer.Typer(
    help="Predict time and cost of a training; choose its workers.",
    cls=_Words,
    add_completion=False,
    rich_markup_mode=None,
    epilog="All options: skyloom plan make --help. Try: skyloom plan --from-measurements times.csv --deadline 2h",
)
app.callback()(lambda: None)

Deadline = Annotated[str | None, typer.Option("--deadline", help="End by then: 2h, or 2026-01-31T18:00.")]
Budget = Annotated[float | None, typer.Option("--budget", help="Spend at most this, in USD.")]
Price = Annotated[
    float | None,
    typer.Option("--price-per-worker-hour", help="In USD.  [default: by the price book]", show_default=False),
]
Picture = Annotated[Path | None, typer.Option("--plot", help="Draw the curve: a .png or .html file.")]


@app.command(_MAKE)
def make(
    from_measurements: Annotated[
        Path | None, typer.Option("--from-measurements", metavar="FILE.csv", help="workers,data_fraction,seconds")
    ] = None,
    deadline: Deadline = None,
    budget: Budget = None,
    max_workers: Annotated[int, typer.Option("--max-workers", help="How many may be chosen.")] = 64,
    data_fraction: Annotated[float, typer.Option("--data-fraction", help="Work to predict; 1 is all.")] = 1.0,
    price: Price = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="That the training was tuned for.")] = None,
    noise_scale: Annotated[
        float | None, typer.Option("--noise-scale", help="Gradient noise scale in rows: lets the batch size change.")
    ] = None,
    plot: Picture = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0,
    memory: Memory = "2GiB",
    as_json: AsJson = False,
) -> None:
    """Predict the time of a training for each number of workers, price it, and choose one.

    With a deadline the cheapest in time is chosen, with a budget the fastest that it pays for, else the knee of the curve.
    """
    if from_measurements is None:
        raise PlanUnclear(
            "Nothing says what to plan.", next_action="Give --from-measurements FILE.csv, a recipe or a script."
        )
    if plot is not None:
        pictures.check(plot)
    aim = Aim(
        deadline_s=_deadline_s(deadline),
        budget_usd=budget,
        max_workers=max_workers,
        data_fraction=data_fraction,
        price_usd_per_worker_hour=_price(price, cpus, gpus, memory),
        base_batch_size=batch_size,
        noise_scale_rows=noise_scale,
    )
    found = forecast(measurements_in(from_measurements), aim)
    if plot is not None:
        pictures.draw(found, plot)
    show(found, as_json)


def _price(price: float | None, cpus: float, gpus: int, memory: str) -> float:
    if price is not None:
        return price
    return worker_price(Resources(cpus=cpus, gpus=gpus, memory_bytes=parse_bytes(values.size(memory))))


def _deadline_s(text: str | None) -> float | None:
    """A duration, or a moment of the calendar, as seconds from now. Raises `AimUnclear` for what is past."""
    if text is None:
        return None
    if "-" not in text[1:]:
        left_s = values.duration_s(text.removeprefix("-")) * (-1 if text.startswith("-") else 1)
    else:
        try:
            left_s = (datetime.fromisoformat(text).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except ValueError as error:
            raise values.UnreadableOption(
                f"{text!r} is neither a duration nor a date.", next_action="Write 2h, or 2026-01-31T18:00."
            ) from error
    if left_s <= 0:
        raise AimUnclear(
            f"The deadline {text} is in the past.", next_action="Give a time that is still to come, for example 2h."
        )
    return left_s
