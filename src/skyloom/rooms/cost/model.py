"""Nouns of cost: the ledger, the sums kept of it, the reports made from them, and prices as an operation."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Limit, Name
from skyloom.core.money import Money
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.store import Record
from skyloom.rooms.cost.prices import PriceBook, PriceList, Tenure, UsdPerHour, check_amounts
from skyloom.rooms.cost.usage import Usage, microseconds

Moment = Annotated[float, Meta(ge=0, le=1e12, description="Unix seconds.")]


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One task's life, priced; one entry for each price that it lived under. Never changed: a later price does not change the past.

    Attributes:
        user: who submitted the job.
        run, model, endpoint: what the task worked for; empty when for none.
        pool: where it ran.
        started_at, ended_at: Unix seconds. A clock that was set back makes the life empty, never negative.
        prices: those that were valid then.
        is_last: its task has no later entry; the one that counts the task.
    """

    project: str
    task_id: str
    job_id: str
    user: str = ""
    run: str = ""
    model: str = ""
    endpoint: str = ""
    pool: str = ""
    resources: Resources
    started_at: float
    ended_at: float
    prices: PriceBook
    cost: Money
    is_last: bool = True

    @property
    def duration_us(self) -> int:
        return microseconds(self.started_at, self.ended_at)

    @property
    def duration_s(self) -> float:
        return max(0.0, self.ended_at - self.started_at)


class CostBy(enum.StrEnum):
    """What a cost report has one row for."""

    PROJECT = "project"
    USER = "user"
    JOB = "job"
    RUN = "run"
    MODEL = "model"
    ENDPOINT = "endpoint"
    POOL = "pool"


class Tally(Record, frozen=True, kw_only=True):
    """What one thing used on one day: the sum of its part of the ledger, written in the transaction that writes the ledger.

    Attributes:
        by, name: a model's cost, a user's. A run whose job names no model stands as ``run:<id>`` among the models until it is asked for.
        day: of UTC, ``2026-01-31``; empty for all days together, which is kept where a budget may ask for it.
        shelf: project, kind and day, for reading one day; ``subject``: project, kind and name, for reading one thing.
        first_entry, last_entry: the ledger's entries that it sums are not outside of these numbers.
    """

    by: CostBy
    name: str
    day: str
    shelf: str
    subject: str
    usage: Usage
    first_entry: int
    last_entry: int


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a cost report.

    Attributes:
        name: what the row is about; empty for tasks that belong to no such thing.
        title: what people call it, where its name is only the id of a job or an endpoint.
        num_tasks: how many tasks it sums up, of which ``num_running`` still run.
        duration_s: of all tasks together, to the microsecond.
        cpu_hours, gpu_hours, memory_gib_hours: resources held, times hours.
    """

    name: str
    num_tasks: int
    num_running: int
    duration_s: float
    cpu_hours: float
    gpu_hours: float
    memory_gib_hours: float
    cost: Money
    title: str = ""


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a project spent from ``since`` until ``until`` (Unix seconds), tasks that still run included up to now.

    Attributes:
        rows: dearest first; the parts sum to the total exactly. What did not fit is in the last one, named "(others)".
        prices: those of today, of pools that have none of their own.
    """

    by: CostBy
    since: float
    until: float
    rows: tuple[CostRow, ...]
    total: CostRow
    prices: PriceBook


class DayCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a project spent on one day of UTC. The last day goes up to now."""

    day: str
    cost: Money
    cpu_hours: float
    gpu_hours: float


class CostForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a month will have cost when it is over, if the days to come are like the last ones.

    Attributes:
        month: ``2026-01``, of UTC.
        spent: so far, running tasks included.
        expected: at the month's end.
        low, high: nine times of ten it ends between them; None when there is too little history to say so.
        num_days: whole days that were looked at.
        message: how it was made, in words.
    """

    month: str
    spent: Money
    expected: Money
    low: Money | None = None
    high: Money | None = None
    num_days: int
    message: str


class CostOutlook(msgspec.Struct, frozen=True, kw_only=True):
    """What each day cost, oldest first and without gaps, and where the month is going."""

    days: tuple[DayCost, ...]
    forecast: CostForecast


@operation("costs.get", Right.READ, "GET /costs")
class GetCost(Operation[CostReport], frozen=True, kw_only=True):
    """Show what the project spent, in parts and in total; by project, all projects that the token opens."""

    by: CostBy = CostBy.JOB
    since: Annotated[float, Meta(ge=0, le=1e12, description="Unix seconds; 0 for everything.")] = 0.0
    limit: Limit = 100


@operation("costs.outlook", Right.READ, "GET /costs/outlook")
class GetOutlook(Operation[CostOutlook], frozen=True, kw_only=True):
    """Show what each of the last days cost the project, and what this month will have cost at its end."""

    num_days: Annotated[int, Meta(ge=1, le=400)] = 30


@operation("prices.set", Right.ADMIN, "PUT /prices/{pool}", global_=True)
class SetPrices(Operation[PriceList], frozen=True, kw_only=True):
    """Say what the resources of a pool cost from now on, or from a later moment. What was used before keeps its price.

    What is left out (None) stays as it is valid at that moment. Raises `PricedPoolMissing`, `PriceUnclear`.

    Attributes:
        pool: its name; ``default`` for all pools that have no prices of their own.
        valid_from: Unix seconds, not in the past; None for now.
    """

    pool: Name
    tenure: Tenure | None = None
    cpu_usd_per_hour: UsdPerHour | None = None
    gpu_usd_per_hour: UsdPerHour | None = None
    memory_gib_usd_per_hour: UsdPerHour | None = None
    valid_from: Moment | None = None

    def __post_init__(self) -> None:
        check_amounts("A price", self.cpu_usd_per_hour, self.gpu_usd_per_hour, self.memory_gib_usd_per_hour)
        check_amounts("A moment", self.valid_from)


@operation("prices.list", Right.READ, "GET /prices", global_=True)
class ListPrices(Operation[Page[PriceList]], frozen=True, kw_only=True):
    """List prices: those that are valid now, or with ``history`` all that ever were and are to come, newest first."""

    history: bool = False
    limit: Limit = 100


OPERATIONS = (GetCost, GetOutlook, SetPrices, ListPrices)
