"""What of each noun a person wants to see: columns of lists, and drawn columns. Data, not code; unknown nouns show all they have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from skyloom.cli.plots import bar, bins
from skyloom.cli.wording import human, label
from skyloom.rooms.cost.model import CostReport, CostRow
from skyloom.rooms.jobs.model import JobStatus, Task
from skyloom.rooms.monitoring.model import Alert, FeatureDrift


class Column(msgspec.Struct, frozen=True):
    """One column of a list: a heading and what to write for a noun."""

    heading: str
    write: Callable[[Any], str]


def of(path: str, heading: str | None = None) -> Column:
    """A column that shows an attribute, or an attribute of an attribute: ``job.spec.name``."""
    names = path.split(".")

    def write(noun: Any) -> str:
        for name in names:
            noun = getattr(noun, name, None)
        return human(names[-1], noun)

    return Column(heading or label(names[-1]), write)


COLUMNS: Mapping[type, Sequence[Column]] = {
    JobStatus: (
        of("job.id", "job"),
        of("job.spec.name"),
        of("state"),
        of("reason"),
        of("job.spec.num_workers", "workers"),
        of("started_at"),
        of("ended_at"),
    ),
    Task: (of("rank"), of("state"), of("reason"), of("exit_code"), of("pid"), of("peak_memory_bytes"), of("message")),
    Alert: (
        of("id", "alert"),
        of("endpoint_name", "endpoint"),
        of("signal"),
        of("state"),
        of("fired_at", "since"),
        of("times_fired"),
        of("message"),
    ),
    FeatureDrift: (
        of("name", "feature"),
        of("drifted"),
        of("psi"),
        of("distance"),
        of("distance_by_chance", "by chance"),
        of("missing_share", "missing"),
        Column("training", lambda row: bins(row.expected_shares, _top(row))),
        Column("now", lambda row: bins(row.seen_shares, _top(row))),
    ),
    CostRow: (
        of("name"),
        of("num_tasks", "tasks"),
        of("num_running", "running"),
        of("duration_s", "time"),
        of("cpu_hours"),
        of("gpu_hours"),
        of("memory_gib_hours", "GiB hours"),
        of("cost"),
    ),
}

# Fields that say nothing to a reader of a page.
HIDDEN = frozenset({"project", "version"})


def columns(noun: type[msgspec.Struct]) -> Sequence[Column]:
    """The columns of a list of this noun."""
    fields = (name for name in noun.__struct_fields__ if name not in HIDDEN)
    return COLUMNS.get(noun) or [of(name) for name in fields]


def rows_of_cost(report: CostReport) -> tuple[Sequence[Column], Sequence[CostRow]]:
    """A cost report as one table: its rows with their part of the whole drawn, and the total."""
    whole = report.total.cost.nano_usd or 1
    drawn = Column("", lambda row: "" if row is report.total else bar(row.cost.nano_usd / whole))
    return (*columns(CostRow), drawn), (*report.rows, report.total)


def _top(row: FeatureDrift) -> float:
    return max((*row.expected_shares, *row.seen_shares), default=0.0)
