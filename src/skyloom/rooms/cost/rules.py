"""Pure decisions of cost: what a task's life is worth, and how a report is summed so that its parts add up exactly."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from skyloom.core.events import TaskEnded
from skyloom.core.money import Money, price
from skyloom.core.resources import Resources
from skyloom.rooms.cost.model import CostBy, CostReport, CostRow, LedgerEntry, PriceBook

OTHERS = "(others)"
_GIB = 2**30


def worth(resources: Resources, duration_s: float, prices: PriceBook) -> Money:
    """Price resources held for a time. Nothing costs less than nothing."""
    held_s = max(0.0, duration_s)
    return (
        price(prices.cpu_usd_per_hour, resources.cpus, held_s)
        + price(prices.gpu_usd_per_hour, resources.gpus, held_s)
        + price(prices.memory_gib_usd_per_hour, resources.memory_bytes / _GIB, held_s)
    )


def ledger_entry(project: str, task: TaskEnded, prices: PriceBook) -> LedgerEntry:
    """Write a task's life as an entry of the ledger."""
    return LedgerEntry(
        project=project,
        task_id=task.task_id,
        job_id=task.job_id,
        user=task.labels.get("user", ""),
        run=task.labels.get("run", ""),
        model=task.labels.get("model", ""),
        endpoint=task.labels.get("endpoint", ""),
        resources=task.resources,
        started_at=task.started_at,
        ended_at=task.ended_at,
        prices=prices,
        cost=worth(task.resources, task.ended_at - task.started_at, prices),
    )


def report(
    by: CostBy,
    ended: Iterable[LedgerEntry],
    running: Iterable[LedgerEntry],
    *,
    since: float,
    until: float,
    limit: int,
    prices: PriceBook,
) -> CostReport:
    """Sum up what was spent between two moments; a task counts with the part of its life that lies between them.

    No task counts twice, even if the ledger holds it twice or it is named both ended and running: its first entry wins.
    """
    parts: dict[str, list[_Part]] = defaultdict(list)
    met = set()
    for entry, still in [(entry, False) for entry in ended] + [(entry, True) for entry in running]:
        part = _Part(entry, still, since, until)
        if entry.task_id not in met and (part.duration_us or entry.started_at >= since):
            parts[_name(by, entry)].append(part)
        met.add(entry.task_id)
    everything = [part for some in parts.values() for part in some]
    rows = sorted((_row(name, some) for name, some in parts.items()), key=lambda row: (-row.cost.nano_usd, row.name))
    if len(rows) > limit:
        rest = [part for row in rows[limit - 1 :] for part in parts[row.name]]
        rows = [*rows[: limit - 1], _row(OTHERS, rest)]
    total = _row("total", everything)
    return CostReport(by=by, since=since, until=until, rows=tuple(rows), total=total, prices=prices)


class _Part:
    """The part of a task's life inside the report's time, in whole microseconds, so that sums do not depend on their order."""

    def __init__(self, entry: LedgerEntry, still: bool, since: float, until: float) -> None:
        inside_s = max(0.0, min(entry.ended_at, until) - max(entry.started_at, since))
        whole = inside_s == entry.duration_s
        self.entry = entry
        self.running = still
        self.duration_us = round(inside_s * 1e6)
        self.cost = entry.cost if whole else worth(entry.resources, inside_s, entry.prices)


def _row(name: str, parts: Sequence[_Part]) -> CostRow:
    held = [(part.duration_us, part.entry.resources) for part in parts]
    return CostRow(
        name=name,
        num_tasks=len(parts),
        num_running=sum(part.running for part in parts),
        duration_s=sum(duration_us for duration_us, _ in held) / 1e6,
        cpu_hours=sum(duration_us * resources.cpus for duration_us, resources in held) / 3.6e9,
        gpu_hours=sum(duration_us * resources.gpus for duration_us, resources in held) / 3.6e9,
        memory_gib_hours=sum(duration_us * resources.memory_bytes for duration_us, resources in held) / _GIB / 3.6e9,
        cost=Money(sum(part.cost.nano_usd for part in parts)),
    )


def _name(by: CostBy, entry: LedgerEntry) -> str:
    return str(getattr(entry, "job_id" if by is CostBy.JOB else by.value))
