"""What of costs, prices and budgets a person wants to see."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.plots import bar
from skyloom.cli.wording import human, label, safe
from skyloom.core.money import hours, short, usd
from skyloom.rooms.cost.budget import BudgetStatus
from skyloom.rooms.cost.limits import amount, limits_of
from skyloom.rooms.cost.model import CostOutlook, CostReport, CostRow, DayCost
from skyloom.rooms.cost.prices import PriceList


def used_of(status: BudgetStatus) -> str:
    """What is used of each limit that a budget has: ``$1.20 of $50.00, 3 of 10 GPU-hours``."""
    used = {"nano_usd": str(status.spent), "gpu_us": hours(status.gpu_hours), "cpu_us": hours(status.cpu_hours)}
    limits = limits_of(status.budget.limits)
    return ", ".join(f"{used[meter]} of {amount(meter, limit)}" for meter, limit in limits.items())


def _hours(field: str, heading: str | None = None) -> Column:
    return Column(heading or label(field), lambda row: hours(getattr(row, field)), field)


def _an_hour(price_usd: float) -> str:
    return f"{usd(price_usd)} an hour"


def _since(item: PriceList) -> str:
    return human("valid_from_at", item.valid_from) if item.valid_from else "ever"


COLUMNS: Mapping[type, Sequence[Column]] = {
    CostRow: (
        of("name"),
        of("title", "called"),
        of("num_tasks", "tasks"),
        of("num_running", "running"),
        of("duration_s", "time"),
        _hours("cpu_hours"),
        _hours("gpu_hours"),
        _hours("memory_gib_hours", "GiB hours"),
        of("cost"),
    ),
    DayCost: (of("day"), _hours("cpu_hours"), _hours("gpu_hours"), of("cost")),
    PriceList: (
        of("pool"),
        of("tenure"),
        Column("CPU $/h", lambda item: short(item.prices.cpu_usd_per_hour)),
        Column("GPU $/h", lambda item: short(item.prices.gpu_usd_per_hour)),
        Column("GiB $/h", lambda item: short(item.prices.memory_gib_usd_per_hour)),
        Column("since", _since),
        of("set_by"),
    ),
    BudgetStatus: (
        of("budget.id", "budget"),
        Column("of", lambda status: safe(f"{status.budget.scope.value} {status.budget.name}")),
        of("budget.period", "per"),
        of("state"),
        Column("used", used_of),
        Column("", lambda status: f"{bar(status.used_share, 12):░<12} {status.used_share:.0%}"),
        of("reserved"),
        of("expected", "at month's end"),
        of("exhausted_at", "used up"),
    ),
}

PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    PriceList: (
        (
            of("pool"),
            of("tenure"),
            Column("a CPU core", lambda item: _an_hour(item.prices.cpu_usd_per_hour), "prices"),
            Column("a GPU", lambda item: _an_hour(item.prices.gpu_usd_per_hour), "prices"),
            Column("a GiB of memory", lambda item: _an_hour(item.prices.memory_gib_usd_per_hour), "prices"),
            Column("valid from", _since, "valid_from"),
            of("set_by"),
            of("id"),
        ),
        (),
    ),
    BudgetStatus: (
        (
            of("budget.id", "budget"),
            Column("of", lambda status: safe(f"{status.budget.scope.value} {status.budget.name}"), "budget.name"),
            of("budget.period", "per"),
            of("state"),
            Column("used", used_of, "spent"),
            Column("share", lambda status: f"{bar(status.used_share, 20):░<20} {status.used_share:.0%}", "used_share"),
            of("reserved", "promised to jobs"),
            of("expected", "at month's end"),
            of("exhausted_at", "used up"),
            of("budget.set_by"),
            of("budget.set_at"),
        ),
        (),
    ),
}


def rows_of_cost(report: CostReport) -> tuple[Sequence[Column], Sequence[CostRow]]:
    """A cost report as one table: its rows with their part of the whole drawn, and the total."""
    whole = report.total.cost.nano_usd or 1
    drawn = Column("", lambda row: "" if row is report.total else bar(row.cost.nano_usd / whole))
    return (*COLUMNS[CostRow], drawn), (*report.rows, report.total)


def rows_of_days(outlook: CostOutlook) -> tuple[Sequence[Column], Sequence[DayCost]]:
    """What each day cost as one table, with a bar; days before the first that cost anything are left out."""
    began = next((place for place, day in enumerate(outlook.days) if day.cost.nano_usd), len(outlook.days) - 1)
    shown = outlook.days[began:]
    highest = max((day.cost.nano_usd for day in shown), default=0) or 1
    return (*COLUMNS[DayCost], Column("", lambda day: bar(day.cost.nano_usd / highest, 40))), shown


def going(outlook: CostOutlook) -> str:
    """Where the month is going, in a sentence or two."""
    way = outlook.forecast
    between = f" ({way.low} to {way.high})" if way.low is not None else ""
    return f"{way.month}: {way.spent} so far, {way.expected} at its end{between}. {way.message}"
