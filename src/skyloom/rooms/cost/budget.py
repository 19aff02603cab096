"""Nouns of budgets: what a project, a user or a job may spend, and what jobs that wait or run have been promised of it.

What "never over" means: a task is metered from its start until its last descendant is gone. A job is told to stop (it writes its
checkpoint) while what is left still pays for its whole grace, after which it is ended by force, and for `NOTICE_S`. So at the end no
more is spent than the limit, as long as the control plane runs and the engine can be reached; whatever a job's grace is too short
for, one step, is what it may go over.
"""

import enum
import math
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Id, Limit
from skyloom.core.errors import InvalidInput, LimitExceeded, NotFound
from skyloom.core.events import TaskEnded
from skyloom.core.money import Money
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.store import Record

NOTICE_S = 0.5
"""How long the control plane may take to notice that a limit is near and to tell the tasks."""

MIN_WORK_S = 1.0
"""What a job must at least be able to run for, beside its grace, to be let in."""

THRESHOLDS = (0.5, 0.8, 1.0)


class BudgetExhausted(LimitExceeded):
    """What is left of a budget does not pay for the job."""


class BudgetUnclear(InvalidInput):
    """The budget has no limit, or one that is no amount."""


class BudgetMissing(NotFound):
    """No such budget in this project."""


class BudgetScope(enum.StrEnum):
    """Whose spending a budget bounds. A job's own budget is part of its `JobSpec`."""

    PROJECT = "project"
    USER = "user"


class Period(enum.StrEnum):
    """What a budget counts."""

    TOTAL = "total"  # everything since the project began
    MONTH = "month"  # the current calendar month, of UTC


Amount = Annotated[float, Meta(ge=0, le=1e9)]


class Allowance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much may be used; None where there is no limit. Each holds by itself: the first one that is reached counts.

    Attributes:
        usd: money.
        gpu_hours, cpu_hours: resources held, times hours.
    """

    usd: Amount | None = None
    gpu_hours: Amount | None = None
    cpu_hours: Amount | None = None

    def __post_init__(self) -> None:
        for amount in (self.usd, self.gpu_hours, self.cpu_hours):
            if amount is not None and not (math.isfinite(amount) and amount >= 0):
                raise BudgetUnclear(f"A limit of {amount} is no amount.", next_action="Give a number above 0.")

    @property
    def amounts(self) -> tuple[float | None, float | None, float | None]:
        return self.usd, self.gpu_hours, self.cpu_hours


class Meters(msgspec.Struct, frozen=True, kw_only=True):
    """An amount by each of the three meters that a budget may limit, or a rate of them."""

    nano_usd: int = 0
    gpu_us: int = 0
    cpu_us: int = 0

    def __add__(self, other: "Meters") -> "Meters":
        return Meters(
            nano_usd=self.nano_usd + other.nano_usd,
            gpu_us=self.gpu_us + other.gpu_us,
            cpu_us=self.cpu_us + other.cpu_us,
        )

    def __sub__(self, other: "Meters") -> "Meters":
        return Meters(
            nano_usd=self.nano_usd - other.nano_usd,
            gpu_us=self.gpu_us - other.gpu_us,
            cpu_us=self.cpu_us - other.cpu_us,
        )


class Budget(Record, frozen=True, kw_only=True):
    """What a project or one of its users may spend.

    Attributes:
        name: of the project or user.
        reached: the highest of `THRESHOLDS` that was said to be reached, and ``reached_in`` the period that it was said for; each is
            said once a period.
    """

    scope: BudgetScope
    name: str
    period: Period = Period.TOTAL
    limits: Allowance
    set_by: str
    set_at: float
    reached: float = 0.0
    reached_in: str = ""


class Reservation(Record, frozen=True, kw_only=True):
    """What a job that has not ended was promised. Its id is the job's.

    Attributes:
        left: what of it the job's ended tasks have not used.
    """

    user: str
    left: Meters


class Pledge(Record, frozen=True, kw_only=True):
    """The sum of the reservations of one project or user; its id is ``<project>/<scope>/<name>``."""

    left: Meters = Meters()


class Spender(msgspec.Struct, frozen=True, kw_only=True):
    """A job that holds resources.

    Attributes:
        running: its tasks that have started and not ended, as if they ended now.
        num_held: how many of its tasks hold resources, started or about to.
        resources: of each.
        grace_s: it may go on for so long when it is told to stop.
        limits: its own budget.
        told_at: when it was told to stop for good; None while it was not.
    """

    job_id: str
    project: str
    user: str
    pool: str = "local"
    resources: Resources
    num_held: int
    running: tuple[TaskEnded, ...] = ()
    grace_s: float = 0.0
    limits: Allowance = Allowance()
    told_at: float | None = None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A job that asks to be let in. ``expected_s`` is how long it says it will run at most, None when it does not say."""

    job_id: str
    project: str
    user: str
    pool: str = "local"
    resources: Resources
    num_workers: int
    grace_s: float
    expected_s: float | None = None
    limits: Allowance = Allowance()


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be done for the sake of budgets.

    Attributes:
        halts: job id → why it has to stop now, for people.
        look_again_s: nothing more has to be done before, if nothing starts meanwhile; None when nothing comes by itself.
    """

    halts: dict[str, str] = {}
    look_again_s: float | None = None


class BudgetState(enum.StrEnum):
    """Where a budget stands; derived, never stored."""

    WITHIN = "within"
    NEAR = "near"  # at 80 % or more
    EXHAUSTED = "exhausted"


class BudgetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and what has become of it in its current period.

    Attributes:
        spent, gpu_hours, cpu_hours: used, running tasks included up to now.
        reserved: promised to jobs that wait or run, beyond what they have used.
        used_share: of the limit that is nearest, 1 being all of it.
        expected: what will be spent at the month's end, as `CostForecast` has it; None for a period without an end.
        exhausted_at: when the budget will be used up if what runs now goes on; None when it will not.
    """

    budget: Budget
    state: BudgetState
    spent: Money
    gpu_hours: float
    cpu_hours: float
    reserved: Money
    used_share: float
    expected: Money | None = None
    exhausted_at: float | None = None


