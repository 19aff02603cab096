"""Comparing ways to scale: each plays the same log, and is held against what hindsight would have paid."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.simulation.metrics import percentile
from skyloom.simulation.optimum import Optimum, optimum
from skyloom.simulation.replicas import Answered, ReplicaKind, answer
from skyloom.simulation.requests import RequestTrace


class NamedScaling(msgspec.Struct, frozen=True, kw_only=True):
    """A way to scale, and what it is called."""

    name: str
    scaling: Autoscaling


class ServiceGoal(msgspec.Struct, frozen=True, kw_only=True):
    """What users are to see. Without a latency, a request is in time when it waited no longer than ``wait_s``."""

    latency_s: Annotated[float, Meta(ge=0)] | None = None
    wait_s: Annotated[float, Meta(ge=0)] = 1.0


class ScalingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a log under one policy.

    Attributes:
        in_time: share of the requests within the goal.
        p50_latency_s, p95_latency_s, p99_latency_s: from the request to its answer (interpolated); ``p99_wait_s`` until it began.
        num_cold: requests that came while no replica was ready; ``num_starts``: replicas that were started.
        replica_s: paid, cold starts included.
        over_optimum: ``replica_s`` over that of hindsight; below 1 where requests were let wait.
        num_moves, num_turns: changes of the number; those against the change before.
        peak: replicas at once, those that start or finish included.
    """

    policy: str
    in_time: float
    p50_latency_s: float
    p95_latency_s: float
    p99_latency_s: float
    p99_wait_s: float
    num_cold: int
    num_starts: int
    replica_s: float
    over_optimum: float
    num_moves: int
    num_turns: int
    peak: int


class ScalingReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Several policies on one log.

    Attributes:
        log: its name; ``num_requests`` over ``span_s``; ``mean_service_s`` each.
        optimum_replica_s: the fewest replica-seconds with which nobody waits, all known before (`optimum.py` has the definition).
        work_replica_s: no schedule is below it, whatever waits.
        needed_at_once: replicas, for nobody to wait.
        rows: a policy each; ``what_if``: the first of them with one thing changed.
    """

    log: str
    num_requests: int
    span_s: float
    mean_service_s: float
    concurrency: int
    cold_start_s: float
    goal: ServiceGoal
    optimum_replica_s: float
    work_replica_s: float
    needed_at_once: int
    rows: tuple[ScalingRow, ...]
    what_if: tuple[ScalingRow, ...] = ()


Advance = Callable[[int], None]


def compare(
    log: RequestTrace,
    policies: Sequence[NamedScaling],
    kind: ReplicaKind,
    goal: ServiceGoal,
    others: Sequence[NamedScaling] = (),
    watch: Callable[[NamedScaling, Callable[[Advance], Answered]], Answered] = lambda _, play: play(lambda count: None),
) -> tuple[ScalingReport, dict[str, Answered]]:
    """Play a log under each policy, and under ``others`` for the what-if. Also returns what became of it under each policy, by name.

    Args:
        watch: carries out each play; for who wants to show how far it is.
    """
    best = optimum(log, kind.concurrency, kind.cold_start_s)
    played = {named.name: watch(named, partial(answer, log, named.scaling, kind)) for named in (*policies, *others)}
    rows = {name: _row(log, name, answered, goal, best) for name, answered in played.items()}
    report = ScalingReport(
        log=log.name,
        num_requests=len(log.arrivals),
        span_s=log.arrivals[-1] - log.begin,
        mean_service_s=fmean(log.services),
        concurrency=kind.concurrency,
        cold_start_s=kind.cold_start_s,
        goal=goal,
        optimum_replica_s=best.replica_s,
        work_replica_s=best.work_s,
        needed_at_once=best.peak,
        rows=tuple(rows[named.name] for named in policies),
        what_if=tuple(rows[named.name] for named in others),
    )
    return report, {named.name: played[named.name] for named in policies}


def _row(log: RequestTrace, name: str, answered: Answered, goal: ServiceGoal, best: Optimum) -> ScalingRow:
    latencies = sorted(map(float.__add__, answered.waits, log.services))
    waits = sorted(answered.waits)
    judged, limit = (waits, goal.wait_s) if goal.latency_s is None else (latencies, goal.latency_s)
    return ScalingRow(
        policy=name,
        in_time=sum(value <= limit + 1e-9 for value in judged) / len(judged),
        p50_latency_s=percentile(latencies, 0.5),
        p95_latency_s=percentile(latencies, 0.95),
        p99_latency_s=percentile(latencies, 0.99),
        p99_wait_s=percentile(waits, 0.99),
        num_cold=answered.num_cold,
        num_starts=answered.num_starts,
        replica_s=answered.replica_s,
        over_optimum=answered.replica_s / best.replica_s if best.replica_s else 0.0,
        num_moves=answered.num_moves,
        num_turns=answered.num_turns,
        peak=answered.peak,
    )
