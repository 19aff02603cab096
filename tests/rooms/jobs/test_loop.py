"""The loop with the scheduler: who starts, who makes room, who changes size, what a restart may not change. Engines in memory."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from skyloom.core.errors import InternalError, StorageFull
from skyloom.core.events import Moved
from skyloom.core.resources import Resources
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.door import EVENTS, Outbox
from skyloom.ports.engine import Command, Machine
from skyloom.rooms.jobs import loop as loop_module
from skyloom.rooms.jobs import model, rules
from skyloom.rooms.jobs import waits as waits_module
from skyloom.rooms.jobs.model import CancelJob, JobSpec, JobState, JobStatus, Reason, SubmitJob, TaskState
from skyloom.rooms.jobs.outlook import JobOutlook
from skyloom.rooms.jobs.ports import TASKS
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import Pool
from skyloom.rooms.pools.ports import POOLS
from skyloom.rooms.scheduling.rulebook import SetScheduling
from skyloom.rooms.scheduling.service import Scheduling
from skyloom.stored import COLLECTIONS, LOGS
from skyloom.stores.sqlite import SqliteStore
from tests.rooms.job_rooms import NoTokens, job_rooms
from tests.rooms.workshop import ANN, BOB, Workshop

CPU = Resources(cpus=1, memory_bytes=2**20)


class Hall(Workshop):
    """A workshop with four CPUs in which one may wait, restart the control plane and look at jobs."""

    def submit(self, name: str, *, cpus: float = 1, by: Any = ANN, **options: Any) -> str:
        spec = JobSpec(
            entry=Command(argv=("true",)), name=name, resources=Resources(cpus=cpus, memory_bytes=2**20), **options
        )
        ask = SubmitJob(spec=spec)
        self.jobs.check(ask, by)
        return self.store.write(lambda tx: self.jobs.submit(tx, ask, by)).job.id

    def rounds(self, count: int = 4, each_s: float = 1.0) -> None:
        for _ in range(count):
            self.loop.tick()
            self.clock.advance(each_s)

    def of(self, job_id: str, project: str = "p") -> JobStatus:
        return self.store.read(lambda view: self.jobs.status(view, job_id, project))

    def set(self, **rules: Any) -> None:
        room = Scheduling(self.store, self.clock)
        self.store.write(lambda tx: room.set(tx, SetScheduling(**rules), ANN))

    def restart(self) -> None:
        """A new control plane over the same store and engine."""
        self.jobs, self.loop = job_rooms(
            self.store, self.clock, self.ids, Outbox(self.clock), self.engine, self.blobs, self.plans
        )

    def finish(self, job_id: str) -> None:
        for task in self.of(job_id).tasks:
            self.engine.finish(task.id)

    def moves(self, job_id: str) -> list[str]:
        events = self.store.read(lambda view: view.entries(EVENTS, {"subject": job_id}))
        return [f"{event.body.before}>{event.body.after}" for _, event in events if isinstance(event.body, Moved)]


@pytest.fixture
def hall() -> Hall:
    return Hall()


def test_job_of_higher_priority_preempts_and_the_other_comes_back_at_its_old_age(hall: Hall) -> None:
    low = hall.submit("low", cpus=4)
    hall.rounds(2, 60)
    later = hall.submit("later", cpus=4)
    high = hall.submit("high", cpus=4, priority=5)
    hall.rounds(4)
    assert hall.of(high).state is JobState.RUNNING
    made_room = hall.of(low)
    assert (made_room.state, made_room.job.attempt, made_room.job.comebacks) == (JobState.QUEUED, 2, 1)
    assert made_room.job.halt is None
    assert f"made room for job {high}" in made_room.message
    hall.finish(high)
    hall.rounds(3)
    assert hall.of(low).state is JobState.RUNNING
    assert hall.of(later).state is JobState.QUEUED
    assert hall.of(low).message == ""
    hall.finish(low)
    hall.rounds(3)
    assert hall.of(low).state is JobState.SUCCEEDED


def test_preempted_job_keeps_all_its_retries(hall: Hall) -> None:
    low = hall.submit("low", cpus=4, max_retries=1)
    hall.rounds(2, 60)
    high = hall.submit("high", cpus=4, priority=5)
    hall.rounds(4)
    hall.finish(high)
    hall.rounds(3)
    assert hall.of(low).job.attempt == 2
    hall.engine.finish(f"{low}.2.0", 1)
    hall.rounds(3)
    assert (hall.of(low).state, hall.of(low).job.attempt) == (JobState.RUNNING, 3)
    hall.engine.finish(f"{low}.3.0", 1)
    hall.rounds(3)
    assert hall.of(low).state is JobState.FAILED
    assert "attempt 2 of 2" in hall.of(low).message


def test_job_that_is_not_preemptible_runs_to_its_end(hall: Hall) -> None:
    low = hall.submit("low", cpus=4, preemptible=False)
    hall.rounds(2, 60)
    high = hall.submit("high", cpus=4, priority=5)
    hall.rounds(4)
    assert (hall.of(low).state, hall.of(high).state) == (JobState.RUNNING, JobState.QUEUED)


def test_job_that_ends_by_itself_while_it_makes_room_has_succeeded(hall: Hall) -> None:
    engine = MemoryEngine(Resources(cpus=4, memory_bytes=8 * 2**30), now=hall.clock.now, obeys=False)
    hall.engine = engine
    hall.restart()
    low = hall.submit("low", cpus=4)
    hall.rounds(2, 60)
    hall.submit("high", cpus=4, priority=5)
    hall.rounds(2)
    stopping = hall.of(low)
    assert (stopping.state, stopping.reason) == (JobState.STOPPING, Reason.PREEMPTED)
    assert stopping.next_action.startswith("Nothing: it goes on")
    hall.finish(low)
    hall.rounds(3)
    assert (hall.of(low).state, hall.of(low).job.attempt) == (JobState.SUCCEEDED, 1)


def test_elastic_gang_starts_with_all_that_is_idle_shrinks_for_others_and_grows_again(hall: Hall) -> None:
    hall.set(min_run_s=10.0, restart_s=0.0)
    elastic = hall.submit("elastic", num_workers=1, max_workers=4, expected_duration_s=10_000.0)
    hall.rounds(2)
    assert [task.rank for task in hall.of(elastic).tasks] == [0, 1, 2, 3]
    assert hall.of(elastic).state is JobState.RUNNING
    hall.rounds(3, 60)
    other = hall.submit("other", cpus=2, by=BOB)
    hall.rounds(5)
    assert hall.of(other, "q").state is JobState.RUNNING
    assert (hall.of(elastic).state, len(hall.of(elastic).tasks)) == (JobState.RUNNING, 2)
    assert hall.of(elastic).job.comebacks == 1
    hall.rounds(3, 60)
    hall.engine.finish(f"{other}.1.0")
    hall.rounds(6, 30)
    assert (hall.of(elastic).state, len(hall.of(elastic).tasks)) == (JobState.RUNNING, 4)
    assert {plan.task_id for plan in hall.engine.launched} >= {f"{elastic}.3.{rank}" for rank in range(4)}


def test_small_job_overtakes_a_gang_that_waits_only_where_it_delays_nothing(hall: Hall) -> None:
    first = hall.submit("first", cpus=3, expected_duration_s=100.0)
    hall.rounds(1)
    gang = hall.submit("gang", num_workers=4, expected_duration_s=100.0)
    short = hall.submit("short", expected_duration_s=10.0)
    long = hall.submit("long", expected_duration_s=1_000.0)
    hall.rounds(2)
    assert [hall.of(job).state for job in (first, gang, short, long)] == [
        JobState.RUNNING,
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.QUEUED,
    ]
    assert (hall.of(gang).place, hall.of(long).place) == (1, 2)
    assert "needs" in hall.of(gang).message and hall.of(long).message


def test_restart_at_any_moment_changes_nothing(hall: Hall) -> None:
    low = hall.submit("low", cpus=4)
    hall.loop.tick()
    hall.restart()
    hall.rounds(2, 60)
    high = hall.submit("high", cpus=4, priority=5)
    for _ in range(6):
        hall.restart()
        hall.rounds(1)
    assert (hall.of(high).state, hall.of(low).state) == (JobState.RUNNING, JobState.QUEUED)
    hall.finish(high)
    for _ in range(4):
        hall.restart()
        hall.rounds(1)
    hall.finish(low)
    hall.restart()
    hall.rounds(3)
    assert (hall.of(low).state, hall.of(low).job.attempt) == (JobState.SUCCEEDED, 2)
    assert hall.moves(low).count("queued>starting") == 2
    assert len({plan.task_id for plan in hall.engine.launched}) == len(hall.engine.launched) == 3


def test_fair_shares_remember_past_use_over_a_restart(hall: Hall) -> None:
    for _ in range(3):
        job = hall.submit("mine", cpus=4)
        hall.rounds(2, 600)
        hall.finish(job)
        hall.rounds(1)
    mine, theirs = hall.submit("mine", cpus=4), hall.submit("theirs", cpus=4, by=BOB)
    hall.restart()
    hall.rounds(2)
    assert (hall.of(theirs, "q").state, hall.of(mine).state) == (JobState.RUNNING, JobState.QUEUED)


def test_policy_that_is_changed_holds_from_the_next_round_on(hall: Hall) -> None:
    hall.set(policy="srtf")
    running = hall.submit("running", cpus=4)
    hall.rounds(1)
    long = hall.submit("long", cpus=4, expected_duration_s=1_000.0)
    short = hall.submit("short", cpus=4, expected_duration_s=10.0)
    hall.rounds(1)
    assert (hall.of(short).place, hall.of(long).place) == (1, 2)
    hall.set(policy="fifo")
    hall.rounds(1)
    assert (hall.of(long).place, hall.of(short).place) == (1, 2)
    assert hall.of(running).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpus": 5}, "each worker needs 5 CPUs, 4 on the largest machine"),
        ({"cpus": 1, "num_workers": 5}, "at most 4 fit (local)"),
        ({"num_workers": 3, "max_workers": 2}, "at least 3 workers and at most 2"),
        ({"pools": ("nowhere",)}, "no pool 'nowhere'"),
        ({"requires": {"zone": "eu"}}, "No machine has the labels zone=eu"),
        ({"deadline_at": 900.0}, "The deadline was 100 s ago"),
        ({"deadline_at": 9_000.0, "deadline_s": 5.0}, "two deadlines"),
    ],
)
def test_impossible_request_is_refused_with_what_would_fit(hall: Hall, options: dict[str, Any], said: str) -> None:
    with pytest.raises((model.ImpossibleRequest, model.DeadlinePassed)) as refusal:
        hall.submit("never", **options)
    assert said in refusal.value.message
    assert refusal.value.next_action


def test_elastic_gang_whose_first_workers_are_done_is_not_started_again_with_more(hall: Hall) -> None:
    hall.set(min_run_s=0.0, restart_s=0.0)
    elastic = hall.submit("elastic", cpus=2, num_workers=1, max_workers=2, expected_duration_s=3_000)
    hall.rounds(3)
    assert len(hall.of(elastic).tasks) == 2
    hall.engine.finish(f"{elastic}.1.0")
    hall.rounds(4, 30)
    assert (hall.of(elastic).state, hall.of(elastic).job.comebacks) == (JobState.RUNNING, 0)
    hall.engine.finish(f"{elastic}.1.1")
    hall.rounds(2)
    assert hall.of(elastic).state is JobState.SUCCEEDED


def test_elastic_gang_of_a_size_that_fits_is_taken_though_its_largest_never_will(hall: Hall) -> None:
    job = hall.submit("elastic", num_workers=2, max_workers=100)
    hall.rounds(2)
    assert len(hall.of(job).tasks) == 4


def test_launch_faults_that_do_not_come_in_a_row_are_forgiven(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, calls = hall.plans.task, [0]

    def unsteady(*about: Any) -> Any:
        calls[0] += 1
        if calls[0] % 2:
            raise RuntimeError("a defect that comes and goes")
        return plan(*about)

    monkeypatch.setattr(hall.plans, "task", unsteady)
    for _ in range(8):
        job = hall.submit("unsteady")
        hall.rounds(3)
        assert hall.of(job).state is JobState.RUNNING
        hall.finish(job)
        hall.rounds(1)


def test_loop_that_lost_its_copy_of_the_store_finds_everything_again(hall: Hall) -> None:
    jobs = [hall.submit(f"job {number}") for number in range(9)]
    hall.rounds(2)
    hall.loop._mirror.gangs.clear()  # as if events had been missed
    hall.rounds(2, 100)
    while any(hall.of(job).state is not JobState.SUCCEEDED for job in jobs):
        for task in hall.store.read(lambda view: view.select(TASKS, {"state": TaskState.RUNNING})):
            hall.engine.finish(task.id)
        hall.rounds(2)


@pytest.mark.slow
def test_burst_of_ten_thousand_jobs_loses_none(hall: Hall, tmp_path: Path) -> None:
    hall.engine = MemoryEngine(Resources(cpus=1_000, memory_bytes=2**40), now=hall.clock.now)
    store = SqliteStore(tmp_path / "skyloom.db", COLLECTIONS, LOGS)
    hall.store = store  # type: ignore[assignment]
    hall.restart()
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), resources=CPU))
    jobs = {
        status.job.id
        for _ in range(10)
        for status in store.write(lambda tx: [hall.jobs.submit(tx, ask, ANN) for _ in range(1_000)])
    }
    for number in range(60):
        if number == 7:
            hall.restart()
        hall.rounds(1)
        for task in store.read(lambda view: view.select(TASKS, {"state": TaskState.RUNNING})):
            hall.engine.finish(task.id)
        if not store.read(lambda view: view.count(TASKS, {"state": rules.LIVE})):
            break
    tasks = store.read(lambda view: view.select(TASKS))
    store.close()
    assert {task.job_id for task in tasks if task.state is TaskState.SUCCEEDED} == jobs
    assert len(tasks) == len(jobs) == len(hall.engine.launched)


def test_jobs_pass_one_that_waits_for_what_a_replica_holds_for_good_and_it_is_told_what_to_do(hall: Hall) -> None:
    serves = hall.submit("digits revision 2", labels={"endpoint": "ep_1"}, preemptible=False)
    theirs = hall.submit("theirs revision 1", labels={"endpoint": "ep_2"}, preemptible=False, by=BOB)
    hall.rounds()
    large, small = hall.submit("large", cpus=4), hall.submit("small")
    hall.rounds()
    assert hall.of(small).state is JobState.RUNNING
    told = hall.of(large)
    assert told.message == (
        "needs 4 CPUs, 1 free on the node with most, and too few will come free: what holds them never ends by itself;"
        " next in the queue"
    )
    assert told.next_action == (
        "Scale down or stop endpoint digits revision 2; or add a machine, or ask for less:"
        " these hold the rest until somebody stops them."
    )
    for job_id, by in ((serves, ANN), (theirs, BOB)):
        hall.store.write(lambda tx, job_id=job_id, by=by: hall.jobs.cancel(tx, CancelJob(job_id=job_id), by))
        hall.rounds()
    hall.finish(small)
    hall.rounds()
    assert hall.of(large).state is JobState.RUNNING


def test_job_far_back_in_the_queue_is_told_its_own_reason_and_what_to_do(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_EXPLAINED", 3)
    monkeypatch.setattr(waits_module, "_MANY", 3)
    hall.submit("digits revision 2", labels={"endpoint": "ep_1"}, preemptible=False)
    hall.submit("runs", cpus=3)
    hall.rounds()
    for number in range(4):
        hall.submit(f"first {number}", priority=5)
    hall.rounds()
    small, large = hall.submit("small"), hall.submit("large", cpus=4)
    theirs = hall.submit("theirs", cpus=4, by=BOB)
    hall.rounds()
    told = {job_id: hall.of(job_id) for job_id in (small, large)}
    assert told[small].message.endswith("on the node with most; behind 3 others or more")
    assert "digits" not in told[small].next_action
    assert "what holds them never ends by itself; behind 3 others" in told[large].message
    assert told[large].next_action.startswith("Scale down or stop endpoint digits revision 2")
    others = hall.of(theirs, "q")
    assert "digits" not in others.message + others.next_action and others.next_action
    fresh = hall.submit("fresh", cpus=2)  # no round has seen it
    assert hall.of(fresh).message == "behind 3 others or more"


def test_forecast_never_counts_on_the_end_of_a_service(hall: Hall) -> None:
    waits = Waits()
    outlook = JobOutlook(hall.clock, waits, hall.loop.picture)
    hall.submit("digits revision 2", labels={"endpoint": "ep_1"}, preemptible=False)
    hall.rounds()
    large, small = hall.submit("large", cpus=4), hall.submit("small")
    hall.rounds()
    outlook.tick()
    known, other = waits.of(large).forecast, waits.of(small).forecast
    assert known is not None and other is not None
    assert (known.starts.likely_at, other.ends.likely_at is not None) == (None, True)


def test_waiting_and_running_jobs_tell_when_they_will_start_and_end(hall: Hall) -> None:
    waits = Waits()
    hall.jobs, hall.loop = job_rooms(
        hall.store, hall.clock, hall.ids, Outbox(hall.clock), hall.engine, hall.blobs, hall.plans, waits=waits
    )
    outlook = JobOutlook(hall.clock, waits, hall.loop.picture)
    for _ in range(8):
        job = hall.submit("known", cpus=4)
        hall.rounds(1)
        hall.clock.advance(100)
        hall.finish(job)
        hall.rounds(1)
    runs, waiting = hall.submit("known", cpus=4), hall.submit("known", cpus=4)
    hall.rounds(2)
    assert hall.of(waiting).forecast is None
    outlook.tick()
    told = hall.jobs.get(model.GetJob(job_id=waiting), ANN)
    assert told.forecast is not None and told.forecast.basis == "from 8 earlier jobs named known"
    now, starts, ends = hall.clock.now(), told.forecast.starts, told.forecast.ends
    assert starts.early_at is not None and starts.likely_at is not None and starts.late_at is not None
    assert now < starts.early_at <= starts.likely_at <= starts.late_at
    assert 60 < starts.likely_at - now < 150
    assert ends.likely_at is not None and 150 < ends.likely_at - now < 300
    assert told.outlook.startswith("likely to start in ")
    assert hall.jobs.get(model.GetJob(job_id=runs), ANN).outlook.startswith("likely to end in ")
    hall.finish(runs)
    hall.rounds(3)
    hall.finish(waiting)
    hall.rounds(3)
    assert hall.jobs.get(model.GetJob(job_id=waiting), ANN).forecast is None


def test_forecast_knows_durations_again_after_a_restart(hall: Hall) -> None:
    job = hall.submit("known", cpus=4)
    hall.rounds(1)
    hall.clock.advance(100)
    hall.finish(job)
    hall.rounds(2)
    hall.restart()
    again = hall.submit("known", cpus=4)
    hall.rounds(1)
    known = hall.loop._mirror.history.expected_s(hall.of(again).job)
    assert known == pytest.approx(100, abs=3)


def test_machine_that_got_another_name_still_holds_what_runs_on_it(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    running = hall.submit("running", cpus=3)
    hall.rounds(2)
    machine = Machine(name="renamed", total=hall.engine.capacity())
    monkeypatch.setattr(hall.engine, "machines", lambda: (machine,))
    hall.restart()
    waiting = hall.submit("waiting", cpus=2)
    hall.rounds(2)
    assert (hall.of(running).state, hall.of(waiting).state) == (JobState.RUNNING, JobState.QUEUED)


def stubborn(hall: Hall) -> None:
    """Tasks that end when they are told to by the test, and not by themselves."""
    hall.engine = MemoryEngine(Resources(cpus=4, memory_bytes=8 * 2**30), now=hall.clock.now, obeys=False)
    hall.restart()


def test_job_cancelled_while_it_makes_room_ends_as_soon_as_it_has_stopped(hall: Hall) -> None:
    stubborn(hall)
    low = hall.submit("low", cpus=4)
    hall.rounds(2, 60)
    hall.submit("high", cpus=4, priority=5)
    hall.rounds(2)
    assert hall.of(low).reason is Reason.PREEMPTED
    hall.store.write(lambda tx: hall.jobs.cancel(tx, model.CancelJob(job_id=low), ANN))
    hall.rounds(1, 0.0)
    hall.engine.finish(f"{low}.1.0", 143)
    hall.rounds(2, 0.0)  # and not only when the copy of the store is made anew
    assert (hall.of(low).state, hall.of(low).reason) == (JobState.CANCELLED, Reason.CANCELLED)


def test_gang_cancelled_while_it_stops_for_a_failed_worker_ends_as_soon_as_it_has_stopped(hall: Hall) -> None:
    stubborn(hall)
    gang = hall.submit("gang", num_workers=2, max_retries=3)
    hall.rounds(2)
    hall.engine.finish(f"{gang}.1.0", 1)
    hall.rounds(2)
    assert hall.of(gang).state is JobState.STOPPING
    hall.store.write(lambda tx: hall.jobs.cancel(tx, model.CancelJob(job_id=gang), ANN))
    hall.rounds(1, 0.0)
    hall.engine.finish(f"{gang}.1.1", 143)
    hall.rounds(2, 0.0)
    assert (hall.of(gang).state, hall.of(gang).job.attempt) == (JobState.FAILED, 1)


def test_worker_that_needs_next_to_nothing_is_counted_and_not_an_error(hall: Hall) -> None:
    nothing = Resources(cpus=5e-324, memory_bytes=0)
    spec = JobSpec(entry=Command(argv=("true",)), resources=nothing, num_workers=4)
    hall.jobs.check(SubmitJob(spec=spec), ANN)


@pytest.mark.parametrize("trouble", [InternalError("It broke.", next_action="Report it."), ValueError("not foreseen")])
@pytest.mark.parametrize("method", ["known", "observe", "stop"])
def test_pool_that_fails_in_whatever_way_holds_up_no_other_pool(hall: Hall, method: str, trouble: Exception) -> None:
    far = MemoryEngine(Resources(cpus=4, memory_bytes=2**30), now=hall.clock.now)
    fleet = Fleet(hall.engine, lambda pool, file, check: far, NoTokens(), lambda name: None)
    pool = hall.store.write(
        lambda tx: tx.insert(POOLS, Pool(id="far", project="*", address="ray://far:1", added_at=0.0, added_by="ann"))
    )
    fleet.refresh([pool])
    hall.jobs, hall.loop = job_rooms(
        hall.store, hall.clock, hall.ids, Outbox(hall.clock), hall.engine, hall.blobs, hall.plans, fleet
    )

    def fail(*_: object, **__: object) -> None:
        raise trouble

    if method == "known":
        far.known = fail  # type: ignore[method-assign, assignment]
    away = hall.submit("away", pools=("far",))
    hall.rounds(2)
    setattr(far, method, fail)
    hall.store.write(lambda tx: hall.jobs.cancel(tx, model.CancelJob(job_id=away), ANN))
    here = hall.submit("here", pools=("local",), by=BOB)
    hall.rounds(3)
    assert hall.of(here, "q").state is JobState.RUNNING


def test_job_that_makes_room_for_another_project_learns_no_id_of_it(hall: Hall) -> None:
    low = hall.submit("low", cpus=4)
    hall.rounds(2, 60)
    high = hall.submit("high", cpus=4, priority=5, by=BOB)
    hall.rounds(4)
    assert hall.of(high, "q").state is JobState.RUNNING
    told = hall.of(low)
    assert "made room for a job of another project" in told.message
    events = hall.store.read(lambda view: view.entries(EVENTS, {"project": "p"}))
    assert high not in repr(told) + repr(events)


def test_round_that_fails_between_the_store_and_the_scheduler_loses_no_machine(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hall.submit("first", cpus=4)
    hall.rounds(2)
    second = hall.submit("second", cpus=4)
    grounds, calls = hall.loop._fleet.grounds, itertools.count()

    def unsteady() -> Any:
        if next(calls) == 1:  # the end of the first is written, and the scheduler does not know it yet
            raise RuntimeError("not foreseen")
        return grounds()

    monkeypatch.setattr(hall.loop._fleet, "grounds", unsteady)
    hall.finish(first)
    with pytest.raises(RuntimeError):
        hall.loop.tick()
    hall.rounds(2)
    assert (hall.of(first).state, hall.of(second).state) == (JobState.SUCCEEDED, JobState.RUNNING)


def test_where_saying_why_takes_long_jobs_start_in_every_round_and_hear_why_in_some(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = hall.submit("running", cpus=4)
    hall.rounds(2)
    seconds = itertools.count()
    monkeypatch.setattr("skyloom.rooms.jobs.loop.time.thread_time", lambda: float(next(seconds)))
    waiting = hall.submit("waiting", cpus=4)
    hall.rounds(1)
    later = hall.submit("later", cpus=4)
    hall.rounds(8)
    assert (hall.of(waiting).place, hall.of(later).place) == (1, None)
    hall.rounds(1)
    assert (hall.of(waiting).place, hall.of(later).place) == (1, 2)
    hall.finish(running)
    hall.rounds(2)
    assert hall.of(waiting).state is JobState.RUNNING


def test_job_that_cannot_be_launched_yet_says_why_until_it_is(hall: Hall) -> None:
    hall.engine.failing = StorageFull("The disk is full.", next_action="Free some space.")
    job = hall.submit("one")
    hall.rounds(1)
    assert (hall.of(job).state, hall.of(job).message) == (JobState.STARTING, "The disk is full. Free some space.")
    hall.rounds(2)
    assert (hall.of(job).state, hall.of(job).message) == (JobState.RUNNING, "")
