"""Nouns of schedules: a cron line, a time zone, and the job that is to begin."""

import enum

import msgspec

from skyloom.core.bounds import Cron, Cursor, Limit, Name, TimeZone
from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.jobs.model import JobSpec, JobState


class ScheduleMissing(NotFound):
    """No such schedule in this project."""


class CronUnreadable(InvalidInput):
    """The line is no cron line, or one that never comes true."""


class TimeZoneUnknown(InvalidInput):
    """No such time zone."""


class NotSchedulable(InvalidInput):
    """A job that cannot be begun by the clock."""


class Missed(enum.StrEnum):
    """What becomes of slots that went by while nobody could begin a job: the control plane was down, or the clock jumped."""

    SKIP = "skip"
    RUN_ONCE = "run_once"  # one job for all of them, for the newest


class Overlap(enum.StrEnum):
    """What becomes of a slot while the job of an earlier one has not ended."""

    SKIP = "skip"
    ALLOW = "allow"


class PauseReason(enum.StrEnum):
    """Why a schedule begins no jobs."""

    ASKED = "asked"
    LOST_RIGHT = "lost_right"  # the token it acts by was revoked, has expired, or carries the right no more


class Schedule(Record, frozen=True, kw_only=True):
    """A job that begins by the clock.

    Attributes:
        created_by: who made it; ``owner`` is with whose rights it begins jobs, by the token ``token_id``: who made or resumed it last.
            Without a token (it was made by a task, or before this was kept) it goes on.
        next_at: the slot that is next, in Unix seconds. It only ever grows, so no slot begins two jobs.
        last_at, last_job: slot and job of the one that was begun last.
        paused_for: None while it goes on; ``paused_by`` is who asked for it, "" when nobody did.
        message: why the newest slot began none, or why it was paused by itself.
    """

    name: str
    spec: JobSpec
    cron: str
    time_zone: str
    missed: Missed
    overlap: Overlap
    created_at: float
    created_by: str
    owner: str = ""
    token_id: str = ""
    next_at: float
    paused: bool = False
    paused_by: str = ""
    paused_for: PauseReason | None = None
    last_at: float | None = None
    last_job: str = ""
    num_runs: int = 0
    message: str = ""


class ScheduleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule and how it goes.

    Attributes:
        upcoming: the next few slots, in Unix seconds; none while it is paused.
        last_state: of the job that was begun last.
    """

    schedule: Schedule
    upcoming: tuple[float, ...] = ()
    last_state: JobState | None = None


@operation("schedules.create", Right.RUN, "POST /schedules")
class CreateSchedule(Operation[ScheduleStatus], frozen=True, kw_only=True):
    """Begin a job at each slot of a cron line from now on, with your own rights.

    When the token that asks is revoked or expires, or loses the right, the schedule is paused at its next slot.
    """

    name: Name
    cron: Cron
    spec: JobSpec
    time_zone: TimeZone = "UTC"
    missed: Missed = Missed.SKIP
    overlap: Overlap = Overlap.SKIP


@operation("schedules.get", Right.READ, "GET /schedules/{name}")
class GetSchedule(Operation[ScheduleStatus], frozen=True, kw_only=True):
    """Show a schedule, its next slots and its last job."""

    name: Name


@operation("schedules.list", Right.READ, "GET /schedules")
class ListSchedules(Operation[Page[ScheduleStatus]], frozen=True, kw_only=True):
    """List schedules, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("schedules.pause", Right.RUN, "POST /schedules/{name}/pause")
class PauseSchedule(Operation[ScheduleStatus], frozen=True, kw_only=True):
    """Begin no more jobs until it is resumed. Safe to repeat."""

    name: Name


@operation("schedules.resume", Right.RUN, "POST /schedules/{name}/resume")
class ResumeSchedule(Operation[ScheduleStatus], frozen=True, kw_only=True):
    """Go on from now, with the rights of who asks; slots that went by while it was paused are gone. Safe to repeat."""

    name: Name


@operation("schedules.delete", Right.RUN, "DELETE /schedules/{name}")
class DeleteSchedule(Operation[Done], frozen=True, kw_only=True):
    """Forget a schedule. Jobs that it began go on."""

    name: Name


OPERATIONS = (CreateSchedule, GetSchedule, ListSchedules, PauseSchedule, ResumeSchedule, DeleteSchedule)
