from typing import Any

import pytest

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.rooms.jobs import demands
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.model import Job, JobSpec


def test_demand_of_an_elastic_job_has_the_speeds_that_its_plan_measured():
    spec = JobSpec(
        entry=Command(argv=("true",)),
        resources=Resources(cpus=2.0),
        max_workers=3,
        speedups=(1.0, 1.8, 2.1),
        expected_duration_s=60.0,
    )
    job = Job(id="job_1", project="p", spec=spec, submitted_at=5.0, submitted_by="ann")
    asked = demands.demand(LiveGang(job, (), served_s=20.0))
    assert (asked.min_workers, asked.max_workers, asked.rates) == (1, 3, (1.0, 1.8, 2.1))
    assert (asked.expected_s, asked.attained_gpu_s) == (40.0, 40.0)


@pytest.mark.parametrize(
    ("labels", "more", "endless"),
    [
        ({"endpoint": "ep_1"}, {}, True),
        ({"notebook": "nb"}, {}, True),
        ({"notebook": "nb"}, {"max_duration_s": 60.0}, False),
        ({"notebook": "nb"}, {"expected_duration_s": 60.0}, False),
        ({"run": "run_1"}, {}, False),
    ],
)
def test_services_are_endless_unless_somebody_says_for_how_long(
    labels: dict[str, str], more: dict[str, Any], endless: bool
):
    spec = JobSpec(entry=Command(argv=("true",)), labels=labels, **more)
    job = Job(id="job_1", project="p", spec=spec, submitted_at=5.0, submitted_by="ann")
    asked = demands.demand(LiveGang(job, ()), expected_s=30.0)
    assert (asked.endless, asked.limit_s) == (endless, more.get("max_duration_s"))
    assert (asked.expected_s is None) is endless
