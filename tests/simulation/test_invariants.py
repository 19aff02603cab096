"""What holds in every simulation by every policy, over a thousand random traces and more: the scheduler's promises, seen from outside."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.rooms.scheduling.course import Stretch
from skyloom.rooms.scheduling.model import Allotment, Policy, Quota, Rulebook
from skyloom.rooms.scheduling.simulation import StopCosts
from skyloom.simulation.metrics import report
from skyloom.simulation.model import Cluster, Played, Scenario, TraceJob
from skyloom.simulation.play import play, workers_of

EVERY_POLICY = pytest.mark.parametrize("policy", list(Policy))
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TENANTS = ("", "x", "y")
CEILING = 3


@st.composite
def job_lists(draw: st.DrawFn, most_gpus: int, elastic: bool = True) -> list[TraceJob]:
    jobs = []
    for number in range(draw(st.integers(1, 12))):
        submit_s = float(draw(st.integers(0, 20)))
        num_gpus = draw(st.integers(1, most_gpus))
        resizable = elastic and draw(st.booleans())
        job = TraceJob(
            job_id=f"j{number}",
            submit_s=submit_s,
            duration_s=float(draw(st.integers(0, 15))),
            num_gpus=num_gpus,
            tenant=draw(st.sampled_from(TENANTS)),
            priority=draw(st.sampled_from((0, 0, 0, 1, -1))),
            deadline_s=draw(st.sampled_from((None, submit_s + 5, submit_s + 30))),
            min_gpus=draw(st.integers(1, num_gpus)) if resizable else 0,
            max_gpus=draw(st.integers(num_gpus, most_gpus)) if resizable else 0,
        )
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.submit_s)


@st.composite
def scenarios(draw: st.DrawFn, policy: Policy) -> tuple[Scenario, list[TraceJob]]:
    cluster = Cluster(num_nodes=draw(st.integers(1, 3)), gpus_per_node=draw(st.integers(1, 4)))
    costs = StopCosts(checkpoint_s=draw(st.sampled_from((0.0, 0.0, 1.0))), restart_s=draw(st.sampled_from((0.0, 2.0))))
    most = cluster.num_gpus
    quotas = {}
    if draw(st.booleans()):
        most = min(most, CEILING)
        quotas = {"x": Quota(ceiling=Allotment(gpus=CEILING)), "y": Quota(guaranteed=Allotment(gpus=1), weight=2.0)}
    rules = Rulebook(
        policy=policy,
        las_limits_gpu_s=(4.0, 12.0),
        min_run_s=draw(st.sampled_from((0.0, 3.0))),
        restart_s=costs.checkpoint_s + costs.restart_s,
        quotas=quotas,
        backfill=draw(st.booleans()),
        preempt=draw(st.booleans()),
        elastic=draw(st.booleans()),
    )
    scenario = Scenario(
        cluster=cluster, rules=rules, costs=costs, estimate_error=draw(st.sampled_from((0.0, 1.0))), skip_too_large=True
    )
    return scenario, draw(job_lists(most))


def moments(stretches: Iterable[Stretch]) -> list[float]:
    return sorted({at for stretch in stretches for at in (stretch.start_at, stretch.end_at)})


def held(stretches: Sequence[Stretch], at: float) -> list[Stretch]:
    return [stretch for stretch in stretches if stretch.start_at <= at < stretch.end_at]


def assert_gangs_are_whole(played: Played) -> None:
    sizes = {life.gang: workers_of(job, played.scenario) for job, life in zip(played.jobs, played.lives, strict=True)}
    for stretch in played.outcome.stretches:
        least, most = sizes[stretch.gang]
        assert least <= sum(count for _, count in stretch.placement) <= most
        assert len({name for name, _ in stretch.placement}) == len(stretch.placement)


def assert_nothing_is_given_twice(played: Played) -> None:
    """Neither GPUs of a node nor, beyond its ceiling, to a project; nor does a gang run in two places."""
    tenant = {life.gang: job.tenant for job, life in zip(played.jobs, played.lives, strict=True)}
    for at in moments(played.outcome.stretches):
        on_node: dict[str, int] = defaultdict(int)
        of_tenant: dict[str, int] = defaultdict(int)
        now = held(played.outcome.stretches, at)
        assert len({stretch.gang for stretch in now}) == len(now)
        for stretch in now:
            for name, count in stretch.placement:
                on_node[name] += count
                of_tenant[tenant[stretch.gang]] += count
        assert max(on_node.values(), default=0) <= played.scenario.cluster.gpus_per_node
        for name, quota in played.scenario.rules.quotas.items():
            if quota.ceiling is not None and quota.ceiling.gpus is not None:
                assert of_tenant[name] <= quota.ceiling.gpus


def assert_service_is_what_was_asked(played: Played) -> None:
    """Everybody is done, and was served as long as its duration says, whatever happened on the way."""
    for job, life in zip(played.jobs, played.lives, strict=True):
        assert life.ended_at is not None
        assert life.started_at is not None and life.started_at >= job.submit_s
        assert life.served_s == job.duration_s
    if played.scenario.costs == StopCosts():
        for job, life in zip(played.jobs, played.lives, strict=True):
            own = [stretch for stretch in played.outcome.stretches if stretch.gang == life.gang]
            gpu_s = sum((one.end_at - one.start_at) * sum(count for _, count in one.placement) for one in own)
            assert gpu_s == pytest.approx(job.duration_s * job.num_gpus, abs=1e-5)


@EVERY_POLICY
@given(st.data())
@QUICK
def test_every_simulation_keeps_what_the_scheduler_promises(policy: Policy, data: st.DataObject) -> None:
    scenario, jobs = data.draw(scenarios(policy))
    played = play(jobs, scenario)
    assert_gangs_are_whole(played)
    assert_nothing_is_given_twice(played)
    assert_service_is_what_was_asked(played)
    told = report(played)
    assert told.num_finished == len(jobs)
    assert 0 <= told.utilisation <= 1 + 1e-9
    assert play(jobs, scenario) == played


@EVERY_POLICY
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_gpu_idles_while_a_gang_waits_that_it_could_run(policy: Policy, data: st.DataObject) -> None:
    """Gangs of one GPU each: whenever one waits, all GPUs are held."""
    jobs = data.draw(job_lists(1, elastic=False))
    cluster = Cluster(num_nodes=data.draw(st.integers(1, 2)), gpus_per_node=data.draw(st.integers(1, 2)))
    rules = Rulebook(policy=policy, las_limits_gpu_s=(4.0, 12.0), min_run_s=0.0, restart_s=0.0)
    played = play(jobs, Scenario(cluster=cluster, rules=rules))
    stretches = played.outcome.stretches
    for at, until in pairwise(sorted({*moments(stretches), *(job.submit_s for job in jobs)})):
        running = {stretch.gang for stretch in held(stretches, at)}
        waiting = [
            job
            for job, life in zip(played.jobs, played.lives, strict=True)
            if job.submit_s <= at and (life.ended_at or 0) > until and life.gang not in running
        ]
        assert not waiting or len(running) == cluster.num_gpus
