"""Nouns of templates: what is wanted by name, what was made of it, and what applying it would change."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cron, Cursor, Limit, Name, TimeZone
from skyloom.core.errors import Conflict, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.arrays.model import MAX_SIZE
from skyloom.rooms.jobs.model import Condition, JobSpec
from skyloom.rooms.schedules.model import Missed, Overlap


class TemplateMissing(NotFound):
    """No such template was applied in this project."""


class CyclicDependencies(InvalidInput):
    """Jobs of one template that wait for each other for ever."""


class TemplateUnclear(InvalidInput):
    """A template names what it does not describe, or describes a thing in two ways."""


class NotItsOwn(Conflict):
    """A template would change something that it has not made."""


class TemplateJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A job, or an array of them.

    Attributes:
        spec: with nothing in its own ``after``.
        after: name of another job of this template → what has to become of it first.
        size: 0 for one job; otherwise an array of so many.
        max_parallel: as in `Array`.
    """

    spec: JobSpec
    after: Annotated[dict[Name, Condition], Meta(max_length=100)] = {}
    size: Annotated[int, Meta(ge=0, le=MAX_SIZE)] = 0
    max_parallel: Annotated[int, Meta(ge=0, le=MAX_SIZE)] = 0


class TemplateSchedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A schedule; its name is one of the whole project."""

    cron: Cron
    spec: JobSpec
    time_zone: TimeZone = "UTC"
    missed: Missed = Missed.SKIP
    overlap: Overlap = Overlap.SKIP


WantedJobs = Annotated[dict[Name, TemplateJob], Meta(max_length=200)]
WantedSchedules = Annotated[dict[Name, TemplateSchedule], Meta(max_length=100)]


class PartKind(enum.StrEnum):
    """What a part of a template became."""

    JOB = "job"
    ARRAY = "array"
    SCHEDULE = "schedule"


class TemplatePart(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of one name.

    Attributes:
        digest: of its description and of all that it comes after, so that a change of one of those changes it too.
    """

    kind: PartKind
    id: str
    digest: str


class Template(Record, frozen=True, kw_only=True):
    """What was applied last under a name.

    Attributes:
        jobs, schedules: by the names in the template.
    """

    name: str
    jobs: dict[str, TemplatePart] = msgspec.field(default_factory=dict)
    schedules: dict[str, TemplatePart] = msgspec.field(default_factory=dict)
    applied_at: float
    applied_by: str


class Action(enum.StrEnum):
    """What applying a template does with one of its parts."""

    CREATE = "create"
    CHANGE = "change"  # a job: the old one is cancelled if it has not ended, and a new one begins
    AGAIN = "again"  # it failed or was cancelled: a new one begins
    REMOVE = "remove"  # a schedule that is no longer described
    UNCHANGED = "unchanged"


class TemplateStep(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a plan.

    Attributes:
        before: id of what was made earlier, if so.
        id: of what was made now; empty in a plan that was not carried out.
    """

    action: Action
    kind: PartKind
    name: str
    message: str = ""
    before: str = ""
    id: str = ""


class TemplatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a template would do, or did. Jobs stand after those that they come after."""

    name: str
    steps: tuple[TemplateStep, ...]
    applied: bool = False

    @property
    def num_changes(self) -> int:
        """How many steps do something."""
        return sum(step.action is not Action.UNCHANGED for step in self.steps)


@operation("templates.plan", Right.RUN, "POST /templates/{name}/plan")
class PlanTemplate(Operation[TemplatePlan], frozen=True, kw_only=True):
    """Say what applying a template would do. Changes nothing."""

    name: Name
    jobs: WantedJobs = msgspec.field(default_factory=dict)
    schedules: WantedSchedules = msgspec.field(default_factory=dict)


@operation("templates.apply", Right.RUN, "PUT /templates/{name}")
class ApplyTemplate(Operation[TemplatePlan], frozen=True, kw_only=True):
    """Make what a template describes, as a whole or not at all. What is there as described is left alone."""

    name: Name
    jobs: WantedJobs = msgspec.field(default_factory=dict)
    schedules: WantedSchedules = msgspec.field(default_factory=dict)


@operation("templates.get", Right.READ, "GET /templates/{name}")
class GetTemplate(Operation[Template], frozen=True, kw_only=True):
    """Show what was made of a template."""

    name: Name


@operation("templates.list", Right.READ, "GET /templates")
class ListTemplates(Operation[Page[Template]], frozen=True, kw_only=True):
    """List the templates that were applied, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


OPERATIONS = (PlanTemplate, ApplyTemplate, GetTemplate, ListTemplates)
