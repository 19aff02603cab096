"""The policies of papers, by their definitions: schedules that a reader can compute, and a brute-force second opinion."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.simulation.model import Cluster, Played, Scenario, TraceJob
from skyloom.simulation.play import play
from tests.simulation.oracle import Textbook

LIMITS = (12.0, 24.0)


def job(name: str, submit_s: float, duration_s: float, num_gpus: int = 1) -> TraceJob:
    return TraceJob(job_id=name, submit_s=submit_s, duration_s=duration_s, num_gpus=num_gpus)


def played(jobs: list[TraceJob], policy: Policy, gpus: int = 1, limits: tuple[float, ...] = LIMITS) -> Played:
    rules = Rulebook(
        policy=policy,
        las_limits_gpu_s=limits,
        min_run_s=0,
        restart_s=0,
        backfill=policy is not Policy.FIFO,
        elastic=False,
    )
    return play(jobs, Scenario(cluster=Cluster(num_nodes=1, gpus_per_node=gpus), rules=rules))


def ends(*asked: Any) -> dict[str, float | None]:
    found = played(*asked)
    return {job.job_id: life.ended_at for job, life in zip(found.jobs, found.lives, strict=True)}


def test_fifo_lets_nobody_pass_the_first_in_line() -> None:
    jobs = [job("a", 0, 10, 1), job("wide", 1, 5, 2), job("small", 2, 3, 1)]
    assert ends(jobs, Policy.FIFO, 2) == {"a": 10, "wide": 15, "small": 18}


def test_srtf_stops_the_longer_rest_at_each_arrival() -> None:
    # The example of Silberschatz, Galvin and Gagne: average waiting time 6.5.
    jobs = [job("p1", 0, 8), job("p2", 1, 4), job("p3", 2, 9), job("p4", 3, 5)]
    found = played(jobs, Policy.SRTF)
    assert [life.ended_at for life in found.lives] == [17, 5, 26, 10]
    waits = [(life.ended_at or 0) - job.submit_s - life.held_s for job, life in zip(jobs, found.lives, strict=True)]
    assert sum(waits) / 4 == 6.5
    assert [life.num_preemptions for life in found.lives] == [1, 0, 0, 0]


def test_srsf_weighs_the_rest_by_the_gpus() -> None:
    jobs = [job("wide", 0, 4, 3), job("slim", 0, 10, 1)]
    assert ends(jobs, Policy.SRTF, 3) == {"wide": 4, "slim": 14}
    assert ends(jobs, Policy.SRSF, 3) == {"wide": 14, "slim": 10}


def test_las_stops_who_had_its_share_when_somebody_new_waits() -> None:
    # a reaches 3 GPU-seconds at 3 and comes down behind b, which runs its own 3 from 3 to 6; then a, which came down first.
    jobs = [job("a", 0, 5), job("b", 1, 4)]
    found = played(jobs, Policy.LAS, 1, (3.0,))
    assert [life.ended_at for life in found.lives] == [8, 9]
    assert [life.num_preemptions for life in found.lives] == [1, 1]


def test_las_counts_gpus_times_seconds() -> None:
    # wide has its 12 GPU-seconds after 3 s, slim only after 12.
    jobs = [job("wide", 0, 6, 4), job("slim", 1, 12, 1)]
    assert ends(jobs, Policy.LAS, 4) == {"wide": 18, "slim": 15}


def test_las_within_one_queue_is_first_come_first_served() -> None:
    jobs = [job("a", 0, 10), job("b", 1, 4), job("c", 2, 1)]
    assert ends(jobs, Policy.LAS, 1, (3250.0, 7200.0)) == ends(jobs, Policy.FIFO)


def test_jobs_of_one_moment_go_in_the_order_of_the_file() -> None:
    jobs = [job(f"j{number}", 0, 2) for number in (10, 9, 2, 1)]
    for policy in (Policy.FIFO, Policy.SRTF, Policy.SRSF, Policy.LAS):
        assert list(ends(jobs, policy).values()) == [2, 4, 6, 8]


@st.composite
def traces(draw: st.DrawFn) -> tuple[int, list[TraceJob]]:
    num_gpus = draw(st.integers(1, 4))
    jobs = [
        job(
            f"j{number}",
            float(draw(st.integers(0, 9))),
            float(draw(st.integers(1, 14))),
            draw(st.integers(1, num_gpus)),
        )
        for number in range(draw(st.integers(1, 16)))
    ]
    return num_gpus, sorted(jobs, key=lambda one: one.submit_s)


@pytest.mark.parametrize("policy", [Policy.FIFO, Policy.SRTF, Policy.SRSF, Policy.LAS])
@given(traces())
@settings(max_examples=150, deadline=None)
def test_policy_agrees_with_brute_force_to_the_second(policy: Policy, trace: tuple[int, list[TraceJob]]) -> None:
    num_gpus, jobs = trace
    second = Textbook(jobs, num_gpus, policy, LIMITS, skip=policy is not Policy.FIFO)
    assert ends(jobs, policy, num_gpus) == second.finish_times()


@pytest.mark.parametrize("policy", [Policy.SRTF, Policy.LAS])
def test_policy_agrees_with_brute_force_on_a_longer_trace(policy: Policy) -> None:
    chance = random.Random(7)
    jobs = [
        job(f"j{number}", float(number // 2), float(chance.randint(1, 30)), chance.choice((1, 1, 2, 4)))
        for number in range(150)
    ]
    assert ends(jobs, policy, 8) == Textbook(jobs, 8, policy, LIMITS).finish_times()
