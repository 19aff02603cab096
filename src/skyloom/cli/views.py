"""What of each noun a person wants to see: columns of lists, and drawn columns. Data, not code; unknown nouns show all they have."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from skyloom.cli.plots import bar, bins, whisker
from skyloom.cli.wording import NOTHING, human, label, safe
from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.ports.store import Record
from skyloom.rooms.arrays.model import ArrayFailure, ArrayStatus
from skyloom.rooms.cost.budget import BudgetStatus
from skyloom.rooms.cost.model import CostOutlook, CostReport, CostRow, DayCost
from skyloom.rooms.cost.prices import PriceList
from skyloom.rooms.data.contents import Column as DataColumn
from skyloom.rooms.data.contents import Loss, StepReport
from skyloom.rooms.data.model import DatasetStatus, DatasetVersion, DraftStatus, Excerpt
from skyloom.rooms.jobs.model import JobStatus, Task
from skyloom.rooms.monitoring.model import Alert, FeatureDrift
from skyloom.rooms.planning.model import AccuracyRow, Breakdown, Estimate, Forecast, PlanProgress, TimePlan
from skyloom.rooms.planning.terms import SIGNS
from skyloom.rooms.pools.model import MachineUse, PoolStatus
from skyloom.rooms.registry.bundle import BundleFile
from skyloom.rooms.registry.model import Model, ModelStatus, ModelVersion
from skyloom.rooms.schedules.model import ScheduleStatus
from skyloom.rooms.serving.model import EndpointStatus, ReplicaStatus, Revision
from skyloom.rooms.tenancy.model import AuditEntry, Project, Token
from skyloom.rooms.tracking.model import RunProgress
from skyloom.simulation.model import SimulationReport, TenantRow

_FEW_ROWS = 12


class View(msgspec.Struct, frozen=True):
    """A page about one noun: pairs, then parts under headings."""

    pairs: Sequence[tuple[str, str]]
    parts: Sequence[tuple[str, object]]


class Column(msgspec.Struct, frozen=True):
    """One column of a list, or one pair of a page: a heading and what to write for a noun. ``path`` is empty for a drawn one."""

    heading: str
    write: Callable[[Any], str]
    path: str = ""


def of(path: str, heading: str | None = None) -> Column:
    """A column that shows an attribute, or an attribute of an attribute: ``job.spec.name``."""
    last = path.split(".")[-1]
    return Column(heading or label(last), lambda noun: human(last, attribute(noun, path)), path)


def _workers(status: JobStatus) -> str:
    """How many workers it has, and of an elastic gang how many it may have."""
    spec = status.job.spec
    now = len(status.tasks) or spec.num_workers
    return f"{now} of {spec.num_workers}-{spec.max_workers}" if spec.max_workers else str(now)


def _attempt(status: JobStatus) -> str:
    """Which attempt, and how many of those before it only made room."""
    job = status.job
    return f"{job.attempt} ({job.comebacks} made room)" if job.comebacks else str(job.attempt)


def used_of(status: BudgetStatus) -> str:
    """What is used of each limit that a budget has: ``$1.20 of $50.00, 3 of 10 GPU-hours``."""
    limits = status.budget.limits
    found = [f"{status.spent} of {Money(round(limits.usd * 1e9))}"] if limits.usd is not None else []
    hours = ((status.gpu_hours, limits.gpu_hours, "GPU-hours"), (status.cpu_hours, limits.cpu_hours, "CPU-hours"))
    return ", ".join([*found, *(f"{used:.3g} of {limit:g} {unit}" for used, limit, unit in hours if limit is not None)])


def _top(row: FeatureDrift) -> float:
    return max((*row.expected_shares, *row.seen_shares), default=0.0)


def _share(share: float) -> str:
    return f"{share * 100:.1f}%"


def _say_jobs(report: SimulationReport) -> str:
    left = report.num_jobs - report.num_finished - report.num_too_large
    parts = [f"{report.num_finished:,} of {report.num_jobs:,} finished"]
    parts += [f"{report.num_too_large:,} too large for the cluster"] if report.num_too_large else []
    parts += [f"{left:,} could never start"] if left else []
    return ", ".join(parts)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _gpu_hours(gpu_s: float) -> str:
    return f"{gpu_s / 3_600:,.4g} GPU hours" if gpu_s else NOTHING


def _say_rho(report: SimulationReport) -> str:
    rho = report.finish_time_fairness
    return NOTHING if rho.mean is None else f"rho {rho.mean:.4g} on average, {rho.max:.4g} at most"


def _say_deadlines(report: SimulationReport) -> str:
    return f"{report.deadlines_met:,} of {report.num_deadlines:,}" if report.num_deadlines else NOTHING


COLUMNS: Mapping[type, Sequence[Column]] = {
    JobStatus: (
        of("job.id", "job"),
        of("job.spec.name"),
        of("state"),
        of("reason"),
        Column("workers", _workers, "job.spec.num_workers"),
        of("place"),
        of("outlook"),
        of("started_at"),
        of("ended_at"),
    ),
    Task: tuple(map(of, ("rank", "state", "reason", "pool", "machine", "exit_code", "peak_memory_bytes", "message"))),
    ArrayStatus: (
        of("array.id", "array"),
        of("array.spec.name"),
        of("state"),
        of("array.size"),
        of("num_succeeded", "succeeded"),
        of("num_failed", "failed"),
        of("num_cancelled", "cancelled"),
        of("num_running", "running"),
        of("started_at"),
        of("ended_at"),
    ),
    ScheduleStatus: (
        of("schedule.name", "schedule"),
        of("schedule.cron"),
        of("schedule.time_zone"),
        of("schedule.paused"),
        of("schedule.next_at", "next"),
        of("schedule.last_at", "last"),
        of("last_state"),
        of("schedule.message"),
    ),
    ArrayFailure: (of("index"), of("job_id", "job"), of("reason"), of("message")),
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
    RunProgress: (
        of("run.id", "run"),
        of("run.name"),
        of("state"),
        of("run.recipe"),
        of("run.dataset"),
        of("run.dataset_version"),
        of("run.created_at"),
    ),
    Model: (of("name", "model"), of("newest"), of("aliases"), of("created_at")),
    ModelVersion: (
        of("id", "version"),
        of("model"),
        of("number"),
        of("evaluation.metrics", "measured"),
        of("provenance.dataset"),
        of("provenance.dataset_version"),
        of("run_id", "run"),
        of("created_at"),
    ),
    BundleFile: (of("path", "file"), of("size_bytes"), of("digest")),
    EndpointStatus: (
        of("endpoint.name", "endpoint"),
        of("state"),
        of("endpoint.model"),
        of("endpoint.revision"),
        of("endpoint.num_replicas", "replicas"),
        of("traffic.requests"),
        of("url"),
        of("message"),
    ),
    Revision: (of("number", "revision"), of("model_version"), of("created_at"), of("id")),
    ReplicaStatus: (
        of("replica.id", "replica"),
        of("state"),
        of("replica.revision_number", "revision"),
        of("requests"),
        of("replica.created_at"),
        of("replica.job_id", "job"),
        of("replica.message"),
    ),
    DatasetStatus: (
        of("dataset.name", "dataset"),
        of("state"),
        of("num_versions", "versions"),
        of("newest.contents.num_rows", "rows"),
        of("newest.tags", "tags"),
        of("dataset.created_at"),
    ),
    DatasetVersion: (
        of("number", "version"),
        of("parent", "from"),
        Column("made by", lambda version: type(version.making).__name__.lower(), "making"),
        of("contents.num_rows", "rows"),
        Column("columns", lambda version: human("", len(version.contents.columns))),
        of("contents.num_rejects", "rejected"),
        of("tags"),
        of("created_at"),
        of("job_id", "job"),
    ),
    DraftStatus: (
        of("draft.id", "draft"),
        Column("makes", lambda status: type(status.draft.making).__name__.lower(), "draft.making"),
        of("state"),
        of("error.message"),
        of("error.next_action", "next"),
        of("draft.job_id", "job"),
    ),
    DataColumn: (
        of("name", "column"),
        of("type"),
        of("shape"),
        of("nullable"),
        of("role"),
        of("num_missing", "missing"),
        of("num_distinct", "distinct"),
        of("minimum", "min"),
        of("maximum", "max"),
        of("mean"),
        of("deviation"),
        Column("most frequent", lambda column: _some(f"{value} ({count})" for value, count in column.top.items())),
    ),
    StepReport: (
        of("step"),
        of("rows_in"),
        of("rows_out"),
        Column("lost", lambda report: _some(_lost(loss) for loss in report.losses)),
        Column("changed", lambda report: _some(f"{name} ({count})" for name, count in report.num_changed.items())),
        Column("notes", lambda report: _some(report.notes)),
    ),
    PoolStatus: (
        *map(of, ("pool.id", "state", "pool.address", "total", "used")),
        Column("machines", lambda status: str(len(status.machines)), "machines"),
        *map(of, ("num_tasks", "pool.labels", "message")),
    ),
    MachineUse: tuple(map(of, ("name", "total", "used", "num_tasks", "labels"))),
    Token: (of("id", "token"), of("name"), of("role"), of("created_at"), of("expires_at"), of("revoked_at")),
    Project: (of("id", "project"), of("created_at")),
    AuditEntry: (of("at"), of("principal"), of("operation"), of("subject"), of("outcome")),
    SimulationReport: (
        of("nodes"),
        of("num_finished", "finished"),
        of("num_too_large", "too large"),
        of("avg_jct_s", "avg JCT"),
        of("median_jct_s", "median"),
        of("p99_jct_s", "p99"),
        of("makespan_s", "makespan"),
        Column("utilisation", lambda report: _share(report.utilisation)),
        of("avg_wait_s", "avg wait"),
        of("num_preemptions", "preemptions"),
        Column("deadlines met", _say_deadlines),
    ),
    TenantRow: (
        Column("tenant", lambda row: safe(row.tenant) or NOTHING),
        of("num_jobs", "jobs"),
        of("num_finished", "finished"),
        of("avg_jct_s", "avg JCT"),
        of("avg_wait_s", "avg wait"),
        of("gpu_share", "of all GPU time"),
        of("finish_time_fairness.mean", "mean rho"),
    ),
    TimePlan: (
        of("id", "plan"),
        of("name"),
        of("chosen.workers", "workers"),
        Column("time", lambda plan: human("time_s", plan.chosen.seconds)),
        Column("cost", lambda plan: f"${plan.chosen.cost_usd:,.4g}"),
        of("run_id", "run"),
        of("created_at"),
    ),
    Breakdown: (
        of("workers"),
        of("startup_s", "start"),
        of("step_s", "a step"),
        of("steps"),
        of("checkpoints_s", "checkpoints"),
        of("finish_s", "finish"),
    ),
    AccuracyRow: (
        of("name"),
        of("num_trainings", "trainings"),
        Column("median error", lambda row: human("_share", row.median_error_share)),
        Column("worst", lambda row: human("_share", row.worst_error_share)),
        Column("inside interval", lambda row: human("_share", row.inside_share)),
        Column("in time", lambda row: human("_share", row.in_time_share)),
    ),
    Estimate: (
        of("workers"),
        of("batch_size"),
        Column("time", lambda one: human("time_s", one.seconds)),
        Column("from", lambda one: human("low_s", one.low_s)),
        Column("to", lambda one: human("high_s", one.high_s)),
        Column("cost", lambda one: f"${one.cost_usd:,.4g}"),
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
    DayCost: (of("day"), of("cpu_hours"), of("gpu_hours"), of("cost")),
    PriceList: (
        of("pool"),
        of("tenure"),
        of("prices.cpu_usd_per_hour", "CPU $/h"),
        of("prices.gpu_usd_per_hour", "GPU $/h"),
        of("prices.memory_gib_usd_per_hour", "GiB $/h"),
        Column("since", lambda item: human("valid_from_at", item.valid_from) if item.valid_from else "ever"),
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

# Pages whose noun holds others inside: what to show of all of them as pairs, and which parts under their own headings.
PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    JobStatus: (
        (
            of("job.id", "job"),
            of("job.spec.name"),
            of("state"),
            of("reason"),
            of("message"),
            of("next_action"),
            of("place", "place in the queue"),
            of("outlook"),
            of("forecast.basis", "judged"),
            Column("workers", _workers, "job.spec.num_workers"),
            of("job.spec.resources", "each with"),
            of("job.spec.priority"),
            Column("attempt", _attempt, "job.attempt"),
            of("job.submitted_at"),
            of("job.submitted_by"),
            of("started_at"),
            of("ended_at"),
            of("job.spec.labels"),
        ),
        ("tasks",),
    ),
    ArrayStatus: (
        (
            of("array.id", "array"),
            of("array.spec.name"),
            of("state"),
            of("reason"),
            of("message"),
            of("next_action"),
            of("array.size"),
            of("num_succeeded", "succeeded"),
            of("num_failed", "failed"),
            of("num_cancelled", "cancelled"),
            of("num_running", "running"),
            of("num_waiting", "waiting"),
            of("array.spec.resources", "each with"),
            of("array.submitted_at"),
            of("array.submitted_by"),
            of("started_at"),
            of("ended_at"),
        ),
        ("failures",),
    ),
    ScheduleStatus: (
        (
            of("schedule.name", "schedule"),
            of("schedule.id"),
            of("schedule.cron"),
            of("schedule.time_zone"),
            of("schedule.missed"),
            of("schedule.overlap"),
            of("schedule.paused_by"),
            of("schedule.message"),
            of("schedule.num_runs", "runs"),
            of("schedule.last_at", "last"),
            of("schedule.last_job"),
            of("last_state"),
            Column("next", lambda status: ", ".join(human("at", slot) for slot in status.upcoming)),
            of("schedule.created_at"),
            of("schedule.created_by"),
        ),
        (),
    ),
    RunProgress: (
        (
            of("run.id", "run"),
            of("run.name"),
            of("state"),
            of("message"),
            of("run.recipe"),
            of("run.dataset"),
            of("run.dataset_version"),
            of("run.target"),
            of("run.parameters"),
            of("run.job_id", "job"),
            of("run.created_at"),
        ),
        ("latest",),
    ),
    ModelVersion: (
        (
            of("id", "version"),
            of("model"),
            of("number"),
            of("description"),
            of("evaluation.metrics", "measured"),
            of("evaluation.num_rows", "on rows"),
            of("provenance.recipe"),
            of("provenance.dataset"),
            of("provenance.dataset_version"),
            of("run_id", "run"),
            of("parity.largest_difference", "ONNX differs by"),
            of("created_at"),
        ),
        ("manifest.signature.inputs", "manifest.signature.outputs", "manifest.files", "evaluation.classes"),
    ),
    ModelStatus: ((of("model.name"), of("model.newest"), of("model.aliases"), of("model.created_at")), ("versions",)),
    PlanProgress: (
        (
            of("plan.id", "plan"),
            of("plan.name"),
            of("plan.run_id", "run"),
            of("plan.job_id", "job"),
            of("state"),
            of("plan.workers"),
            Column("predicted", lambda told: human("_s", told.plan.chosen.seconds)),
            of("plan.deadline_at", "deadline"),
            of("estimate.message"),
        ),
        ("estimate", "outcome", "plan"),
    ),
    DatasetStatus: (
        (
            of("dataset.name"),
            of("dataset.id", "dataset"),
            of("state"),
            of("dataset.description"),
            of("dataset.created_at"),
            of("num_versions", "versions"),
            of("newest.number", "newest"),
            of("newest.contents.num_rows", "rows"),
            of("newest.contents.num_rejects", "rejected"),
            of("newest.tags", "tags"),
        ),
        ("drafts", "newest.contents.columns", "newest.contents.reports", "newest.contents.scalings"),
    ),
    DatasetVersion: (
        (
            of("number", "version"),
            of("parent", "made from version"),
            Column("made by", lambda version: type(version.making).__name__.lower(), "making"),
            of("contents.num_rows", "rows"),
            of("contents.num_rejects", "rejected"),
            of("contents.rejects", "rejected rows"),
            of("contents.digest"),
            of("tags"),
            of("created_at"),
            of("job_id", "job"),
        ),
        ("contents.columns", "contents.reports", "contents.scalings"),
    ),
    DraftStatus: (
        (
            of("draft.id", "draft"),
            Column("makes", lambda status: type(status.draft.making).__name__.lower(), "draft.making"),
            of("state"),
            of("error.message"),
            of("error.next_action", "next"),
            of("draft.dataset_id", "dataset"),
            of("draft.job_id", "job"),
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
    SimulationReport: (
        (
            of("policy"),
            Column("cluster", lambda report: f"{_many(report.nodes, 'node')} × {_many(report.gpus_per_node, 'GPU')}"),
            Column("jobs", _say_jobs),
            of("avg_jct_s", "avg JCT"),
            of("median_jct_s", "median JCT"),
            of("p99_jct_s", "p99 JCT"),
            of("avg_wait_s", "avg wait"),
            of("makespan_s", "makespan"),
            Column(
                "utilisation", lambda report: f"{_share(report.utilisation)}  {bins(report.utilisation_curve, 1.0, 60)}"
            ),
            of("num_preemptions", "preemptions"),
            Column("resizes", lambda report: human("", report.num_resizes or None)),
            Column("lost to stops", lambda report: _gpu_hours(report.lost_gpu_s)),
            Column("Jain fairness", lambda report: human("", report.jain_fairness)),
            Column("finish-time fairness", _say_rho),
            Column("deadlines met", _say_deadlines),
        ),
        ("tenants", "what_if"),
    ),
    EndpointStatus: (
        (
            of("endpoint.name"),
            of("endpoint.id", "endpoint"),
            of("state"),
            of("message"),
            of("next_action"),
            of("endpoint.model"),
            of("endpoint.revision"),
            of("url"),
            of("grpc_address"),
            of("traffic.requests"),
            of("traffic.rows"),
            of("traffic.server_errors"),
        ),
        ("replicas", "revisions"),
    ),
}


def columns(noun: type[msgspec.Struct]) -> Sequence[Column]:
    """The columns of a list of this noun."""
    return COLUMNS.get(noun) or [of(name) for name in _told(noun)]


def page(noun: msgspec.Struct) -> View:
    """What a page about this noun shows: by `PAGES`, or all it has."""
    if type(noun) in PAGES:
        shown, parts = PAGES[type(noun)]
        pairs = [(column.heading, column.write(noun)) for column in shown]
        return View(pairs, [(label(path.split(".")[-1]), part) for path in parts if (part := attribute(noun, path))])
    fields = [(name, getattr(noun, name)) for name in _told(type(noun))]
    plain = [(label(name), human(name, value)) for name, value in fields if not _is_part(value)]
    return View(plain, [(label(name), value) for name, value in fields if _is_part(value)])


def attribute(noun: object, path: str) -> Any:
    """An attribute of an attribute; None as soon as one of them is."""
    for name in path.split("."):
        noun = getattr(noun, name, None)
    return noun


def _told(noun: type[msgspec.Struct]) -> list[str]:
    """The fields worth telling: the tenant is known to who asks, and how often a record was written is nobody's business."""
    hidden = {"project", "version"} if issubclass(noun, Record) else set()
    return [name for name in noun.__struct_fields__ if name not in hidden]


