"""Schedules over memory adapters: begun once, also across crashes and restarts."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from skyloom.core.errors import AlreadyExists, LimitExceeded, Unavailable
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Right
from skyloom.ports.door import Outbox
from skyloom.ports.engine import Command
from skyloom.ports.store import Transaction, changed
from skyloom.rooms.jobs.bounds import OpenWorkers
from skyloom.rooms.jobs.model import JobSpec, ListJobs, SubmitJob, TooManyInProject
from skyloom.rooms.overview.explainers import of_schedules
from skyloom.rooms.schedules import model
from skyloom.rooms.schedules.model import CreateSchedule, Missed, PauseReason, ScheduleMissing, ScheduleStatus
from skyloom.rooms.schedules.ports import SCHEDULES
from skyloom.rooms.schedules.service import Schedules
from tests.rooms.workshop import ANN, BOB, Workshop

SPEC = JobSpec(entry=Command(argv=("true",)), name="tidy")


class Bench:
    def __init__(self) -> None:
        self.shop = Workshop()
        self.lost: dict[str, str] = {}  # by the token's id
        self.schedules = self.restarted()

    def restarted(self) -> Schedules:
        """Another control plane over the same store."""
        shop = self.shop
        return Schedules(shop.store, shop.clock, CountingIds(), Outbox(shop.clock), shop.jobs, self.lost_right)

    def lost_right(self, view: object, token_id: str, project: str, right: Right, principal: str) -> str:
        assert (project, right) == ("p", Right.RUN)
        return self.lost.get(token_id, "").format(principal)

    def change(self, work: Callable[[Transaction], Any]) -> Any:
        return self.shop.store.write(work)

    def create(self, cron: str = "@hourly", by: Caller = ANN, **more: Any) -> ScheduleStatus:
        ask = CreateSchedule(name="tidy", cron=cron, spec=SPEC, **more)
        self.schedules.check(ask, by)
        made: ScheduleStatus = self.change(lambda tx: self.schedules.create(tx, ask, by))
        return made

    def get(self, by: Caller = ANN) -> ScheduleStatus:
        return self.schedules.get(model.GetSchedule(name="tidy"), by)

    def jobs(self) -> list[str]:
        return [item.job.id for item in self.shop.jobs.list(ListJobs(limit=1_000), ANN).items]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_schedule_begins_one_job_a_slot_and_says_when_the_next_are(bench: Bench) -> None:
    made = bench.create()
    assert made.upcoming[:2] == (3_600.0, 7_200.0)
    assert bench.schedules.tick() == 10.0
    assert bench.jobs() == []
    bench.shop.clock.advance(2_600)
    for _ in range(3):
        bench.schedules.tick()
    assert len(bench.jobs()) == 1
    told = bench.get()
    assert (told.schedule.last_job, told.schedule.num_runs) == (bench.jobs()[0], 1)
    assert told.upcoming[0] == 7_200.0


def test_crash_before_or_after_the_commit_begins_the_job_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.create()
    bench.shop.clock.advance(2_600)
    write = bench.shop.store.write

    def dying_before(work: Callable[[Transaction], Any]) -> Any:
        raise Unavailable("killed", next_action="")

    def dying_after(work: Callable[[Transaction], Any]) -> Any:
        write(work)
        raise Unavailable("killed", next_action="")

    for dying in (dying_before, dying_after):
        monkeypatch.setattr(bench.shop.store, "write", dying)
        with pytest.raises(Unavailable):
            bench.schedules.tick()
        monkeypatch.setattr(bench.shop.store, "write", write)
        bench.schedules = bench.restarted()
    bench.schedules.tick()
    assert len(bench.jobs()) == 1


def test_paused_schedule_begins_nothing_and_goes_on_from_the_moment_it_is_resumed(bench: Bench) -> None:
    bench.create(missed=Missed.RUN_ONCE)
    for _ in range(2):
        bench.change(lambda tx: bench.schedules.pause(tx, model.PauseSchedule(name="tidy"), ANN))
    bench.shop.clock.advance(10_000)
    bench.schedules.tick()
    assert (bench.jobs(), bench.get().upcoming, bench.get().schedule.paused_by) == ([], (), "ann")
    resumed = bench.change(lambda tx: bench.schedules.resume(tx, model.ResumeSchedule(name="tidy"), ANN))
    assert resumed.upcoming[0] == 14_400.0
    bench.schedules.tick()
    assert bench.jobs() == []


def test_schedule_stops_with_the_token_it_acts_by_and_goes_on_by_the_one_that_resumes_it(bench: Bench) -> None:
    ann, bob = (
        msgspec.structs.replace(ANN, token_id="tok_a"),
        msgspec.structs.replace(ANN, principal="bob", token_id="tok_b"),
    )
    bench.create(by=ann, overlap=model.Overlap.ALLOW)
    bench.shop.clock.advance(2_600)
    bench.schedules.tick()
    assert len(bench.jobs()) == 1
    bench.lost["tok_a"] = "the token of {} was revoked or has expired"
    bench.shop.clock.advance(3_600)
    for _ in range(2):
        bench.schedules.tick()
    schedule = bench.get().schedule
    assert (len(bench.jobs()), schedule.paused, schedule.paused_for) == (1, True, PauseReason.LOST_RIGHT)
    assert "the token of ann was revoked" in schedule.message
    told = of_schedules(bench.schedules)
    why = bench.shop.store.read(lambda view: told(view, schedule.id, "p"))
    assert (why.state, why.reason, why.message) == ("paused", "lost_right", schedule.message)
    assert why.next_action == "Go on: skyloom schedule resume tidy."
    resumed = bench.change(lambda tx: bench.schedules.resume(tx, model.ResumeSchedule(name="tidy"), bob)).schedule
    assert (resumed.owner, resumed.token_id, resumed.paused_for, resumed.message) == ("bob", "tok_b", None, "")
    bench.shop.clock.advance(3_600)
    bench.schedules.tick()
    assert len(bench.jobs()) == 2 and bench.get().schedule.created_by == "ann"


def test_active_schedule_is_taken_over_by_who_resumes_it(bench: Bench) -> None:
    bench.create(by=msgspec.structs.replace(ANN, token_id="tok_a"))
    bob = msgspec.structs.replace(ANN, principal="bob", token_id="tok_b")
    taken = bench.change(lambda tx: bench.schedules.resume(tx, model.ResumeSchedule(name="tidy"), bob)).schedule
    assert (taken.owner, taken.token_id, taken.next_at) == ("bob", "tok_b", bench.get().upcoming[0])


def test_deleted_schedule_leaves_its_name_free(bench: Bench) -> None:
    bench.create()
    with pytest.raises(AlreadyExists):
        bench.create()
    bench.change(lambda tx: bench.schedules.delete(tx, model.DeleteSchedule(name="tidy"), ANN))
    bench.create()


def test_schedule_of_somebody_else_looks_absent(bench: Bench) -> None:
    made = bench.create(by=BOB)
    with pytest.raises(ScheduleMissing):
        bench.get(ANN)
    with pytest.raises(ScheduleMissing):
        bench.shop.store.read(lambda view: bench.schedules.status(view, made.schedule.id, "p"))
    with pytest.raises(ScheduleMissing):
        bench.change(lambda tx: bench.schedules.delete(tx, model.DeleteSchedule(name="tidy"), ANN))
    assert bench.schedules.list(model.ListSchedules(), ANN).items == ()


def test_slot_whose_job_is_refused_goes_by_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.create()
    bench.shop.clock.advance(2_600)

    def refusing(tx: Transaction, job: object) -> None:
        raise LimitExceeded("The budget is spent.", next_action="Raise it.")

    monkeypatch.setattr(bench.shop.jobs, "take_in", refusing)
    bench.schedules.tick()
    told = bench.get()
    assert told.schedule.message == "The budget is spent. Raise it."
    assert told.schedule.next_at == 7_200.0


def test_schedule_whose_time_zone_is_gone_holds_up_no_other_one(bench: Bench) -> None:
    broken = bench.create(by=BOB).schedule
    bench.change(lambda tx: tx.update(SCHEDULES, changed(broken, {"time_zone": "Gone/Away", "next_at": 1_500.0})))
    bench.create()
    bench.shop.clock.advance(2_600)
    bench.schedules.tick()
    assert len(bench.jobs()) == 1


def test_schedule_deleted_just_when_its_slot_comes_begins_nothing(bench: Bench) -> None:
    seen = bench.create().schedule
    bench.shop.clock.advance(2_600)
    bench.change(lambda tx: bench.schedules.delete(tx, model.DeleteSchedule(name="tidy"), ANN))
    bench.schedules._begin(seen)
    assert bench.jobs() == []


def test_project_may_have_only_so_many_schedules(bench: Bench) -> None:
    shop = bench.shop
    bench.schedules = Schedules(
        shop.store, shop.clock, CountingIds(), Outbox(shop.clock), shop.jobs, bench.lost_right, most=1
    )
    bench.create()
    with pytest.raises(TooManyInProject, match="may have 1 schedules, and has them"):
        bench.create()
    bench.create(by=BOB)
    bench.change(lambda tx: bench.schedules.delete(tx, model.DeleteSchedule(name="tidy"), ANN))
    bench.create()


def test_slot_of_a_project_that_has_as_many_workers_as_it_may_goes_by_and_says_so(bench: Bench) -> None:
    bench.shop.jobs.workers = OpenWorkers(1)
    bench.create()
    ask = SubmitJob(spec=SPEC)
    bench.change(lambda tx: bench.shop.jobs.submit(tx, ask, ANN))
    bench.shop.clock.advance(2_600)
    bench.schedules.tick()
    assert len(bench.jobs()) == 1
    told = bench.get()
    assert "1 workers that wait or run" in told.schedule.message
    assert told.upcoming[0] == 7_200.0
