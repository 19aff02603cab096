"""When slots are: daylight saving, clocks that jump, lines that nobody can mean."""

import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import Dependency, JobSpec, JobState
from skyloom.rooms.schedules import rules
from skyloom.rooms.schedules.model import (
    CronUnreadable,
    Missed,
    NotSchedulable,
    Overlap,
    Schedule,
    TimeZoneUnknown,
)

SPEC = JobSpec(entry=Command(argv=("true",)))
BERLIN = "Europe/Berlin"
LINES = st.sampled_from(
    ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 * * * *", "15 1,2,3 * * *", "@daily", "0 3 * * mon-fri", "0 0 31 * *"]
)
ZONES = st.sampled_from(
    ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
)


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def shown(slots: tuple[float, ...], zone: str = BERLIN) -> list[str]:
    return [datetime.fromtimestamp(slot, ZoneInfo(zone)).strftime("%d %H:%M%z") for slot in slots]


def schedule(cron: str, zone: str = "UTC", now: float = 0.0, **more: object) -> Schedule:
    fields: dict[str, object] = {
        "id": "schedule_x",
        "project": "p",
        "name": "nightly",
        "spec": SPEC,
        "cron": cron,
        "time_zone": zone,
        "missed": Missed.SKIP,
        "overlap": Overlap.SKIP,
        "created_at": now,
        "created_by": "ann",
        "next_at": rules.next_slot(cron, zone, now),
    }
    return Schedule(**{**fields, **more})  # type: ignore[arg-type]


def test_slot_in_the_hour_that_does_not_exist_comes_right_after_it() -> None:
    assert shown(rules.upcoming("30 2 * * *", BERLIN, at("2026-03-28T12:00"), 2)) == ["29 03:00+0200", "30 02:30+0200"]


def test_slot_in_the_hour_that_comes_twice_comes_once() -> None:
    assert shown(rules.upcoming("30 2 * * *", BERLIN, at("2026-10-24T12:00"), 2)) == ["25 02:30+0200", "26 02:30+0100"]


def test_slots_every_half_hour_go_on_through_the_hour_that_comes_twice() -> None:
    found = rules.upcoming("*/30 * * * *", BERLIN, at("2026-10-25T01:30"), 5)
    assert shown(found) == ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "25 03:00+0100"]
    assert {later - earlier for earlier, later in itertools.pairwise(found)} == {1_800}


@settings(deadline=None)
@given(LINES, ZONES, st.floats(1.5e9, 2e9))
def test_slots_only_ever_grow(cron: str, zone: str, now: float) -> None:
    found = (now, *rules.upcoming(cron, zone, now, 8))
    assert all(later > earlier for earlier, later in itertools.pairwise(found))


@settings(deadline=None)
@given(
    LINES,
    ZONES,
    st.sampled_from(Missed),
    st.floats(1.5e9, 2e9),
    st.lists(st.sampled_from([-1e9, -86_400.0, -3_600.0, 0.004, 1.0, 30.0, 61.0, 3_600.0, 86_400.0]), max_size=25),
)
def test_clock_that_jumps_begins_no_slot_twice(
    cron: str, zone: str, missed: Missed, start: float, jumps: list[float]
) -> None:
    one, now, begun = schedule(cron, zone, start, missed=missed), start, []
    for jump in jumps:
        now = max(0.0, now + jump)
        if one.next_at <= now:
            one, job = rules.fired(one, JobState.SUCCEEDED, now)
            assert one.next_at > now
            if job is not None:
                begun.append((job.id, one.last_at))
    slots = [slot for _, slot in begun if slot is not None]
    assert slots == sorted(set(slots))
    assert len({job_id for job_id, _ in begun}) == len(begun)


def test_missed_slots_are_skipped_or_run_once() -> None:
    start = at("2026-06-01T00:00", "UTC")
    late = start + 5 * 3_600 + 600
    skipped, none = rules.fired(schedule("@hourly", now=start), None, late)
    assert none is None
    assert "05:00 UTC was missed" in skipped.message
    once, job = rules.fired(schedule("@hourly", now=start, missed=Missed.RUN_ONCE), None, late)
    assert job is not None
    assert once.last_at == start + 5 * 3_600
    assert skipped.next_at == once.next_at == start + 6 * 3_600
    on_time, job = rules.fired(schedule("@hourly", now=start), None, start + 3_600 + 59)
    assert job is not None and on_time.num_runs == 1


def test_slot_while_the_earlier_job_runs_is_skipped_unless_allowed() -> None:
    one = schedule("@hourly", last_job="job_1")
    skipped, none = rules.fired(one, JobState.RUNNING, 3_600.0)
    assert (none, skipped.message) == (
        None,
        "the slot of 1970-01-01 01:00 UTC was skipped: job_1 is still running",
    )
    _, job = rules.fired(schedule("@hourly", last_job="job_1", overlap=Overlap.ALLOW), JobState.RUNNING, 3_600.0)
    assert job is not None


def test_slot_always_has_the_same_job_id() -> None:
    one = schedule("@hourly")
    assert rules.job_id(one, 3_600.0) == rules.job_id(one, 3_600.0) != rules.job_id(one, 7_200.0)
    assert len(rules.job_id(one, 3_600.0)) == len("job_") + 26


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "nonsense",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 30 2 *",
        "*/0 * * * *",
        "5-1 * * * *",
        "-1 * * * *",
        "@reboot",
        "٣ * * * *",
        "1,,2 * * * *",
        "* * * * 8",
        "$(id) * * * *",
    ],
)
def test_cron_line_that_is_none_is_refused(cron: str) -> None:
    with pytest.raises(CronUnreadable):
        rules.check(cron, "UTC", SPEC, 0.0)


@settings(deadline=None)
@given(st.text(max_size=100))
def test_any_text_is_a_cron_line_or_refused(cron: str) -> None:
    try:
        rules.check(cron, "UTC", SPEC, 1.7e9)
    except CronUnreadable:
        return
    assert rules.next_slot(cron, "UTC", 1.7e9)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../../etc/passwd", "Europe", "/etc/localtime", "a\0b"])
def test_time_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(TimeZoneUnknown):
        rules.check("@daily", zone, SPEC, 0.0)


def test_job_that_comes_after_others_is_no_schedule() -> None:
    with pytest.raises(NotSchedulable):
        rules.check("@daily", "UTC", JobSpec(entry=SPEC.entry, after=(Dependency(id="job_1"),)), 0.0)
