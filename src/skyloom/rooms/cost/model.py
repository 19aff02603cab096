"""Nouns of cost: the price book, the ledger, and the report made from it."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Limit
from skyloom.core.money import Money
from skyloom.core.operation import Operation, Right, operation
from skyloom.core.resources import Resources


class PriceBook(msgspec.Struct, frozen=True, kw_only=True):
    """What holding a resource for an hour costs, whether it is busy or idle."""

    cpu_usd_per_hour: float = 0.0
    gpu_usd_per_hour: float = 0.0
    memory_gib_usd_per_hour: float = 0.0


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One task's whole life, priced. Never changed: a later price does not change the past.

    Attributes:
        user: who submitted the job.
        run, model, endpoint: what the task worked for; empty when for none.
        started_at, ended_at: Unix seconds. A clock that was set back makes the life empty, never negative.
        prices: those that were valid when the task ended.
    """

    project: str
    task_id: str
    job_id: str
    user: str = ""
    run: str = ""
    model: str = ""
    endpoint: str = ""
    resources: Resources
    started_at: float
    ended_at: float
    prices: PriceBook
    cost: Money

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


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a cost report.

    Attributes:
        name: what the row is about; empty for tasks that belong to no such thing.
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


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a project spent from ``since`` until ``until`` (Unix seconds), tasks that still run included up to now.

    Attributes:
        rows: dearest first; the parts sum to the total exactly. What did not fit is in the last one, named "(others)".
        prices: those of today.
    """

    by: CostBy
    since: float
    until: float
    rows: tuple[CostRow, ...]
    total: CostRow
    prices: PriceBook


@operation("costs.get", Right.READ, "GET /costs")
class GetCost(Operation[CostReport], frozen=True, kw_only=True):
    """Show what the project spent, in parts and in total."""

    by: CostBy = CostBy.JOB
    since: Annotated[float, Meta(ge=0, le=1e12, description="Unix seconds; 0 for everything.")] = 0.0
    limit: Limit = 100


OPERATIONS = (GetCost,)
