"""Nouns of planning: what was measured, the time model made of it, what it predicts, and which number of workers was chosen."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name, ShortText
from skyloom.core.errors import Conflict, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.store import Record
from skyloom.rooms.planning.terms import Term

MAX_WORKERS, MAX_MEASUREMENTS = 1_024, 10_000
Workers = Annotated[int, Meta(ge=1, le=MAX_WORKERS)]
Seconds = Annotated[float, Meta(ge=1e-6, le=1e10)]
Share = Annotated[float, Meta(ge=1e-9, le=1e6)]
Usd = Annotated[float, Meta(gt=0, le=1e12)]
Moment = Annotated[float, Meta(ge=0, le=1e12)]
Rows = Annotated[int, Meta(ge=1, le=2**40)]


class MeasurementsUnusable(InvalidInput):
    """The measurements cannot be read, or are too few to tell what was asked."""


class AimUnclear(InvalidInput):
    """A deadline, a budget, a price or a range that cannot be meant."""


class AimImpossible(InvalidInput):
    """No number of workers reaches the deadline or stays within the budget. The message has the best possible."""


class PlanMissing(NotFound):
    """No such plan in this project."""


class PlanFollowed(Conflict):
    """Another run follows the plan already."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """A share of the work, done by some workers, and how long it took.

    Attributes:
        data_fraction: of the whole work; above 1 for more than it.
        batch_size: rows of one step, all workers together; None where it never changes.
    """

    workers: Annotated[int, Meta(ge=1, le=100_000)]
    data_fraction: Share
    seconds: Seconds
    batch_size: Rows | None = None


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate: a sum of terms.

    Attributes:
        weight: how much the measurements speak for it; all weights of a model add up to 1.
        coefficients: seconds that each term adds, by term, in the order of ``spread``.
        spread: times the variance of the noise, the covariance of the coefficients.
        noise_share: standard deviation of one run, as a share of its time.
        degrees: of freedom of that noise.
    """

    weight: float
    coefficients: dict[Term, float]
    spread: tuple[tuple[float, ...], ...]
    noise_share: float
    degrees: float


