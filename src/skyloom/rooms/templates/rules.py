"""Pure decisions of templates: in which order, what is new, what has changed. No cycle passes here."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import msgspec

from skyloom.core import digests
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.templates.model import (
    Action,
    ApplyTemplate,
    CyclicDependencies,
    NotItsOwn,
    PartKind,
    PlanTemplate,
    Template,
    TemplateJob,
    TemplatePart,
    TemplateStep,
    TemplateUnclear,
)

_LOST = frozenset({JobState.FAILED, JobState.CANCELLED})
Asked = PlanTemplate | ApplyTemplate


def order(jobs: Mapping[str, TemplateJob]) -> tuple[str, ...]:
    """Names so that each stands after those that it comes after. Raises `TemplateUnclear`, `CyclicDependencies`."""
    for name, job in jobs.items():
        unknown = sorted(set(job.after) - set(jobs))
        if unknown:
            raise TemplateUnclear(
                f"The job {name!r} comes after {unknown[0]!r}, which the template does not describe.",
                next_action=f"Describe it too, or name one of: {', '.join(sorted(jobs)[:10])}.",
            )
        if job.spec.after:
            raise TemplateUnclear(
                f"The job {name!r} comes after jobs by their ids.", next_action="Name jobs of the template in `after`."
            )
    try:
        return tuple(TopologicalSorter({name: sorted(job.after) for name, job in jobs.items()}).static_order())
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise CyclicDependencies(
            f"These jobs wait for each other for ever: {circle}.", next_action="Take one of these `after` out."
        ) from error


def kind_of(job: TemplateJob) -> PartKind:
    """One job, or an array of them."""
    return PartKind.ARRAY if job.size else PartKind.JOB


def digests_of(jobs: Mapping[str, TemplateJob]) -> dict[str, str]:
    """What each job is told apart by: its description, and the digests of what it comes after. In the order to make them."""
    found: dict[str, str] = {}
    for name in order(jobs):
        upstream = {other: found[other] for other in sorted(jobs[name].after)}
        found[name] = digests.of_value([msgspec.to_builtins(jobs[name]), upstream])
    return found


def steps(
    asked: Asked, applied: Template | None, states: Mapping[str, JobState | None], taken: Mapping[str, str]
) -> tuple[TemplateStep, ...]:
    """What to do, in order.

    Args:
        states: id of a job or array that was made → what has become of it; None when it is gone.
        taken: name → id of the schedules that the project has. Raises `NotItsOwn` for one that the template has not made.
    """
    jobs = applied.jobs if applied else {}
    schedules = applied.schedules if applied else {}
    made: list[TemplateStep] = []
    begins: set[str] = set()
    for name, digest in digests_of(asked.jobs).items():
        wanted_job = asked.jobs[name]
        step = _job_step(name, kind_of(wanted_job), digest, jobs.get(name), states, begins & set(wanted_job.after))
        begins |= {name} if step.action is not Action.UNCHANGED else set()
        made.append(step)
    for name, wanted in asked.schedules.items():
        made.append(_schedule_step(name, digests.of_value(msgspec.to_builtins(wanted)), schedules.get(name), taken))
    for name, part in schedules.items():
        if name not in asked.schedules and taken.get(name) == part.id:
            made.append(TemplateStep(action=Action.REMOVE, kind=PartKind.SCHEDULE, name=name, before=part.id))
    return tuple(made)


def _job_step(
    name: str,
    kind: PartKind,
    digest: str,
    part: TemplatePart | None,
    states: Mapping[str, JobState | None],
    begins: set[str],
) -> TemplateStep:
    """What to do for a job; ``begins`` are those it comes after that begin anew."""
    if part is None:
        return TemplateStep(action=Action.CREATE, kind=kind, name=name)
    state = states.get(part.id)
    told = state.value if state else "gone"
    if part.digest != digest:
        stops = state is not None and state not in _LOST and state is not JobState.SUCCEEDED
        message = f"{part.id}: {told}{', will be cancelled' if stops else ''}"
        return TemplateStep(action=Action.CHANGE, kind=kind, name=name, before=part.id, message=message)
    # One that waits does so for what was made earlier, which begins anew.
    lost = state is None or state in _LOST or (state is JobState.WAITING and begins)
    action = Action.AGAIN if lost else Action.UNCHANGED
    return TemplateStep(action=action, kind=kind, name=name, before=part.id, message=f"{part.id}: {told}")


def _schedule_step(name: str, digest: str, part: TemplatePart | None, taken: Mapping[str, str]) -> TemplateStep:
    kind, there = PartKind.SCHEDULE, taken.get(name, "")
    if there and (part is None or part.id != there):
        raise NotItsOwn(
            f"There is a schedule {name!r} already, which this template has not made.",
            next_action=f"Give it another name, or delete that one first: skyloom schedule delete {name}.",
        )
    if part is None or not there:
        return TemplateStep(action=Action.CREATE, kind=kind, name=name)
    action = Action.UNCHANGED if part.digest == digest else Action.CHANGE
    return TemplateStep(action=action, kind=kind, name=name, before=part.id)
