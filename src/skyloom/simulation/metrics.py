"""Counting: from what became of each job to the measures that papers on scheduling compare."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean, median

from skyloom.rooms.scheduling.course import Life
from skyloom.simulation.model import Played, Rho, SimulationReport, TenantRow, TraceJob

_NUM_POINTS = 60
Pair = tuple[TraceJob, Life]


def report(played: Played) -> SimulationReport:
    """The measures of one simulation."""
    pairs = list(zip(played.jobs, played.lives, strict=True))
    finished = [(job, life) for job, life in pairs if life.ended_at is not None]
    times = [completion_s(job, life) for job, life in finished]
    cluster, rules = played.scenario.cluster, played.scenario.rules
    begin, end = span(played)
    rhos = finish_time_fairness(finished, cluster.num_gpus)
    used = sum(life.held_gpu_s for life in played.lives)
    due = [(job, life) for job, life in pairs if job.deadline_s is not None]
    return SimulationReport(
        policy=rules.policy,
        nodes=cluster.num_nodes,
        gpus_per_node=cluster.gpus_per_node,
        num_jobs=len(pairs) + played.num_too_large,
        num_finished=len(finished),
        num_too_large=played.num_too_large,
        avg_jct_s=_average(times),
        median_jct_s=median(times) if times else None,
        p99_jct_s=percentile(times, 0.99) if times else None,
        makespan_s=end - begin,
        utilisation=used / (cluster.num_gpus * (end - begin)) if end > begin else 0.0,
        avg_wait_s=_average([wait_s(job, life) for job, life in finished]),
        num_preemptions=sum(life.num_preemptions for life in played.lives),
        num_resizes=sum(life.num_resizes for life in played.lives),
        lost_gpu_s=lost_gpu_s(played),
        jain_fairness=jain([job.duration_s / time for (job, _), time in zip(finished, times, strict=True) if time > 0]),
        finish_time_fairness=_rho([rho for rho in rhos if rho is not None]),
        num_deadlines=len(due),
        deadlines_met=sum(in_time(job, life) for job, life in due),
        utilisation_curve=tuple(curve(played, _NUM_POINTS)),
        tenants=tuple(_tenants(pairs, dict(zip((job.job_id for job, _ in finished), rhos, strict=True)), used)),
    )


def completion_s(job: TraceJob, life: Life) -> float:
    """From submission to the end of a job that ended."""
    assert life.ended_at is not None
    return life.ended_at - job.submit_s


def wait_s(job: TraceJob, life: Life) -> float:
    """In the queue, over all the times that a job that ended was in it."""
    return max(0.0, completion_s(job, life) - life.held_s)


def span(played: Played) -> tuple[float, float]:
    """From the first submission to the last end."""
    begin = min((job.submit_s for job in played.jobs), default=0.0)
    return begin, max((life.ended_at for life in played.lives if life.ended_at is not None), default=begin)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile, interpolated between the two values around it (as numpy does)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def jain(values: Sequence[float]) -> float | None:
    """Jain's index: 1 when all values are equal, 1/n when one has everything. None for no values."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else None


def finish_time_fairness(finished: Sequence[Pair], num_gpus: int) -> list[float | None]:
    """Themis' rho of each job: its time here over its time alone on one part in N of the cluster.

    N is how many jobs were in the cluster with it, averaged over its stay. Alone, it takes its duration, and longer by as much as
    its GPUs are more than that part has. None for a job without a duration.
    """
    changes = sorted([(job.submit_s, 1) for job, _ in finished] + [(life.ended_at or 0.0, -1) for _, life in finished])
    moments = [at for at, _ in changes]
    present = list(accumulate(step for _, step in changes))
    areas = [0.0, *accumulate((after - at) * n for (at, after), n in zip(pairwise(moments), present, strict=False))]

    def area(at: float) -> float:
        place = bisect_right(moments, at) - 1
        return areas[place] + (at - moments[place]) * present[place]

    rhos: list[float | None] = []
    for job, life in finished:
        time = completion_s(job, life)
        if time <= 0 or job.duration_s <= 0:
            rhos.append(None)
            continue
        neighbours = (area(job.submit_s + time) - area(job.submit_s)) / time
        alone_s = job.duration_s * max(1.0, job.num_gpus * neighbours / num_gpus)
        rhos.append(time / alone_s)
    return rhos


def curve(played: Played, num_points: int) -> list[float]:
    """The share of GPUs in use, averaged over equal parts of the makespan."""
    begin, end = span(played)
    usage, width = played.outcome.usage, (end - begin) / num_points
    if width <= 0:
        return []
    busy = [0.0] * num_points
    for (at, used), (until, _) in zip(usage, [*usage[1:], (end, 0.0)], strict=True):
        first, last = int((at - begin) / width), min(int((until - begin) / width), num_points - 1)
        for place in range(first, last + 1):
            overlap = min(until, begin + (place + 1) * width) - max(at, begin + place * width)
            busy[place] += max(0.0, overlap) * used
    return [min(1.0, area / (width * played.scenario.cluster.num_gpus)) for area in busy]


def lost_gpu_s(played: Played) -> float:
    """GPU-seconds in which GPUs were held to write checkpoints or to restart."""
    costs, runs = played.scenario.costs, defaultdict[str, int](int)
    if not (costs.checkpoint_s or costs.restart_s):
        return 0.0
    stops = {life.gang: life.num_preemptions + life.num_resizes for life in played.lives}
    lost = 0.0
    for stretch in played.outcome.stretches:
        run = runs[stretch.gang]
        runs[stretch.gang] += 1
        held_s = stretch.end_at - stretch.start_at
        stopping_s = costs.checkpoint_s if run < stops[stretch.gang] else 0.0
        starting_s = costs.restart_s if run else 0.0
        lost += min(held_s, stopping_s + starting_s) * sum(workers for _, workers in stretch.placement)
    return lost


def _tenants(pairs: Sequence[Pair], rhos: dict[str, float | None], used: float) -> list[TenantRow]:
    by_tenant: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_tenant[pair[0].tenant].append(pair)
    rows = []
    for tenant, own in by_tenant.items():
        ended = [(job, life) for job, life in own if life.ended_at is not None]
        row = TenantRow(
            tenant=tenant,
            num_jobs=len(own),
            num_finished=len(ended),
            avg_jct_s=_average([completion_s(job, life) for job, life in ended]),
            avg_wait_s=_average([wait_s(job, life) for job, life in ended]),
            gpu_share=sum(life.held_gpu_s for _, life in own) / used if used else 0.0,
            finish_time_fairness=_rho([rho for job, _ in ended if (rho := rhos[job.job_id]) is not None]),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (-row.gpu_share, row.tenant))


def _rho(rhos: Sequence[float]) -> Rho:
    return Rho(mean=fmean(rhos), max=max(rhos)) if rhos else Rho()


def _average(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def in_time(job: TraceJob, life: Life) -> bool:
    """Whether a job that has a deadline ended by it."""
    return life.ended_at is not None and job.deadline_s is not None and life.ended_at <= job.deadline_s + 1e-9
