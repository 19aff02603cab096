"""Nouns of planning: what was measured, the time model made of it, what it predicts, and which number of workers was chosen."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import ShortText
from skyloom.core.errors import InvalidInput
from skyloom.rooms.planning.terms import Term

MAX_WORKERS, MAX_MEASUREMENTS = 1_024, 10_000
Workers = Annotated[int, Meta(ge=1, le=MAX_WORKERS)]
Seconds = Annotated[float, Meta(ge=1e-6, le=1e10)]
Share = Annotated[float, Meta(ge=1e-9, le=1e6)]
Usd = Annotated[float, Meta(gt=0, le=1e12)]
Rows = Annotated[int, Meta(ge=1, le=2**40)]


class MeasurementsUnusable(InvalidInput):
    """The measurements cannot be read, or are too few to tell what was asked."""


class AimUnclear(InvalidInput):
    """A deadline, a budget, a price or a range that cannot be meant."""


class AimImpossible(InvalidInput):
    """No number of workers reaches the deadline or stays within the budget. The message has the best possible."""


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
    """

    terms: dict[Term, float]
    noise_share: float
    laws: tuple[Law, ...]
    num_measurements: int
    measured_workers: tuple[int, ...]
    by_batch: bool = False


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


OPERATIONS = ()
