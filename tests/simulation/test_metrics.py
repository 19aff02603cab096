"""The measures, by numbers that a reader can compute."""

import math
from pathlib import Path
from typing import Any

import pytest

from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.rooms.scheduling.simulation import StopCosts
from skyloom.simulation.metrics import curve, jain, percentile, report
from skyloom.simulation.model import Cluster, JobTooLarge, Scenario, SimulationReport, TraceJob
from skyloom.simulation.play import play, with_nodes
from skyloom.simulation.rows import COLUMNS, write_jobs
from skyloom.simulation.trace import TraceUnreadable

ONE_GPU = Scenario(
    cluster=Cluster(num_nodes=1, gpus_per_node=1),
    rules=Rulebook(policy=Policy.FIFO, backfill=False, elastic=False, min_run_s=0, restart_s=0),
)


def job(name: str, submit_s: float, duration_s: float, num_gpus: int = 1, **more: Any) -> TraceJob:
    return TraceJob(job_id=name, submit_s=submit_s, duration_s=duration_s, num_gpus=num_gpus, **more)


def on(num_nodes: int, gpus_per_node: int, **more: Any) -> Scenario:
    cluster = Cluster(num_nodes=num_nodes, gpus_per_node=gpus_per_node)
    return Scenario(cluster=cluster, rules=ONE_GPU.rules, **more)


def test_report_of_three_jobs_on_one_gpu_is_as_computed_by_hand() -> None:
    jobs = [job("a", 10, 10, tenant="x", deadline_s=20), job("b", 11, 4, tenant="y", deadline_s=20), job("c", 12, 1)]
    told = report(play(jobs, ONE_GPU))
    assert (told.num_jobs, told.num_finished, told.num_too_large) == (3, 3, 0)
    assert told.avg_jct_s == pytest.approx((10 + 13 + 13) / 3)
    assert (told.median_jct_s, told.makespan_s, told.utilisation) == (13, 15, 1)
    assert told.p99_jct_s == pytest.approx(13)
    assert told.avg_wait_s == pytest.approx((0 + 9 + 12) / 3)
    assert (told.num_deadlines, told.deadlines_met) == (2, 1)
    speeds = [1, 4 / 13, 1 / 13]
    assert told.jain_fairness == pytest.approx(sum(speeds) ** 2 / (3 * sum(speed**2 for speed in speeds)))
    assert [(row.tenant, row.gpu_share) for row in told.tenants] == [
        ("x", pytest.approx(10 / 15)),
        ("y", pytest.approx(4 / 15)),
        ("", pytest.approx(1 / 15)),
    ]


def test_finish_time_fairness_compares_with_a_part_of_the_cluster_of_ones_own() -> None:
    told = report(play([job("a", 0, 10), job("b", 0, 10)], ONE_GPU))
    # Two of them all the time that a is there: alone on half a GPU it takes 20. b saw two for 10 s and one for 10 s: 15.
    assert told.finish_time_fairness.mean == pytest.approx((10 / 20 + 20 / 15) / 2)
    assert told.finish_time_fairness.max == pytest.approx(20 / 15)


def test_utilisation_counts_the_gpus_that_were_held_of_those_there_were() -> None:
    played = play([job("a", 0, 10, 3), job("b", 5, 10)], on(2, 4))
    told = report(played)
    assert told.utilisation == pytest.approx((3 * 10 + 1 * 10) / (8 * 15))
    assert curve(played, 3) == pytest.approx([3 / 8, 4 / 8, 1 / 8])


def test_job_without_a_duration_counts_and_is_not_compared() -> None:
    told = report(play([job("a", 0, 0)], ONE_GPU))
    assert (told.avg_jct_s, told.makespan_s, told.utilisation) == (0, 0, 0)
    assert told.finish_time_fairness.mean is None
    assert told.jain_fairness is None


def test_jobs_larger_than_the_cluster_are_refused_by_name_or_counted() -> None:
    jobs = [job("small", 0, 10, line=2), job("wide", 0, 10, 9, line=3), job("wider", 1, 10, 90, line=4)]
    with pytest.raises(JobTooLarge, match=r"2 jobs ask .* 8 GPUs: 'wide' in line 3 for 9") as caught:
        play(jobs, on(2, 4))
    assert "--nodes" in caught.value.next_action
    told = report(play(jobs, on(2, 4, skip_too_large=True)))
    assert (told.num_jobs, told.num_finished, told.num_too_large) == (3, 1, 2)
    assert report(play(jobs, with_nodes(on(2, 4), 3))).num_too_large == 1


def test_trace_of_which_no_job_fits_has_no_averages() -> None:
    told = report(play([job("wide", 0, 10, 9)], on(2, 4, skip_too_large=True)))
    assert (told.num_finished, told.avg_jct_s, told.p99_jct_s, told.makespan_s) == (0, None, None, 0)


def test_percentiles_are_interpolated_and_jain_is_between_its_bounds() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2.5
    assert percentile([7], 0.99) == 7
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([1, 0, 0, 0]) == pytest.approx(1 / 4)
    assert jain([]) is None


def test_elastic_jobs_need_speeds_of_their_model_when_there_are_speeds() -> None:
    rules = Rulebook(policy=Policy.FIFO, elastic=True, restart_s=0)
    scenario = Scenario(cluster=Cluster(num_nodes=1, gpus_per_node=4), rules=rules, rates={"bert": (10.0, 15.0)})
    with pytest.raises(TraceUnreadable, match="'resnet' was not measured"):
        play([job("a", 0, 10, 2, min_gpus=1, max_gpus=4, model="resnet")], scenario)
    told = report(play([job("a", 0, 10, 1, min_gpus=1, max_gpus=2, model="bert")], scenario))
    assert told.avg_jct_s == pytest.approx(10 * 10 / 15)


def test_estimates_that_are_wrong_are_wrong_the_same_way_for_the_same_seed() -> None:
    jobs = [job(str(number), number, 5 + number % 7, 1 + number % 3) for number in range(40)]
    rules = Rulebook(policy=Policy.SRTF, elastic=False, min_run_s=0)

    def seen(seed: int, error: float = 1.0) -> SimulationReport:
        cluster = Cluster(num_nodes=1, gpus_per_node=4)
        return report(play(jobs, Scenario(cluster=cluster, rules=rules, estimate_error=error, seed=seed)))

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)
    assert seen(1, 0.0) == seen(2, 0.0)


def test_rows_of_jobs_say_what_became_of_each(tmp_path: Path) -> None:
    played = play([job("a", 0, 10, tenant="x", deadline_s=10), job('b,"c"', 1, 4, deadline_s=2)], ONE_GPU)
    write_jobs(played, tmp_path / "jobs.csv")
    lines = (tmp_path / "jobs.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "a,x,1,0,0,10.0,10.0,0.0,10.0,0,0,10,True"
    assert lines[2].startswith('"b,""c""",,1,1,10.0,14.0,13.0,9.0,')
    assert lines[2].endswith("False")


def test_stops_that_cost_are_counted_as_lost() -> None:
    jobs = [job("long", 0, 10), job("short", 2, 1)]
    rules = Rulebook(policy=Policy.SRTF, elastic=False, min_run_s=0)
    cluster = Cluster(num_nodes=1, gpus_per_node=1)
    told = report(play(jobs, Scenario(cluster=cluster, rules=rules, costs=StopCosts(checkpoint_s=1, restart_s=2))))
    assert told.num_preemptions == 1
    assert told.lost_gpu_s == pytest.approx(3)
    assert told.makespan_s == pytest.approx(10 + 1 + 3)
    assert math.isclose(told.utilisation, 1)