class TimeModel(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a training as a function of its workers.

    Attributes:
        terms: seconds of each term in the law that the measurements speak most for; none is below zero.
        noise_share: standard deviation of one run, as a share of its time.
        laws: all candidates that could be true, the best first; a prediction is their weighted geometric mean.
        by_batch: it knows what the batch size changes.
        run_noise_share: how much whole runs differ beyond what the measurements could show.
    """

    terms: dict[Term, float]
    noise_share: float
    laws: tuple[Law, ...]
    num_measurements: int
    measured_workers: tuple[int, ...]
    by_batch: bool = False
    run_noise_share: float = 0.0


class Aim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the plan is for. With neither a deadline nor a budget, the knee of the curve is chosen.

    Attributes:
        deadline_s: from the start of the training to its end.
        budget_usd: for all workers together.
        min_workers, max_workers: how many may be chosen.
        data_fraction: the work to predict; 1 is all of it.
        price_usd_per_worker_hour: what one worker costs while it runs.
        base_batch_size: what the training was tuned for, where the batch size may change.
        noise_scale_rows: the gradient noise scale (McCandlish et al., 2018): how large a batch may be before its rows teach less.
    """

    deadline_s: Seconds | None = None
    budget_usd: Usd | None = None
    min_workers: Workers = 1
    max_workers: Workers = 64
    data_fraction: Share = 1.0
    price_usd_per_worker_hour: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    base_batch_size: Rows | None = None
    noise_scale_rows: Annotated[float, Meta(ge=0, le=1e15)] | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of one number of workers.

    Attributes:
        seconds: from start to end.
        low_s, high_s: nine runs of ten should end in between.
        cost_usd: of all workers, for the expected time.
        high_cost_usd: for the longest time that is to be reckoned with.
        batch_size: the best one for so many workers, where the measurements know what it changes.
    """

    workers: int
    seconds: float
    low_s: float
    high_s: float
    cost_usd: float = 0.0
    high_cost_usd: float = 0.0
    batch_size: int | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen number of workers, and why.

    Attributes:
        sure: the whole interval is within what was asked, not only its middle.
    """

    workers: int
    seconds: float
    low_s: float
    high_s: float
    cost_usd: float
    high_cost_usd: float
    reason: ShortText
    sure: bool = True
    batch_size: int | None = None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The curve of time and cost over workers, and the choice on it.

    Attributes:
        notes: what to know before believing it.
    """

    chosen: Choice
    predictions: tuple[Estimate, ...]
    model: TimeModel
    aim: Aim
    notes: tuple[str, ...] = ()


class StepTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What the program of a trial measured; `skyloom.runtime.trial` writes it.

    Attributes:
        total_steps: of the whole training; 0 when the program did not say.
        first_step, last_step: between them, the steps were timed.
        began_at, ended_at: Unix seconds of these two; checkpoints that were tried after the last step count to it.
        step_s: durations of single steps, the warm-up left out.
        checkpoint_s: what one checkpoint takes; the whole training writes ``num_checkpoints``.
        noise_scale_rows: the gradient noise scale in the first steps; None when it was not measured.
    """

    total_steps: Annotated[int, Meta(ge=0, le=2**53)]
    first_step: Annotated[int, Meta(ge=0, le=2**53)] = 0
    last_step: Annotated[int, Meta(ge=0, le=2**53)] = 0
    began_at: Moment
    ended_at: Moment
    step_s: Annotated[tuple[Annotated[float, Meta(ge=0, le=1e9)], ...], Meta(min_length=1, max_length=5_001)]
    checkpoint_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    num_checkpoints: Annotated[int, Meta(ge=0, le=2**53)] = 0
    batch_size: Annotated[int, Meta(ge=0, le=2**40)] = 0
    num_rows: Annotated[int, Meta(ge=0, le=2**53)] = 0
    noise_scale_rows: Annotated[float, Meta(ge=0, le=1e15)] | None = None


class TrialRun(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as its job saw it.

    Attributes:
        started_at, ended_at: Unix seconds of the job's first process and of its last.
        pool: where it ran; its prices count.
    """

    workers: Workers
    started_at: Moment
    ended_at: Moment
    times: StepTimes
    job_id: Annotated[str, Meta(max_length=120)] = ""
    pool: Name = "local"


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one number of workers goes, as tried.

    Attributes:
        startup_s: before the first step; loading the data, mostly.
        step_s: the middle of the tried steps.
        checkpoints_s: all of them.
        finish_s: after the last step: evaluation, export.
    """

    workers: int
    batch_size: int = 0
    startup_s: float
    step_s: float
    steps: int
    checkpoints_s: float
    finish_s: float


class Danger(enum.StrEnum):
    """How a running training stands to its deadline."""

    NONE = "none"
    AT_RISK = "at_risk"  # the interval reaches beyond it
    LATE = "late"  # the expected end is beyond it


class TimePlan(Record, frozen=True, kw_only=True):
    """A forecast that is kept, and the training that follows it.

    Attributes:
        name: what is trained; the planner's own error is told by it.
        resources: of each worker.
        deadline_at: Unix seconds; None without one.
        parts: what was tried, by workers.
        epochs_factor: how many times the epochs that the chosen batch size needs, since its rows teach less; 1 for the usual one.
        run_id, job_id, workers: of the training that follows it; empty and 0 before.
        open: a training follows it and has not ended.
        danger: of missing the deadline, when that was looked at last.
    """

    name: ShortText
    created_at: float
    created_by: str
    resources: Resources
    chosen: Choice
    predictions: tuple[Estimate, ...]
    model: TimeModel
    aim: Aim
    notes: tuple[str, ...] = ()
    deadline_at: float | None = None
    parts: tuple[Breakdown, ...] = ()
    epochs_factor: float = 1.0
    run_id: str = ""
    job_id: str = ""
    workers: int = 0
    open: bool = False
    danger: Danger = Danger.NONE


class PlanOutcome(Record, frozen=True, kw_only=True):
    """What was predicted of a training and what came. Kept for ever; its id is the plan's.

    Attributes:
        actual_usd: of all attempts together, by the ledger.
        state: how the job ended; only success counts for the planner's error.
        attempts: more than 1 when it had to start again, which no forecast knew.
        error_share: how far off, as a share of what came: 0.1 is 10 % too long or too short.
        inside: it ended within the interval.
        in_time: it took no longer than the deadline allowed; None without one.
    """

    name: str
    job_id: str
    workers: int
    predicted_s: float
    low_s: float
    high_s: float
    predicted_usd: float
    actual_s: float
    actual_usd: float
    error_share: float
    inside: bool
    in_time: bool | None = None
    state: str
    attempts: int = 1
    ended_at: float


class NewEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a running training, estimated anew from the rate it has.

    Attributes:
        step, total_steps: done, and in all.
        steps_per_s: measured in its newer half.
        slowdown: measured time of a step over the planned one.
        finish_at, finish_low_at, finish_high_at: Unix seconds.
        recommended_workers: with which it would still be in time, where the deadline is in danger; else None.
    """

    step: int
    total_steps: int
    steps_per_s: float
    slowdown: float
    finish_at: float
    finish_low_at: float
    finish_high_at: float
    danger: Danger = Danger.NONE
    recommended_workers: int | None = None
    message: str = ""


class PlanProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, and what has become of its training.

    Attributes:
        state: of the training's job; empty before there is one.
        estimate: while it runs and has reported steps.
        outcome: once it ended.
    """

    plan: TimePlan
    state: str = ""
    estimate: NewEstimate | None = None
    outcome: PlanOutcome | None = None


class AccuracyRow(msgspec.Struct, frozen=True, kw_only=True):
    """The planner's own error over some trainings.

    Attributes:
        median_error_share: half of the predictions were closer.
        inside_share: ended within their interval; it says 0.9.
        in_time_share: met their deadline; None where none had one.
    """

    name: str
    num_trainings: int
    median_error_share: float
    worst_error_share: float
    inside_share: float
    in_time_share: float | None = None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How far off predictions were: in all and by what was trained. Empty before the first planned training has ended."""

    total: AccuracyRow | None
    rows: tuple[AccuracyRow, ...]


@operation("plans.make", Right.RUN, "POST /plans")
class MakePlan(Operation[TimePlan], frozen=True, kw_only=True):
    """Fit a time model to trials, predict and price every number of workers, choose one, and keep it.

    Attributes:
        aim: its price is ignored: the cloud's own price book counts.
        resources: of each worker.
    """

    name: ShortText
    trials: Annotated[tuple[TrialRun, ...], Meta(min_length=1, max_length=100)]
    aim: Aim = Aim()
    resources: Resources = Resources(memory_bytes=2 * 2**30)


@operation("plans.follow", Right.RUN, "POST /plans/{plan_id}/follow")
class FollowPlan(Operation[TimePlan], frozen=True, kw_only=True):
    """Say which run follows a plan: it is then measured against it. A plan has one run; saying the same again is safe."""

    plan_id: Id
    run_id: Id


@operation("plans.get", Right.READ, "GET /plans/{plan_id}")
class GetPlan(Operation[PlanProgress], frozen=True, kw_only=True):
    """Show a plan; while its training runs, with a new estimate of its end."""

    plan_id: Id


@operation("plans.list", Right.READ, "GET /plans")
class ListPlans(Operation[Page[TimePlan]], frozen=True, kw_only=True):
    """List plans, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("plans.accuracy", Right.READ, "GET /accuracy-of-plans")
class GetAccuracy(Operation[Accuracy], frozen=True, kw_only=True):
    """Show how far off predictions were."""

    limit: Limit = 1_000


OPERATIONS = (MakePlan, FollowPlan, GetPlan, ListPlans, GetAccuracy)
