"""What of each noun a person wants to see: columns of lists, and drawn columns. Data, not code; unknown nouns show all they have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from skyloom.cli.plots import bar, bins
from skyloom.cli.wording import human, label
from skyloom.ports.series import Point
from skyloom.rooms.cost.model import CostReport, CostRow
from skyloom.rooms.jobs.model import JobStatus, Task
from skyloom.rooms.monitoring.model import Alert, FeatureDrift
from skyloom.rooms.registry.model import ClassScore, Model, ModelVersion
from skyloom.rooms.tracking.model import RunProgress


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


def aliases(model: Model) -> str:
    """Aliases and their versions in one line."""
    return ", ".join(f"{alias} → {number}" for alias, number in sorted(model.aliases.items()))


def figures(version: ModelVersion) -> str:
    """What an evaluation measured, in one line."""
    metrics = version.evaluation.metrics if version.evaluation else {}
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


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
    RunProgress: (
        of("run.id", "run"),
        of("run.name"),
        of("state"),
        of("run.dataset", "dataset"),
        of("run.dataset_version", "version"),
        of("run.created_at", "started"),
        of("run.job_id", "job"),
    ),
    Point: (of("name"), of("step"), of("value"), of("at")),
    Model: (of("name", "model"), of("newest"), Column("aliases", aliases), of("created_at")),
    ModelVersion: (
        of("number", "version"),
        Column("figures", figures),
        of("provenance.dataset", "dataset"),
        of("provenance.dataset_version", "data version"),
        of("run_id", "run"),
        of("created_at"),
    ),
    ClassScore: (of("label"), of("precision"), of("recall"), of("num_rows", "rows")),
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
