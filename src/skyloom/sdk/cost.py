"""Costs, prices and budgets from Python."""

from skyloom.core.operation import Done, Page
from skyloom.rooms.cost import budget, model
from skyloom.rooms.cost.budget import Allowance, BudgetStatus, Period
from skyloom.rooms.cost.model import CostBy, CostOutlook, CostReport
from skyloom.rooms.cost.prices import PriceList, Tenure
from skyloom.sdk.transport import Transport


class CostCalls:
    """``cloud.costs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, by: CostBy | str = CostBy.JOB, since: float = 0.0, limit: int = 100) -> CostReport:
        """What the project spent since a Unix time, with one row per job, run, model, endpoint, pool or user."""
        return self._transport.send(model.GetCost(by=CostBy(by), since=since, limit=limit))

    def outlook(self, num_days: int = 30) -> CostOutlook:
        """What each of the last days cost, and what this month will have cost at its end."""
        return self._transport.send(model.GetOutlook(num_days=num_days))


class PriceCalls:
    """``cloud.prices``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(
        self,
        pool: str,
        *,
        cpu_usd_per_hour: float | None = None,
        gpu_usd_per_hour: float | None = None,
        memory_gib_usd_per_hour: float | None = None,
        tenure: Tenure | str | None = None,
        valid_from: float | None = None,
    ) -> PriceList:
        """Say what a pool's resources cost from now on; ``default`` is for all pools without prices of their own.

        What is not named stays as it is. Raises `PricedPoolMissing`, `PriceUnclear`.
        """
        return self._transport.send(
            model.SetPrices(
                pool=pool,
                tenure=Tenure(tenure) if tenure is not None else None,
                cpu_usd_per_hour=cpu_usd_per_hour,
                gpu_usd_per_hour=gpu_usd_per_hour,
                memory_gib_usd_per_hour=memory_gib_usd_per_hour,
                valid_from=valid_from,
            )
        )

    def list(self, history: bool = False, limit: int = 100) -> Page[PriceList]:
        """The prices that are valid now, or all that ever were."""
        return self._transport.send(model.ListPrices(history=history, limit=limit))


class BudgetCalls:
    """``cloud.budgets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(
        self,
        *,
        usd: float | None = None,
        gpu_hours: float | None = None,
        cpu_hours: float | None = None,
        user: str | None = None,
        period: Period | str = Period.TOTAL,
    ) -> BudgetStatus:
        """Set what the project, or one of its users, may spend. Raises `BudgetUnclear`."""
        limits = Allowance(usd=usd, gpu_hours=gpu_hours, cpu_hours=cpu_hours)
        return self._transport.send(budget.SetBudget(limits=limits, user=user, period=Period(period)))

    def get(self, budget_id: str) -> BudgetStatus:
        """Show one budget. Raises `BudgetMissing`."""
        return self._transport.send(budget.GetBudget(budget_id=budget_id))

    def delete(self, budget_id: str) -> Done:
        """Remove a budget. Raises `BudgetMissing`."""
        return self._transport.send(budget.DeleteBudget(budget_id=budget_id))

    def list(self, limit: int = 100) -> Page[BudgetStatus]:
        """The budgets of the project and its users, and what has become of them."""
        return self._transport.send(budget.ListBudgets(limit=limit))
