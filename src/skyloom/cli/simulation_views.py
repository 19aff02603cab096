"""What people want to see of a simulation: its measures as a page, and a row for each tenant and each number of nodes."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.plots import bins
from skyloom.cli.wording import NOTHING, human, safe
from skyloom.simulation.model import SimulationReport, TenantRow


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


SIMULATION_COLUMNS: Mapping[type, Sequence[Column]] = {
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
}

SIMULATION_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
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
}
