"""Pure decisions of schedules: when the slots are, and what a slot that has come begins.

The slots of a cron line are those of Debian's cron, daylight saving included: a job at a time of the night that does not exist runs
right after the gap, one at a time that comes twice runs once, and every-n-minutes lines go by the clock that really passes.
"""

import hashlib
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from skyloom.core import ids
from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import ENDED as JOB_ENDED
from skyloom.rooms.jobs.model import Job, JobSpec, JobState
from skyloom.rooms.schedules.model import (
    CronUnreadable,
    Missed,
    NotSchedulable,
    Overlap,
    PauseReason,
    Schedule,
    TimeZoneUnknown,
)

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ON_TIME_S = 60.0  # a slot that is noticed within this time was not missed
NEVER = 1e11  # the year 5138
_FIELDS = 5


def check(cron: str, time_zone: str, spec: JobSpec, now: float) -> None:
    """Raise `CronUnreadable`, `TimeZoneUnknown` or `NotSchedulable` for a schedule that could never begin a job."""
    if next_slot(cron, time_zone, now) is None:
        raise CronUnreadable(f"{cron!r} never comes true.", next_action="Name a day that some month has.")
    if spec.after:
        raise NotSchedulable(
            "A job of a schedule cannot come after others: they will have ended long before.",
            next_action="Leave out `after`.",
        )


def next_slot(cron: str, time_zone: str, after: float) -> float | None:
    """The first slot later than a moment, or None when there is none in fifty years. Raises as `check`."""
    slots = _cronsim(cron, datetime.fromtimestamp(after, zone(time_zone)))
    for slot in slots:
        if slot.timestamp() > after:  # an hour that comes twice is seen twice by the wall clock
            return slot.timestamp()
    return None


def upcoming(cron: str, time_zone: str, after: float, count: int) -> tuple[float, ...]:
    """The next slots."""
    found: list[float] = []
    while len(found) < count and (slot := next_slot(cron, time_zone, after)) is not None:
        found.append(slot)
        after = slot
    return tuple(found)


def newest_slot(schedule: Schedule, now: float) -> float:
    """The newest slot that has come, however many went by since the one that was next."""
    zoned = datetime.fromtimestamp(now + 1, zone(schedule.time_zone))
    for slot in CronSim(_line(schedule.cron), zoned, reverse=True):
        if slot.timestamp() <= now:
            return max(schedule.next_at, slot.timestamp())
    return schedule.next_at


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises `TimeZoneUnknown`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise TimeZoneUnknown(
            f"There is no time zone {name!r}.", next_action="Write one as Europe/Berlin, or UTC."
        ) from error


def _cronsim(cron: str, start: datetime) -> CronSim:
    try:
        return CronSim(_line(cron), start)
    except CronSimError as error:
        raise _unreadable(cron, str(error)) from error


def _line(cron: str) -> str:
    line = ALIASES.get(cron.strip().lower(), cron)
    if len(line.split()) != _FIELDS or not line.isascii():
        raise _unreadable(cron, f"it needs {_FIELDS} fields")
    return line


def _unreadable(cron: str, why: str) -> CronUnreadable:
    return CronUnreadable(
        f"{cron!r} is no cron line: {why[:1].lower()}{why[1:]}.",
        next_action="Write minute, hour, day of month, month and day of week: '30 2 * * mon-fri'; or @daily.",
    )


def job_id(schedule: Schedule, slot: float) -> str:
    """The id of the job of a slot: the same whenever and however often it is asked for."""
    mark = hashlib.sha256(f"{schedule.id} {slot:.0f}".encode()).digest()[:10]
    return f"job_{ids.encode(int(slot * 1_000) << 80 | int.from_bytes(mark, 'big'))}"


def job(schedule: Schedule, slot: float, now: float) -> Job:
    """The job of a slot."""
    return Job(
        id=job_id(schedule, slot),
        project=schedule.project,
        spec=schedule.spec,
        submitted_at=now,
        submitted_by=schedule.owner or schedule.created_by,
    )


def fired(schedule: Schedule, last_state: JobState | None, now: float) -> tuple[Schedule, Job | None]:
    """What a schedule is after a look at the clock that found its slot has come, and the job that begins, if one does."""
    slot = newest_slot(schedule, now)
    following = next_slot(schedule.cron, schedule.time_zone, max(now, slot))
    after = changed(schedule, {"next_at": following or NEVER})
    if schedule.missed is Missed.SKIP and now - slot > ON_TIME_S:
        return changed(after, {"message": f"the slot of {_shown(schedule, slot)} was missed and skipped"}), None
    if schedule.overlap is Overlap.SKIP and last_state is not None and last_state not in JOB_ENDED:
        why = f"the slot of {_shown(schedule, slot)} was skipped: {schedule.last_job} is still {last_state.value}"
        return changed(after, {"message": why}), None
    begun = job(schedule, slot, now)
    told = {"last_at": slot, "last_job": begun.id, "num_runs": schedule.num_runs + 1, "message": ""}
    return changed(after, told), begun


def resumed(schedule: Schedule, now: float) -> Schedule:
    """A paused schedule that goes on from now; a slot that was begun is never begun again, wherever the clock is set."""
    following = next_slot(schedule.cron, schedule.time_zone, max(now, schedule.last_at or 0.0))
    told = {"paused": False, "paused_by": "", "paused_for": None, "message": "", "next_at": following or NEVER}
    return changed(schedule, told)


def paused(schedule: Schedule, why: PauseReason, by: str = "", message: str = "") -> Schedule:
    """A schedule that begins nothing until somebody resumes it; its slots go by."""
    return changed(schedule, {"paused": True, "paused_by": by, "paused_for": why, "message": message})


def _shown(schedule: Schedule, slot: float) -> str:
    return datetime.fromtimestamp(slot, zone(schedule.time_zone)).strftime("%Y-%m-%d %H:%M %Z")
