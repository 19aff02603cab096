"""The planner's own error: what was predicted against what came."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from skyloom.core.money import Money
from skyloom.rooms.jobs.model import JobState, JobStatus
from skyloom.rooms.planning.model import Accuracy, AccuracyRow, PlanOutcome, TimePlan

# Two runs of one training differ by some percent whatever is measured: believed as much as five trainings would be.
_USUAL_NOISE, _USUAL_WORTH = 0.03, 5


def outcome(plan: TimePlan, status: JobStatus, spent: Money) -> PlanOutcome | None:
    """Compare a plan with the job that followed it, once that ended; None for a job that never started, or not with planned workers.

    Args:
        spent: for the job, by the ledger.
    """
    workers = len(status.tasks)  # of an elastic gang, those of its last attempt
    predicted = next((one for one in plan.predictions if one.workers == workers), None)
    if predicted is None or status.started_at is None or status.ended_at is None:
        return None
    actual_s = max(1e-6, status.ended_at - status.started_at)
    return PlanOutcome(
        id=plan.id,
        project=plan.project,
        name=plan.name,
        job_id=status.job.id,
        workers=workers,
        predicted_s=predicted.seconds,
        low_s=predicted.low_s,
        high_s=predicted.high_s,
        predicted_usd=predicted.cost_usd,
        actual_s=actual_s,
        actual_usd=spent.usd,
        error_share=abs(predicted.seconds - actual_s) / actual_s,
        inside=predicted.low_s <= actual_s <= predicted.high_s,
        in_time=None if plan.deadline_at is None else status.ended_at <= plan.deadline_at,
        state=status.state.value,
        attempts=status.job.attempt,
        ended_at=status.ended_at,
    )


def counts(one: PlanOutcome) -> bool:
    """True for a training that ran through: a forecast is none of crashes."""
    return one.state == JobState.SUCCEEDED.value and one.attempts == 1


def accuracy(outcomes: Iterable[PlanOutcome]) -> Accuracy:
    """Sum up, in all and by name, the most often trained first."""
    good = [one for one in outcomes if counts(one)]
    by_name: dict[str, list[PlanOutcome]] = defaultdict(list)
    for one in good:
        by_name[one.name].append(one)
    rows = sorted((_row(name, some) for name, some in by_name.items()), key=lambda row: (-row.num_trainings, row.name))
    return Accuracy(total=_row("all", good) if good else None, rows=tuple(rows))


def run_noise(outcomes: Iterable[PlanOutcome]) -> float:
    """How much whole runs differ from their forecast: what is usual, corrected by what came (new plans learn from old errors)."""
    squares = [one.error_share**2 for one in outcomes if counts(one)]
    # The middle of the squares, so that one strange training does not widen every plan; for normal errors it is 0.455 of the variance.
    seen = median(squares) / 0.455 if squares else 0.0
    known = _USUAL_WORTH * _USUAL_NOISE**2 + len(squares) * seen
    return float((known / (_USUAL_WORTH + len(squares))) ** 0.5)


def _row(name: str, some: Sequence[PlanOutcome]) -> AccuracyRow:
    bound = [one.in_time for one in some if one.in_time is not None]
    return AccuracyRow(
        name=name,
        num_trainings=len(some),
        median_error_share=median(one.error_share for one in some),
        worst_error_share=max(one.error_share for one in some),
        inside_share=sum(one.inside for one in some) / len(some),
        in_time_share=sum(bound) / len(bound) if bound else None,
    )
