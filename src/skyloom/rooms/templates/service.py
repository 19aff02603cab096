"""The service of templates: compares what is wanted with what was made, and makes the difference in one transaction."""

from collections.abc import Mapping

import msgspec

from skyloom.core import digests
from skyloom.core.errors import NotFound
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed, named
from skyloom.ports.store import Snapshot, Store, Transaction
from skyloom.rooms.arrays import model as arrays_model
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.jobs import model as jobs_model
from skyloom.rooms.jobs.model import ENDED, Dependency, JobSpec, JobState
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.schedules import model as schedules_model
from skyloom.rooms.schedules.model import ScheduleMissing
from skyloom.rooms.schedules.service import Schedules
from skyloom.rooms.templates import model, rules
from skyloom.rooms.templates.model import (
    Action,
    ApplyTemplate,
    PartKind,
    PlanTemplate,
    Template,
    TemplatePart,
    TemplatePlan,
    TemplateStep,
)
from skyloom.rooms.templates.ports import TEMPLATES


class Templates:
    """Templates of all projects."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, jobs: Jobs, arrays: Arrays, schedules: Schedules) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._jobs = jobs
        self._arrays = arrays
        self._schedules = schedules

    def handlers(self) -> Handlers:
        return {
            model.PlanTemplate: Query(self.plan),
            model.ApplyTemplate: Change(self.apply, before=self.check),
            model.GetTemplate: Query(self.get),
            model.ListTemplates: Query(self.list),
        }

    # Looking

    def check(self, ask: rules.Asked, by: Caller) -> None:
        """Refuse what could not be made, before anything is."""
        rules.order(ask.jobs)
        for job in ask.jobs.values():
            if job.size:
                self._arrays.check(_array(job, job.spec), by)
            else:
                self._jobs.check_asked(jobs_model.SubmitJob(spec=job.spec), by)
        for name, schedule in ask.schedules.items():
            self._schedules.check(_schedule(name, schedule), by)

    def plan(self, ask: PlanTemplate, by: Caller) -> TemplatePlan:
        self.check(ask, by)
        return self._store.read(lambda view: self._plan(view, ask, by)[0])

    def _plan(self, view: Snapshot, ask: rules.Asked, by: Caller) -> tuple[TemplatePlan, Template | None]:
        specs = [job.spec for job in ask.jobs.values()] + [one.spec for one in ask.schedules.values()]
        for spec in specs:
            self._jobs.check_named(view, spec, by.project)
        applied = named(view, TEMPLATES, ask.name, by.project)
        parts = applied.jobs.values() if applied else ()
        states = {part.id: self._state(view, part.id, by.project) for part in parts}
        names = {*ask.schedules, *(applied.schedules if applied else ())}
        taken = {name: found for name in names if (found := self._schedule_id(view, name, by.project))}
        return TemplatePlan(name=ask.name, steps=rules.steps(ask, applied, states, taken)), applied

    def _state(self, view: Snapshot, subject: str, project: str) -> JobState | None:
        try:
            return self._jobs.dependencies.state(view, subject, project)
        except NotFound:
            return None

    def _schedule_id(self, view: Snapshot, name: str, project: str) -> str:
        try:
            return self._schedules.find(view, name, project).id
        except ScheduleMissing:
            return ""

    def get(self, ask: model.GetTemplate, by: Caller) -> Template:
        return self._store.read(lambda view: self.find(view, ask.name, by.project))

    def find(self, view: Snapshot, name: str, project: str) -> Template:
        """A template that was applied. Raises `TemplateMissing`."""
        found = named(view, TEMPLATES, name, project)
        if found is None:
            raise model.TemplateMissing(
                f"No template {name!r} was applied.", next_action="Apply it: skyloom apply -f FILE."
            )
        return found

    def list(self, ask: model.ListTemplates, by: Caller) -> Page[Template]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, TEMPLATES, where, ask))

    # Making

    def apply(self, tx: Transaction, ask: ApplyTemplate, by: Caller) -> TemplatePlan:
        plan, applied = self._plan(tx, ask, by)
        jobs, schedules = dict(applied.jobs if applied else {}), dict(applied.schedules if applied else {})
        marks = rules.digests_of(ask.jobs)
        done = []
        for step in plan.steps:
            if step.kind is PartKind.SCHEDULE:
                step = self._make_schedule(tx, ask, step, by)
                mark = digests.of_value(msgspec.to_builtins(ask.schedules.get(step.name)))
                _keep(schedules, step, mark)
            else:
                step = self._make_job(tx, ask.jobs[step.name], step, jobs, by)
                _keep(jobs, step, marks[step.name])
            done.append(step)
        made = Template(
            id=applied.id if applied else self._ids.new("template"),
            project=by.project,
            version=applied.version if applied else 0,
            name=ask.name,
            jobs=jobs,
            schedules=schedules,
            applied_at=self._clock.now(),
            applied_by=by.principal,
        )
        (tx.update if applied else tx.insert)(TEMPLATES, made)
        return TemplatePlan(name=ask.name, steps=tuple(done), applied=True)

    def _make_job(
        self,
        tx: Transaction,
        job: model.TemplateJob,
        step: TemplateStep,
        made: Mapping[str, TemplatePart],
        by: Caller,
    ) -> TemplateStep:
        if step.action is Action.UNCHANGED:
            return step
        if step.before:
            self._cancel(tx, step.before, by)
        after = tuple(Dependency(id=made[name].id, condition=how) for name, how in sorted(job.after.items()))
        spec = msgspec.structs.replace(job.spec, after=after, name=job.spec.name or step.name)
        if job.size:
            made_id = self._arrays.submit(tx, _array(job, spec), by).array.id
        else:
            made_id = self._jobs.submit(tx, jobs_model.SubmitJob(spec=spec), by).job.id
        return msgspec.structs.replace(step, id=made_id)

    def _cancel(self, tx: Transaction, subject: str, by: Caller) -> None:
        state = self._state(tx, subject, by.project)
        if state is None or state in ENDED:
            return
        if subject.startswith("array_"):
            self._arrays.cancel(tx, arrays_model.CancelArray(array_id=subject), by)
        else:
            self._jobs.cancel(tx, jobs_model.CancelJob(job_id=subject), by)

    def _make_schedule(self, tx: Transaction, ask: ApplyTemplate, step: TemplateStep, by: Caller) -> TemplateStep:
        if step.action in (Action.CHANGE, Action.REMOVE):
            self._schedules.delete(tx, schedules_model.DeleteSchedule(name=step.name), by)
        if step.action in (Action.UNCHANGED, Action.REMOVE):
            return step
        status = self._schedules.create(tx, _schedule(step.name, ask.schedules[step.name]), by)
        return msgspec.structs.replace(step, id=status.schedule.id)


def _keep(parts: dict[str, TemplatePart], step: TemplateStep, digest: str) -> None:
    """Note what a step made, so that the next plan knows it."""
    if step.action is Action.REMOVE:
        del parts[step.name]
    elif step.id:
        parts[step.name] = TemplatePart(kind=step.kind, id=step.id, digest=digest)


def _array(job: model.TemplateJob, spec: JobSpec) -> arrays_model.SubmitArray:
    return arrays_model.SubmitArray(spec=spec, size=job.size, max_parallel=job.max_parallel)


def _schedule(name: str, wanted: model.TemplateSchedule) -> schedules_model.CreateSchedule:
    return schedules_model.CreateSchedule(
        name=name,
        cron=wanted.cron,
        spec=wanted.spec,
        time_zone=wanted.time_zone,
        missed=wanted.missed,
        overlap=wanted.overlap,
    )
