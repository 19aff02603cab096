"""``skyloom simulate``: a trace of jobs, played by the cloud's own rules on machines that are imagined. Needs no cloud."""

import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skyloom.cli.frame import AsJson, word
from skyloom.cli.render import progress, show
from skyloom.cli.values import UnreadableOption, numbers
from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.rooms.scheduling.simulation import StopCosts
from skyloom.simulation.figure import check_figure, check_folder, write_figure
from skyloom.simulation.metrics import report
from skyloom.simulation.model import Cluster, Played, Scenario, SimulationReport, TraceJob
from skyloom.simulation.play import play, with_nodes
from skyloom.simulation.rows import write_jobs
from skyloom.simulation.throughput import read_throughput
from skyloom.simulation.trace import read_trace

_MAX_NODES = 100_000
_MAX_WHAT_IF = 20
_MANY = 5_000  # jobs; fewer are played before one could read how far they are
# Policies of papers that know neither; asked for by name, they are what the papers define.
_STRICT = {Policy.FIFO}
_RIGID = {Policy.FIFO, Policy.SRTF, Policy.SRSF, Policy.LAS}

app = word("Play a trace of jobs on imagined machines.")

Trace = Annotated[Path, typer.Option("--trace", metavar="FILE", help="CSV, one job a row; .gz too.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, max=_MAX_NODES, help="Machines.")]
GpusPerNode = Annotated[int, typer.Option("--gpus-per-node", min=1, max=1_000, help="GPUs of each.")]
PolicyName = Annotated[Policy, typer.Option("--policy", help="Whose turn it is.", case_sensitive=False)]
LasLimits = Annotated[
    str, typer.Option("--las-limits", metavar="A,B,…", help="Borders of las' queues, in GPU-seconds.")
]
Throughput = Annotated[
    Path | None, typer.Option("--throughput", metavar="FILE", help="CSV: model,num_gpus,samples_per_s.")
]
WhatIf = Annotated[
    str | None, typer.Option("--what-if", metavar="nodes=4,8,16", help="A row for each of these as well.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.html|.png", help="Draw who ran when.")]
JobsFile = Annotated[Path | None, typer.Option("--jobs", metavar="FILE.csv", help="Write one row a job.")]
Backfill = Annotated[
    bool | None,
    typer.Option("--backfill/--no-backfill", help="Overtake where it delays nobody.  [default: not for fifo]"),
]
Preempt = Annotated[bool, typer.Option("--preempt/--no-preempt", help="Running jobs may be stopped.")]
Elastic = Annotated[
    bool | None,
    typer.Option("--elastic/--no-elastic", help="Use min_gpus, max_gpus.  [default: fair, deadline, elastic]"),
]
MinRun = Annotated[float, typer.Option("--min-run-s", help="Nobody is stopped before.")]
CheckpointCost = Annotated[float, typer.Option("--checkpoint-cost-s", help="What a stop takes.")]
RestartCost = Annotated[float, typer.Option("--restart-cost-s", help="What a start after a stop takes.")]
EstimateError = Annotated[
    float, typer.Option("--estimate-error", help="How wrong expected durations are: 0 true, 1 wild.")
]
SkipTooLarge = Annotated[bool, typer.Option("--skip-too-large", help="Leave out, and count, what can never run.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the errors of expected durations.")]


@app.command()
def simulate(
    trace: Trace,
    nodes: Nodes = 8,
    gpus_per_node: GpusPerNode = 8,
    policy: PolicyName = Policy.FAIR,
    las_limits: LasLimits = "3250,7200",
    throughput: Throughput = None,
    what_if: WhatIf = None,
    plot: Plot = None,
    jobs: JobsFile = None,
    backfill: Backfill = None,
    preempt: Preempt = True,
    elastic: Elastic = None,
    min_run_s: MinRun = 0.0,
    checkpoint_cost_s: CheckpointCost = 0.0,
    restart_cost_s: RestartCost = 0.0,
    estimate_error: EstimateError = 0.0,
    skip_too_large: SkipTooLarge = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Play a trace: `skyloom simulate --trace jobs.csv --nodes 8 --gpus-per-node 8 --policy las`.

    Columns: job_id,submit_s,duration_s,num_gpus[,tenant,priority,deadline_s,min_gpus,max_gpus,model].
    Stops cost nothing unless said so. The same command gives the same numbers.
    """
    for path, check in ((plot, check_figure), (jobs, check_folder)):
        if path is not None:
            check(path)
    others = _what_if(what_if)
    costs = StopCosts(
        checkpoint_s=_within(checkpoint_cost_s, "--checkpoint-cost-s"),
        restart_s=_within(restart_cost_s, "--restart-cost-s"),
    )
    scenario = Scenario(
        cluster=Cluster(num_nodes=nodes, gpus_per_node=gpus_per_node),
        rules=Rulebook(
            policy=policy,
            las_limits_gpu_s=_limits(las_limits),
            min_run_s=_within(min_run_s, "--min-run-s"),
            restart_s=costs.checkpoint_s + costs.restart_s,
            backfill=policy not in _STRICT if backfill is None else backfill,
            preempt=preempt,
            elastic=policy not in _RIGID if elastic is None else elastic,
        ),
        costs=costs,
        rates=read_throughput(throughput) if throughput else {},
        estimate_error=_within(estimate_error, "--estimate-error", 5),
        seed=seed,
        skip_too_large=skip_too_large or bool(others),
    )
    trace_jobs = read_trace(trace)
    played = _played(trace_jobs, scenario, as_json)
    told = report(played)
    if jobs:
        write_jobs(played, jobs)
    if plot:
        write_figure(played, plot)
    rows = [told if count == nodes else _row(trace_jobs, with_nodes(scenario, count), as_json) for count in others]
    show(msgspec.structs.replace(told, what_if=tuple(rows)), as_json)


def _played(jobs: tuple[TraceJob, ...], scenario: Scenario, quiet: bool) -> Played:
    title = f"{scenario.rules.policy.value}, {scenario.cluster.num_nodes} nodes"
    with progress(title, len(jobs), quiet=quiet or len(jobs) < _MANY) as advance:
        return play(jobs, scenario, advance)


def _row(jobs: tuple[TraceJob, ...], scenario: Scenario, quiet: bool) -> SimulationReport:
    return report(_played(jobs, scenario, quiet))


def _limits(text: str) -> tuple[float, ...]:
    """Read ``3250,7200``. Raises `UnreadableOption`."""
    limits = numbers(text, "--las-limits") if text.strip() else ()
    if list(limits) != sorted(set(limits)) or len(limits) > 20 or not all(0 < limit <= 1e12 for limit in limits):
        raise UnreadableOption(
            f"--las-limits {text[:80]!r} does not ascend, is not between 0 and 1e12, or has more than 20 numbers.",
            next_action="Write the smallest border first: --las-limits 3250,7200.",
        )
    return limits


def _what_if(text: str | None) -> list[int]:
    """Read ``nodes=4,8,16``. Raises `UnreadableOption`."""
    if text is None:
        return []
    match = re.fullmatch(r"\s*nodes\s*=\s*(\d{1,6}(?:\s*,\s*\d{1,6})*)\s*", text)
    counts = [int(part) for part in match[1].split(",")] if match else []
    if not counts or len(counts) > _MAX_WHAT_IF or not all(1 <= count <= _MAX_NODES for count in counts):
        raise UnreadableOption(
            f"--what-if {text[:80]!r} is not nodes= and up to {_MAX_WHAT_IF} numbers from 1 to {_MAX_NODES:,}.",
            next_action="Write --what-if nodes=4,8,16.",
        )
    return list(dict.fromkeys(counts))


def _within(value: float, option: str, most: float = 1e9) -> float:
    if not 0 <= value <= most:  # NaN too
        raise UnreadableOption(
            f"{option} {value:g} is not between 0 and {most:g}.", next_action=f"Write for example {option} 0.5."
        )
    return value