def _is_part(value: object) -> bool:
    if isinstance(value, dict):
        return any(isinstance(item, msgspec.Struct) for item in value.values())
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], msgspec.Struct)
    return isinstance(value, msgspec.Struct) and not isinstance(value, Money | Resources | msgspec.Raw)


def rows_of_cost(report: CostReport) -> tuple[Sequence[Column], Sequence[CostRow]]:
    """A cost report as one table: its rows with their part of the whole drawn, and the total."""
    whole = report.total.cost.nano_usd or 1
    drawn = Column("", lambda row: "" if row is report.total else bar(row.cost.nano_usd / whole))
    return (*columns(CostRow), drawn), (*report.rows, report.total)


def rows_of_days(outlook: CostOutlook) -> tuple[Sequence[Column], Sequence[DayCost]]:
    """What each day cost as one table, with a bar; days before the first that cost anything are left out."""
    began = next((place for place, day in enumerate(outlook.days) if day.cost.nano_usd), len(outlook.days) - 1)
    shown = outlook.days[began:]
    highest = max((day.cost.nano_usd for day in shown), default=0) or 1
    return (*columns(DayCost), Column("", lambda day: bar(day.cost.nano_usd / highest, 40))), shown


def going(outlook: CostOutlook) -> str:
    """Where the month is going, in a sentence or two."""
    way = outlook.forecast
    between = f" ({way.low} to {way.high})" if way.low is not None else ""
    return f"{way.month}: {way.spent} so far, {way.expected} at its end{between}. {way.message}"


