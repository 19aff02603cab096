"""Playing a trace: jobs become gangs of one GPU a worker, machines become nodes, and the cloud's own scheduler decides."""

import random
from collections.abc import Callable, Iterable, Sequence

import msgspec

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.course import Script
from skyloom.rooms.scheduling.model import Demand, Node
from skyloom.rooms.scheduling.policies import speed
from skyloom.rooms.scheduling.scheduler import Scheduler
from skyloom.rooms.scheduling.simulation import Simulation
from skyloom.simulation.model import Cluster, JobTooLarge, Played, Scenario, TraceJob
from skyloom.simulation.trace import TraceUnreadable

_NOBODY = " "  # the tenant of jobs that name none; no cell of a trace is a blank
_GPU = Resources(cpus=0, gpus=1, memory_bytes=0)


def play(jobs: Sequence[TraceJob], scenario: Scenario, advance: Callable[[int], None] = lambda count: None) -> Played:
    """Play a trace to its end; the same jobs and scenario give the same outcome.

    Args:
        advance: told how many jobs are done, as they are.

    Raises:
        JobTooLarge: unless the scenario says that such jobs are left out.
        TraceUnreadable: a job's model has no measured speeds, and others have.
    """
    fitting, num_too_large = _fitting(jobs, scenario)
    chance = random.Random(scenario.seed)  # noqa: S311  (no secret)
    nodes = nodes_of(scenario.cluster)
    scripts = [_script(place, job, scenario, chance) for place, job in enumerate(fitting)]
    simulation = Simulation(Scheduler(scenario.rules, nodes), nodes, scripts, scenario.costs)
    advance(num_too_large)
    return Played(
        scenario=scenario, jobs=tuple(fitting), num_too_large=num_too_large, outcome=simulation.run(advance=advance)
    )


def nodes_of(cluster: Cluster) -> list[Node]:
    """The machines: only their GPUs are counted."""
    total = Resources(cpus=0, gpus=cluster.gpus_per_node, memory_bytes=0)
    width = len(str(cluster.num_nodes))
    return [Node(name=f"node-{place + 1:0{width}}", total=total) for place in range(cluster.num_nodes)]


def with_nodes(scenario: Scenario, num_nodes: int) -> Scenario:
    """The same scenario on another number of machines; jobs that are too large for them are counted."""
    cluster = msgspec.structs.replace(scenario.cluster, num_nodes=num_nodes)
    return msgspec.structs.replace(scenario, cluster=cluster, skip_too_large=True)


def workers_of(job: TraceJob, scenario: Scenario) -> tuple[int, int]:
    """The fewest and the most GPUs a job may have here."""
    if not scenario.rules.elastic:
        return job.num_gpus, job.num_gpus
    return job.min_gpus or job.num_gpus, job.max_gpus or job.num_gpus


def _fitting(jobs: Iterable[TraceJob], scenario: Scenario) -> tuple[list[TraceJob], int]:
    whole = scenario.cluster.num_gpus
    fitting: list[TraceJob] = []
    too_large: list[TraceJob] = []
    for job in jobs:
        (too_large if workers_of(job, scenario)[0] > whole else fitting).append(job)
    if too_large and not scenario.skip_too_large:
        first = min(too_large, key=lambda job: job.line)
        count = "One job asks" if len(too_large) == 1 else f"{len(too_large):,} jobs ask"
        raise JobTooLarge(
            f"{count} for more than the cluster's {whole:,} GPUs: "
            f"{first.job_id!r} in line {first.line} for {workers_of(first, scenario)[0]:,}.",
            next_action="Give it more nodes (--nodes), or leave such jobs out (--skip-too-large).",
        )
    return fitting, len(too_large)


def _script(place: int, job: TraceJob, scenario: Scenario, chance: random.Random) -> Script:
    fewest, most = workers_of(job, scenario)
    rates = _rates(job, scenario) if fewest != most else ()
    believed_s = job.duration_s
    if scenario.estimate_error:
        believed_s *= chance.lognormvariate(0.0, scenario.estimate_error)
    demand = Demand(
        id=f"{place:07} {job.job_id}",  # ids sort by age; of one moment, by the order in the file
        project=job.tenant or _NOBODY,
        resources=_GPU,
        min_workers=fewest,
        max_workers=most,
        priority=job.priority,
        submitted_at=job.submit_s,
        deadline_at=job.deadline_s,
        rates=rates,
    )
    # A gang is judged by its fewest workers, with which it takes longer.
    demand = msgspec.structs.replace(demand, expected_s=believed_s * speed(demand, job.num_gpus))
    return Script(demand=demand, duration_s=job.duration_s, num_workers=job.num_gpus)


def _rates(job: TraceJob, scenario: Scenario) -> tuple[float, ...]:
    if not scenario.rates:
        return ()
    if job.model not in scenario.rates:
        raise TraceUnreadable(
            f"The job {job.job_id!r} in line {job.line} is elastic, and its model {job.model!r} was not measured.",
            next_action=f"Add its speeds to the throughput file; it has: {', '.join(sorted(scenario.rates)[:10])}.",
        )
    return scenario.rates[job.model]
