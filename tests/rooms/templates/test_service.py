"""Templates over memory adapters: made as a whole or not at all."""

import pytest

from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Command
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.jobs.model import Condition, JobSpec, JobState, ListJobs
from skyloom.rooms.schedules.model import ListSchedules
from skyloom.rooms.schedules.service import Schedules
from skyloom.rooms.secrets.model import SecretMissing, SecretUse
from skyloom.rooms.templates.model import (
    Action,
    ApplyTemplate,
    GetTemplate,
    ListTemplates,
    PlanTemplate,
    TemplateJob,
    TemplateMissing,
    TemplatePlan,
    TemplateSchedule,
)
from skyloom.rooms.templates.service import Templates
from tests.rooms.workshop import ANN, BOB, Workshop

SPEC = JobSpec(entry=Command(argv=("true",)))
JOBS = {
    "early": TemplateJob(spec=SPEC),
    "many": TemplateJob(spec=SPEC, size=3, after={"early": Condition.SUCCEEDED}),
    "late": TemplateJob(spec=SPEC, after={"many": Condition.ENDED}),
}
SCHEDULES = {"tidy": TemplateSchedule(cron="@daily", spec=SPEC)}


class Bench:
    def __init__(self) -> None:
        shop = self.shop = Workshop()
        ids = CountingIds()
        self.arrays = Arrays(shop.store, shop.clock, ids, shop.blobs, shop.jobs)
        self.schedules = Schedules(shop.store, shop.clock, ids, Outbox(shop.clock), shop.jobs, lambda *_: "")
        self.templates = Templates(shop.store, shop.clock, ids, shop.jobs, self.arrays, self.schedules)

    def apply(self, by: Caller = ANN, **parts: object) -> TemplatePlan:
        ask = ApplyTemplate(name="t", **{"jobs": JOBS, "schedules": SCHEDULES, **parts})  # type: ignore[arg-type]
        self.templates.check(ask, by)
        return self.shop.store.write(lambda tx: self.templates.apply(tx, ask, by))

    def state(self, job_id: str) -> JobState:
        return self.shop.store.read(lambda view: self.shop.jobs.dependencies.state(view, job_id, "p"))

    def everything(self) -> tuple[int, int]:
        return (
            len(self.shop.jobs.list(ListJobs(array="*"), ANN).items),
            len(self.schedules.list(ListSchedules(), ANN).items),
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_template_makes_jobs_that_wait_for_each_other_by_name(bench: Bench) -> None:
    plan = bench.templates.plan(PlanTemplate(name="t", jobs=JOBS, schedules=SCHEDULES), ANN)
    assert (plan.num_changes, plan.applied, bench.everything()) == (4, False, (0, 0))
    made = {step.name: step.id for step in bench.apply().steps}
    assert [bench.state(made[name]) for name in ("early", "many", "late")] == [
        JobState.QUEUED,
        JobState.WAITING,
        JobState.WAITING,
    ]
    bench.shop.loop.tick()
    bench.shop.engine.finish(f"{made['early']}.1.0")
    bench.shop.loop.tick()
    bench.arrays.tick()
    assert bench.state(made["many"]) is JobState.QUEUED
    kept = bench.templates.get(GetTemplate(name="t"), ANN)
    assert {name: part.id for name, part in {**kept.jobs, **kept.schedules}.items()} == made


def test_template_applied_again_does_nothing(bench: Bench) -> None:
    bench.apply()
    before = bench.everything()
    again = bench.apply()
    assert {step.action for step in again.steps} == {Action.UNCHANGED}
    assert bench.everything() == before


def test_template_with_one_bad_part_makes_nothing(bench: Bench) -> None:
    bad = TemplateJob(spec=JobSpec(entry=SPEC.entry, secrets=(SecretUse(name="nope"),)))
    with pytest.raises(SecretMissing):
        bench.apply(jobs={**JOBS, "zzz": bad})
    assert bench.everything() == (0, 0)
    with pytest.raises(TemplateMissing):
        bench.templates.get(GetTemplate(name="t"), ANN)


def test_changed_job_replaces_the_one_that_runs_and_a_schedule_left_out_is_removed(bench: Bench) -> None:
    first = {step.name: step.id for step in bench.apply().steps}
    other = {"early": TemplateJob(spec=JobSpec(entry=Command(argv=("false",))))}
    steps = {step.name: step for step in bench.apply(jobs=other, schedules={}).steps}
    assert (steps["early"].action, steps["early"].before) == (Action.CHANGE, first["early"])
    assert steps["tidy"].action is Action.REMOVE
    assert bench.state(first["early"]) is JobState.CANCELLED
    assert bench.state(steps["early"].id) is JobState.QUEUED
    assert bench.schedules.list(ListSchedules(), ANN).items == ()


def test_template_of_somebody_else_looks_absent(bench: Bench) -> None:
    bench.apply(BOB)
    with pytest.raises(TemplateMissing):
        bench.templates.get(GetTemplate(name="t"), ANN)
    assert bench.templates.list(ListTemplates(), ANN).items == ()
    assert {step.action for step in bench.apply(ANN).steps} == {Action.CREATE}
