"""What a trigger runs: a queued call, a job of a template, a batch prediction. Each is begun in the transaction of who asks."""

import msgspec

from skyloom.core.errors import NotFound
from skyloom.core.events import Origin, TriggerEvent
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Right
from skyloom.ports.door import because
from skyloom.ports.store import Snapshot, Transaction
from skyloom.rooms.batch.model import RunPredictions
from skyloom.rooms.batch.service import BatchPredictions
from skyloom.rooms.functions.model import EVENT_ARGUMENT
from skyloom.rooms.functions.service import Functions
from skyloom.rooms.jobs.model import Job, JobSpec, SubmitJob
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.templates.model import PartKind
from skyloom.rooms.templates.service import Templates
from skyloom.rooms.triggers import model, rules
from skyloom.rooms.triggers.model import (
    BODY_VARIABLE,
    EVENT_VARIABLE,
    Happening,
    Run,
    RunBatch,
    RunFunction,
    RunTemplateJob,
    Trigger,
)

_MAX_VARIABLE = 32_000


class Runner:
    """Begins what triggers run."""

    def __init__(
        self, ids: Ids, functions: Functions, templates: Templates, jobs: Jobs, batch: BatchPredictions
    ) -> None:
        self._ids = ids
        self._functions = functions
        self._templates = templates
        self._jobs = jobs
        self._batch = batch

    def right_of(self, run: Run) -> Right:
        """The right that who made the trigger must still have."""
        return Right.PREDICT if isinstance(run, RunFunction) else Right.RUN

    def check(self, run: Run, by: Caller) -> None:
        """Refuse, outside of a transaction, what could never run."""
        if isinstance(run, RunBatch):
            self._batch.check(RunPredictions(order=run.order), by)

    def check_named(self, view: Snapshot, run: Run, project: str) -> None:
        """Refuse what the project does not have. Raises `NotFound`, `TriggerUnclear`, `EntryUnclear`."""
        if isinstance(run, RunFunction):
            self._method(view, run, project)
        elif isinstance(run, RunTemplateJob):
            self._job(view, run, project)

    def missing(self, view: Snapshot, run: Run, project: str) -> str:
        """Why what is to be run is not there any more; "" when it is."""
        try:
            self.check_named(view, run, project)
        except NotFound as gone:
            return str(gone)
        return ""

    def run(self, tx: Transaction, trigger: Trigger, event: TriggerEvent, by: Caller, body_id: str = "") -> str:
        """Begin it; returns the id of what was begun. Raises whatever refuses it, and then nothing is begun.

        Args:
            body_id: of the event's body where that is kept by itself: a job is told this instead, for its record is kept for ever.
        """
        if isinstance(trigger.run, RunFunction):
            return self._call(tx, trigger, trigger.run, event, by)
        cause = Origin(id=event.id, depth=event.depth)
        with because(cause):
            if isinstance(trigger.run, RunTemplateJob):
                return self._submit(tx, trigger, trigger.run, event, by, body_id)
            order = rules.order_for(trigger.run, Happening(event.kind), event.facts)
            return self._batch.run(tx, RunPredictions(order=order), by).draft.job_id

    def _call(self, tx: Transaction, trigger: Trigger, run: RunFunction, event: TriggerEvent, by: Caller) -> str:
        function = self._functions.find(tx, run.function, trigger.project)
        method = self._method(tx, run, trigger.project)
        invocation_id = self._ids.new("inv")
        told = msgspec.structs.replace(event, cause=invocation_id)
        arguments = msgspec.json.encode({EVENT_ARGUMENT: told}).decode()
        made = self._functions.enqueue(
            tx,
            function,
            method,
            arguments,
            event.id,
            by,
            depth=event.depth,
            trigger=trigger.id,
            invocation_id=invocation_id,
        )
        return made.id

    def _method(self, view: Snapshot, run: RunFunction, project: str) -> ServiceMethod:
        """The entry, which has to take the event and nothing else."""
        method = self._functions.method(view, self._functions.find(view, run.function, project), run.method)
        needed = {one.name for one in method.parameters if one.required}
        if EVENT_ARGUMENT not in {one.name for one in method.parameters} or needed - {EVENT_ARGUMENT}:
            raise model.TriggerUnclear(
                f"{method.name} of {run.function} does not take an event alone.",
                next_action=f"Write: def {method.name}({EVENT_ARGUMENT}: skyloom.TriggerEvent) -> None",
            )
        return method

    def _submit(
        self, tx: Transaction, trigger: Trigger, run: RunTemplateJob, event: TriggerEvent, by: Caller, body_id: str
    ) -> str:
        spec = self._job(tx, run, trigger.project).spec
        told = msgspec.structs.replace(event, body="") if body_id else event
        text = msgspec.json.encode(told).decode()
        if len(text) > _MAX_VARIABLE:
            raise model.TriggerUnclear(
                f"The event has {len(text)} characters, more than a variable holds.",
                next_action="Send less to the trigger's address, or run a function.",
            )
        environment = {**spec.environment, EVENT_VARIABLE: text, **({BODY_VARIABLE: body_id} if body_id else {})}
        fresh: JobSpec = msgspec.structs.replace(spec, after=(), deadline_at=None, environment=environment)
        return self._jobs.submit(tx, SubmitJob(spec=fresh), by).job.id

    def _job(self, view: Snapshot, run: RunTemplateJob, project: str) -> Job:
        """The job that a template made last under a name. Raises `TemplateMissing`, `TriggerUnclear`."""
        parts = self._templates.find(view, run.template, project).jobs
        name = run.job or (next(iter(parts)) if len(parts) == 1 else "")
        if name not in parts:
            raise model.TriggerUnclear(
                f"Which job of template {run.template} is meant?",
                next_action=f"Write job-template:{run.template}/JOB; it has: {', '.join(sorted(parts))}.",
            )
        part = parts[name]
        job = view.get(JOBS, part.id) if part.kind is PartKind.JOB else None
        if job is None:
            raise model.TriggerUnclear(
                f"{name} of template {run.template} is no single job.", next_action="Name a job that is no array."
            )
        return job
