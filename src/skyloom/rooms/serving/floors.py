"""The least number of replicas that the clock asks for: schedules, and what the same time of earlier days needed. Pure."""

import math
from functools import lru_cache
from typing import NamedTuple

from skyloom.rooms.schedules.rules import next_slot
from skyloom.rooms.serving.load import LoadHistory
from skyloom.rooms.serving.scaling import UNITS, Autoscaling, ScaleReason, ScheduledFloor

FAR = 1e11
_MINUTE_S = 60.0
_TINY = 1e-6


class FloorNow(NamedTuple):
    """At least so many replicas, until this moment, for this reason."""

    replicas: int
    until: float
    reason: ScaleReason
    why: str


def floor_at(scaling: Autoscaling, load: LoadHistory, now: float) -> FloorNow:
    """The highest floor that holds now or when a replica that is started now will answer. Raises `CronUnreadable`, `TimeZoneUnknown`."""
    found = [FloorNow(scaling.min_replicas, FAR, ScaleReason.LIMIT, f"At least {scaling.min_replicas} are asked for.")]
    found += [_scheduled(floor, now, load.lead_s) for floor in scaling.floors]
    if scaling.foresight is not None:
        found.append(_foreseen(scaling, load, now))
    highest = max(found, key=lambda floor: floor.replicas)
    return highest._replace(
        replicas=min(highest.replicas, scaling.max_replicas), until=min(floor.until for floor in found)
    )


def _scheduled(floor: ScheduledFloor, now: float, lead_s: float) -> FloorNow:
    on_now, changes = _is_on(floor, now)
    on_soon, _ = _is_on(floor, now + lead_s)
    begins = changes if on_now else changes - lead_s
    why = f"The schedule {floor.start!r} to {floor.end!r} ({floor.time_zone}) wants at least {floor.min_replicas}."
    return FloorNow(
        floor.min_replicas if on_now or on_soon else 0, begins if begins > now else changes, ScaleReason.SCHEDULE, why
    )


def _is_on(floor: ScheduledFloor, at: float) -> tuple[bool, float]:
    """Whether it is on, and when that changes: it is on when its next end comes before its next start."""
    start, end = (_next(line, floor.time_zone, int(at // _MINUTE_S)) for line in (floor.start, floor.end))
    if end is not None and (start is None or end < start):
        return True, end
    return False, FAR if start is None else start


@lru_cache(maxsize=1_024)
def _next(line: str, time_zone: str, minute: int) -> float | None:
    """The next slot after a minute's begin: slots are whole minutes, so it is the same for all moments of it."""
    return next_slot(line, time_zone, minute * _MINUTE_S)


def _foreseen(scaling: Autoscaling, load: LoadHistory, now: float) -> FloorNow:
    assert scaling.foresight is not None
    until = (now // _MINUTE_S + 1) * _MINUTE_S
    seen = sorted(load.same_time(now, now + load.lead_s + _MINUTE_S, scaling.foresight.same_weekday))
    if not seen:
        return FloorNow(0, until, ScaleReason.FORECAST, "Nothing is known of earlier days.")
    place = min(len(seen) - 1, math.ceil(scaling.foresight.quantile * len(seen) - _TINY) - 1)
    level = seen[max(0, place)]
    days = f"{len(seen)} earlier day{'s' if len(seen) > 1 else ''}"
    why = f"At this time, {days} saw up to {level:.3g} {UNITS[scaling.signal]}; the target is {scaling.target:g} each."
    return FloorNow(math.ceil(level / scaling.target - _TINY), until, ScaleReason.FORECAST, why)
