"""Pure decisions of cost: what a task's life is worth, on which days, and how a report is summed so that its parts add up exactly."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from skyloom.core.events import TaskEnded
from skyloom.rooms.cost.model import CostBy, CostReport, CostRow, LedgerEntry
from skyloom.rooms.cost.prices import PriceBook, PriceHistory
from skyloom.rooms.cost.usage import Usage, held, microseconds, worth

OTHERS = "(others)"
DAY_S = 86_400
NOTHING = Usage()
_RUN = "run:"


def ledger_entries(project: str, task: TaskEnded, prices: PriceHistory) -> list[LedgerEntry]:
    """Write a task's life as entries of the ledger: one, or one for each price that it lived under."""
    pieces = list(prices.periods(task.pool, task.started_at, task.ended_at))
    return [
        LedgerEntry(
            project=project,
            task_id=task.task_id,
            job_id=task.job_id,
            user=task.labels.get("user", ""),
            run=task.labels.get("run", ""),
            model=task.labels.get("model", ""),
            endpoint=task.labels.get("endpoint", ""),
            pool=task.pool,
            resources=task.resources,
            started_at=start,
            ended_at=end,
            prices=book,
            cost=worth(task.resources, microseconds(start, end) / 1e6, book),
            is_last=place == len(pieces) - 1,
        )
        for place, (start, end, book) in enumerate(pieces)
    ]


def usage_of(entry: LedgerEntry, since: float = -math.inf, until: float = math.inf) -> Usage:
    """The part of an entry between two moments; parts of neighbouring times add up to the whole exactly.

    The task counts where its entry ends.
    """
    first, last = (_offset_us(entry, moment) for moment in (since, until))
    part = held(entry.resources, last, entry.prices)
    if first:
        part -= held(entry.resources, first, entry.prices)
    ends_here = entry.is_last and since < _end(entry) <= until
    return part + Usage(num_tasks=1) if ends_here else part


def by_day(entry: LedgerEntry) -> Iterator[tuple[str, Usage]]:
    """Cut an entry into days of UTC; the parts add up to the whole exactly."""
    first = math.floor(entry.started_at / DAY_S)
    last = max(first, math.ceil(_end(entry) / DAY_S) - 1)
    for number in range(first, last + 1):
        since = -math.inf if number == first else number * DAY_S
        until = math.inf if number == last else (number + 1) * DAY_S
        yield day_of(number * DAY_S), usage_of(entry, since, until)


def with_running(per_day: Mapping[str, Usage], running: Iterable[LedgerEntry]) -> defaultdict[str, Usage]:
    """What was used on each day, with the part of each day of what still runs."""
    found = defaultdict(Usage, per_day)
    for entry in running:
        for day, usage in by_day(entry):
            found[day] += usage
    return found


def day_of(moment: float) -> str:
    """The day of UTC that a moment lies in: ``2026-01-31``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def start_of(day: str) -> float:
    """The first moment of a day."""
    return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()


def days_between(since: float, until: float) -> list[str]:
    """Every day that has a part between two moments, oldest first."""
    first, last = math.floor(since / DAY_S), math.floor(max(since, until) / DAY_S)
    return [day_of(number * DAY_S) for number in range(first, last + 1)]


def month_of(moment: float) -> str:
    """The month of UTC that a moment lies in: ``2026-01``."""
    return day_of(moment)[:7]


def start_of_month(moment: float) -> float:
    """The first moment of the month that a moment lies in."""
    return start_of(f"{month_of(moment)}-01")


def end_of_month(moment: float) -> float:
    """The first moment of the month after it."""
    return start_of(day_of(start_of_month(moment) + 31 * DAY_S)[:7] + "-01")


def month_so_far(moment: float) -> list[str]:
    """The days of a month up to and with the one that a moment lies in."""
    return days_between(start_of_month(moment), moment)


def days_left(moment: float) -> float:
    """Days until the month ends, the rest of this one included."""
    return (end_of_month(moment) - moment) / DAY_S


def name_of(by: CostBy, entry: LedgerEntry) -> str:
    """What an entry is summed under. A run that was told no model is its own until somebody knows the model that came of it."""
    if by is CostBy.MODEL and not entry.model and entry.run:
        return _RUN + entry.run
    return str(getattr(entry, "job_id" if by is CostBy.JOB else by.value))


def run_of(name: str) -> str | None:
    """The run that stands for a model, or None when it is a model."""
    return name.removeprefix(_RUN) if name.startswith(_RUN) else None


def under_model(entry: LedgerEntry, models: Mapping[str, str]) -> LedgerEntry:
    """An entry of a run that named no model, under the model that came of it."""
    unnamed = not entry.model and entry.run
    return msgspec.structs.replace(entry, model=models.get(entry.run, ""), run="") if unnamed else entry


def report(
    by: CostBy,
    used: Mapping[str, Usage],
    running: Iterable[LedgerEntry],
    *,
    since: float,
    until: float,
    limit: int,
    prices: PriceBook,
) -> CostReport:
    """Sum up what was spent between two moments.

    Args:
        used: by ended tasks, by name.
        running: tasks that still run, as if they ended at ``until``; they count with the part of their life since ``since``.
    """
    parts: dict[str, Usage] = defaultdict(Usage, used)
    num_running: dict[str, int] = defaultdict(int)
    for entry in running:
        name = name_of(by, entry)
        parts[name] += usage_of(entry, since, until)
        num_running[name] += entry.is_last
    rows = [_row(name, part, num_running[name]) for name, part in parts.items() if part != NOTHING]
    rows.sort(key=lambda row: (-row.cost.nano_usd, row.name))
    if len(rows) > limit:
        rest = [row.name for row in rows[limit - 1 :]]
        others = _row(OTHERS, _sum(parts[name] for name in rest), sum(num_running[name] for name in rest))
        rows = [*rows[: limit - 1], others]
    total = _row("total", _sum(parts.values()), sum(num_running.values()))
    return CostReport(by=by, since=since, until=until, rows=tuple(rows), total=total, prices=prices)


def entitled(report: CostReport, titles: Mapping[str, str]) -> CostReport:
    """A report whose rows say what people call the jobs or endpoints that they are about."""
    rows = tuple(msgspec.structs.replace(row, title=titles.get(row.name, "")) for row in report.rows)
    return msgspec.structs.replace(report, rows=rows)


def _offset_us(entry: LedgerEntry, moment: float) -> int:
    """How much of an entry's life lies before a moment."""
    if moment == math.inf:
        return entry.duration_us
    return min(microseconds(entry.started_at, moment), entry.duration_us) if moment > entry.started_at else 0


def _end(entry: LedgerEntry) -> float:
    return max(entry.started_at, entry.ended_at)


def _sum(parts: Iterable[Usage]) -> Usage:
    return sum(parts, NOTHING)


def _row(name: str, usage: Usage, num_running: int) -> CostRow:
    return CostRow(
        name=name,
        num_tasks=usage.num_tasks,
        num_running=num_running,
        duration_s=usage.duration_us / 1e6,
        cpu_hours=usage.cpu_hours,
        gpu_hours=usage.gpu_hours,
        memory_gib_hours=usage.memory_gib_hours,
        cost=usage.cost,
    )
