"""How plans are shown: the curve as a table with drawn intervals, then what was chosen and why."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.plots import whisker
from skyloom.cli.wording import human
from skyloom.core.money import short, usd
from skyloom.rooms.planning.model import (
    AccuracyRow,
    Breakdown,
    Estimate,
    Forecast,
    NewEstimate,
    PlanOutcome,
    PlanProgress,
    TimePlan,
)
from skyloom.rooms.planning.terms import SIGNS

_FEW_ROWS = 12

COLUMNS: Mapping[type, Sequence[Column]] = {
    TimePlan: (
        of("id", "plan"),
        of("name"),
        of("chosen.workers", "workers"),
        Column("time", lambda plan: human("time_s", plan.chosen.seconds)),
        Column("cost", lambda plan: usd(plan.chosen.cost_usd)),
        of("run_id", "run"),
        of("created_at"),
    ),
    Breakdown: (
        of("workers"),
        Column("batch size", lambda part: human("", part.batch_size or None)),
        of("startup_s", "start"),
        of("step_s", "a step"),
        of("steps"),
        of("checkpoints_s", "checkpoints"),
        of("finish_s", "finish"),
    ),
    AccuracyRow: (
        of("name"),
        of("num_trainings", "trainings"),
        Column("median error", lambda row: human("_share", row.median_error_share)),
        Column("worst", lambda row: human("_share", row.worst_error_share)),
        Column("inside interval", lambda row: human("_share", row.inside_share)),
        Column("in time", lambda row: human("_share", row.in_time_share)),
    ),
    Estimate: (
        of("workers"),
        of("batch_size"),
        Column("time", lambda one: human("time_s", one.seconds)),
        Column("from", lambda one: human("low_s", one.low_s)),
        Column("to", lambda one: human("high_s", one.high_s)),
        Column("cost", lambda one: usd(one.cost_usd)),
    ),
}

PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    PlanOutcome: (
        (
            of("workers"),
            Column("predicted", lambda came: f"{human('_s', came.predicted_s)}, {usd(came.predicted_usd)}"),
            Column("interval", lambda came: f"{human('_s', came.low_s)} to {human('_s', came.high_s)}"),
            Column("came", lambda came: f"{human('_s', came.actual_s)}, {usd(came.actual_usd)}"),
            Column("off by", lambda came: human("_share", came.error_share)),
            of("inside", "in the interval"),
            of("in_time"),
            of("state"),
            of("attempts"),
            of("ended_at"),
        ),
        (),
    ),
    NewEstimate: (
        (
            Column("done", lambda now: f"{now.step:,} of {now.total_steps:,} steps"),
            of("steps_per_s"),
            Column("steps take", lambda now: f"{now.slowdown:.3g} times what was planned"),
            of("finish_at", "ends"),
            Column("between", lambda now: f"{human('_at', now.finish_low_at)} and {human('_at', now.finish_high_at)}"),
            of("danger"),
            of("recommended_workers", "in time with workers"),
        ),
        (),
    ),
    PlanProgress: (
        (
            of("plan.id", "plan"),
            of("plan.name"),
            of("plan.run_id", "run"),
            of("plan.job_id", "job"),
            of("state"),
            of("plan.workers"),
            Column("predicted", lambda told: human("_s", told.plan.chosen.seconds)),
            of("plan.deadline_at", "deadline"),
            of("estimate.message"),
        ),
        ("estimate", "outcome", "plan"),
    ),
}


def rows_of_forecast(forecast: Forecast | TimePlan) -> tuple[Sequence[Column], Sequence[Estimate]]:
    """The curve of a forecast as a table: few of many numbers of workers, the chosen one marked, each time with its interval drawn."""
    chosen, estimates = forecast.chosen.workers, forecast.predictions
    counts = {round(step * 2**power) for power in range(12) for step in (1, 1.5)}
    ends = {estimates[0].workers, estimates[-1].workers, chosen}
    shown = [one for one in estimates if one.workers in counts | ends or len(estimates) <= _FEW_ROWS]
    top = 1.25 * max(one.seconds for one in shown)
    drawn = Column("0 … " + human("_s", top), lambda one: whisker(one.low_s, one.seconds, one.high_s, top))
    mark = Column("", lambda one: "← chosen" if one.workers == chosen else "")
    return (*COLUMNS[Estimate], drawn, mark), shown


def words_of_forecast(forecast: Forecast | TimePlan) -> list[tuple[str, str]]:
    """What was chosen and why, the law behind it, and what to know before believing it."""
    chosen, model = forecast.chosen, forecast.model
    span = f"{human('_s', chosen.low_s)} to {human('_s', chosen.high_s)} in 9 of 10 runs"
    size = f", batch size {chosen.batch_size:,}" if chosen.batch_size else ""
    law = " + ".join(f"{short(seconds, 3)}{SIGNS[term] and '·'}{SIGNS[term]}" for term, seconds in model.terms.items())
    return [
        ("", ""),
        ("chosen", f"{chosen.workers} worker{'s' if chosen.workers > 1 else ''}{size}: {chosen.reason}"),
        ("takes", f"{human('_s', chosen.seconds)} ({span})"),
        ("costs", f"{usd(chosen.cost_usd)}, at most about {usd(chosen.high_cost_usd)}"),
        ("law", f"T = {law} s, noise {human('noise_share', model.noise_share)}, {model.num_measurements} measurements"),
        *(("note", note) for note in forecast.notes),
    ]
