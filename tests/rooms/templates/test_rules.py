"""Templates as graphs and as differences."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import Condition, Dependency, JobSpec, JobState
from skyloom.rooms.templates import rules
from skyloom.rooms.templates.model import (
    Action,
    CyclicDependencies,
    NotItsOwn,
    PartKind,
    PlanTemplate,
    Template,
    TemplateJob,
    TemplatePart,
    TemplateSchedule,
    TemplateUnclear,
)


def job(*after: str, argv: str = "true", size: int = 0) -> TemplateJob:
    spec = JobSpec(entry=Command(argv=(argv,)))
    return TemplateJob(spec=spec, after=dict.fromkeys(after, Condition.SUCCEEDED), size=size)


def applied(asked: PlanTemplate) -> Template:
    """What is kept after `asked` was applied: every part with its own name as id."""
    marks = rules.digests_of(asked.jobs)
    jobs = {name: TemplatePart(kind=PartKind.JOB, id=f"job_{name}", digest=mark) for name, mark in marks.items()}
    return Template(id="template_1", project="p", name="t", jobs=jobs, applied_at=1.0, applied_by="ann")


def actions(asked: PlanTemplate, before: Template | None, states: Mapping[str, JobState | None]) -> dict[str, Action]:
    return {step.name: step.action for step in rules.steps(asked, before, states, {})}


@settings(deadline=None)
@given(st.integers(1, 8), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=14))
def test_order_stands_each_after_what_it_comes_after_or_refuses_a_cycle(
    count: int, edges: set[tuple[int, int]]
) -> None:
    edges = {(a, b) for a, b in edges if a < count and b < count}
    jobs = {f"j{a}": job(*(f"j{b}" for x, b in edges if x == a)) for a in range(count)}
    reach = {a: {b for x, b in edges if x == a} for a in range(count)}
    for _ in range(count):
        reach = {a: near | {far for b in near for far in reach[b]} for a, near in reach.items()}
    if any(a in reach[a] for a in reach):
        with pytest.raises(CyclicDependencies, match="→"):
            rules.order(jobs)
        return
    order = rules.order(jobs)
    assert sorted(order) == sorted(jobs)
    assert all(order.index(f"j{b}") < order.index(f"j{a}") for a, b in edges)


def test_job_after_itself_or_after_nobody_is_refused() -> None:
    with pytest.raises(CyclicDependencies):
        rules.order({"a": job("a")})
    with pytest.raises(TemplateUnclear, match="'b'"):
        rules.order({"a": job("b")})
    spec = JobSpec(entry=Command(argv=("true",)), after=(Dependency(id="job_1"),))
    with pytest.raises(TemplateUnclear):
        rules.order({"a": TemplateJob(spec=spec)})


def test_first_plan_creates_everything_in_order() -> None:
    asked = PlanTemplate(name="t", jobs={"late": job("early"), "early": job(), "many": job(size=3)})
    steps = rules.steps(asked, None, {}, {})
    assert {step.action for step in steps} == {Action.CREATE}
    names = [step.name for step in steps]
    assert names.index("early") < names.index("late")
    assert {step.name: step.kind for step in steps}["many"] is PartKind.ARRAY


def test_plan_of_what_is_there_changes_nothing() -> None:
    asked = PlanTemplate(name="t", jobs={"a": job(), "b": job("a")})
    states = {"job_a": JobState.SUCCEEDED, "job_b": JobState.RUNNING}
    assert set(actions(asked, applied(asked), states).values()) == {Action.UNCHANGED}


def test_change_goes_on_to_all_that_comes_after_it_and_to_nothing_else() -> None:
    before = applied(PlanTemplate(name="t", jobs={"a": job(), "b": job("a"), "c": job("b"), "d": job()}))
    asked = PlanTemplate(name="t", jobs={"a": job(argv="false"), "b": job("a"), "c": job("b"), "d": job()})
    states = dict.fromkeys(("job_a", "job_b", "job_c", "job_d"), JobState.SUCCEEDED)
    found = actions(asked, before, states)
    assert found == {"a": Action.CHANGE, "b": Action.CHANGE, "c": Action.CHANGE, "d": Action.UNCHANGED}


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, None])
def test_what_was_lost_begins_again_and_so_does_what_waited_for_it(state: JobState | None) -> None:
    asked = PlanTemplate(name="t", jobs={"a": job(), "b": job("a"), "c": job()})
    states = {"job_a": state, "job_b": JobState.WAITING, "job_c": JobState.RUNNING}
    found = actions(asked, applied(asked), states)
    assert found == {"a": Action.AGAIN, "b": Action.AGAIN, "c": Action.UNCHANGED}


def test_schedule_that_the_template_has_not_made_is_not_its_own() -> None:
    wanted = TemplateSchedule(cron="@daily", spec=JobSpec(entry=Command(argv=("true",))))
    asked = PlanTemplate(name="t", schedules={"tidy": wanted})
    with pytest.raises(NotItsOwn):
        rules.steps(asked, None, {}, {"tidy": "schedule_other"})