def rows_of_forecast(forecast: Forecast | TimePlan) -> tuple[Sequence[Column], Sequence[Estimate]]:
    """The curve of a forecast as a table: few of many numbers of workers, the chosen one marked, each time with its interval drawn."""
    chosen, estimates = forecast.chosen.workers, forecast.predictions
    counts = {round(step * 2**power) for power in range(12) for step in (1, 1.5)}
    ends = {estimates[0].workers, estimates[-1].workers, chosen}
    shown = [one for one in estimates if one.workers in counts | ends or len(estimates) <= _FEW_ROWS]
    top = 1.25 * max(one.seconds for one in shown)
    drawn = Column("0 … " + human("_s", top), lambda one: whisker(one.low_s, one.seconds, one.high_s, top))
    mark = Column("", lambda one: "← chosen" if one.workers == chosen else "")
    return (*columns(Estimate), drawn, mark), shown


def words_of_forecast(forecast: Forecast | TimePlan) -> list[tuple[str, str]]:
    """What was chosen and why, the law behind it, and what to know before believing it."""
    chosen, model = forecast.chosen, forecast.model
    span = f"{human('_s', chosen.low_s)} to {human('_s', chosen.high_s)} in 9 of 10 runs"
    size = f", batch size {chosen.batch_size:,}" if chosen.batch_size else ""
    law = " + ".join(f"{seconds:.3g}{SIGNS[term] and '·'}{SIGNS[term]}" for term, seconds in model.terms.items())
    return [
        ("", ""),
        ("chosen", f"{chosen.workers} worker{'s' if chosen.workers > 1 else ''}{size}: {chosen.reason}"),
        ("takes", f"{human('_s', chosen.seconds)} ({span})"),
        ("costs", f"${chosen.cost_usd:,.4g}, at most about ${chosen.high_cost_usd:,.4g}"),
        ("law", f"T = {law} s, noise {human('noise_share', model.noise_share)}, {model.num_measurements} measurements"),
        *(("note", note) for note in forecast.notes),
    ]


def cells(excerpt: Excerpt) -> Sequence[Column]:
    """The columns of some rows of a dataset."""

    def column(place: int, name: str) -> Column:
        return Column(safe(name), lambda row: human("", row[place]))

    return [column(place, name) for place, name in enumerate(excerpt.columns)]


def _lost(loss: Loss) -> str:
    """Why rows were lost, and where the first of them are."""
    lines = [str(example.line) for example in loss.examples if example.line is not None]
    ids = [str(example.row_id) for example in loss.examples if example.row_id is not None]
    where = f", line {', '.join(lines[:3])}" if lines else f", row {', '.join(ids[:3])}" if ids else ""
    return f"{loss.num_rows}: {loss.reason}{where}"


def _some(texts: Iterable[str], count: int = 4) -> str:
    shown = list(texts)
    return safe("; ".join(shown[:count])) + (f"; {len(shown) - count} more" if len(shown) > count else "")