@operation("budgets.set", Right.ADMIN, "PUT /budgets")
class SetBudget(Operation[BudgetStatus], frozen=True, kw_only=True):
    """Set what the project, or one of its users, may spend; replaces an earlier one. Jobs that no longer fit are stopped.

    Attributes:
        user: whose; None for the project as a whole.
    """

    limits: Allowance
    user: Annotated[str, Meta(min_length=1, max_length=120)] | None = None
    period: Period = Period.TOTAL

    def __post_init__(self) -> None:
        if not any(self.limits.amounts):
            raise BudgetUnclear(
                "The budget limits nothing, or to nothing.",
                next_action="Give a number above 0 of dollars, GPU-hours or CPU-hours.",
            )
        if any(amount == 0 for amount in self.limits.amounts):
            raise BudgetUnclear("A limit of 0 lets nothing run.", next_action="Give a number above 0, or leave it out.")


@operation("budgets.get", Right.READ, "GET /budgets/{budget_id}")
class GetBudget(Operation[BudgetStatus], frozen=True, kw_only=True):
    """Show one budget: what is spent, reserved and left of it, and when it will be used up."""

    budget_id: Id


@operation("budgets.list", Right.READ, "GET /budgets")
class ListBudgets(Operation[Page[BudgetStatus]], frozen=True, kw_only=True):
    """List the budgets of the project and its users."""

    limit: Limit = 100


@operation("budgets.delete", Right.ADMIN, "DELETE /budgets/{budget_id}")
class DeleteBudget(Operation[Done], frozen=True, kw_only=True):
    """Remove a budget: nothing is refused or stopped for it any more."""

    budget_id: Id


OPERATIONS = (SetBudget, GetBudget, ListBudgets, DeleteBudget)
