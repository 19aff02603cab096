"""What comes after what, over memory adapters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.events import Event, Moved
from skyloom.ports.engine import Command
from skyloom.ports.store import Transaction
from skyloom.rooms.jobs import dependencies
from skyloom.rooms.jobs.dependencies import Verdict, verdict
from skyloom.rooms.jobs.model import (
    ENDED,
    CancelJob,
    Condition,
    Dependency,
    JobMissing,
    JobSpec,
    JobState,
    JobStatus,
    NotRepeatable,
    Reason,
    RerunJob,
    SubmitJob,
)
from tests.rooms.workshop import ANN, BOB, Workshop


def submit(shop: Workshop, *after: Dependency | str, **more: object) -> str:
    conditions = tuple(Dependency(id=one) if isinstance(one, str) else one for one in after)
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), after=conditions, **more))  # type: ignore[arg-type]
    return shop.store.write(lambda tx: shop.jobs.submit(tx, ask, ANN)).job.id


def status(shop: Workshop, job_id: str) -> JobStatus:
    return shop.store.read(lambda view: shop.jobs.status(view, job_id, "p"))


def rounds(shop: Workshop, count: int = 3) -> None:
    for _ in range(count):
        shop.loop.tick()
        shop.jobs.dependencies.tick()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Condition), st.sampled_from([None, *JobState])), max_size=6))
def test_verdict_begins_only_when_all_hold_and_gives_up_only_when_one_cannot(
    given_: list[tuple[Condition, JobState | None]],
) -> None:
    after = [Dependency(id=f"job_{place}", condition=condition) for place, (condition, _) in enumerate(given_)]
    states = {f"job_{place}": state for place, (_, state) in enumerate(given_)}
    found, why = verdict(after, states)
    lost = [
        one
        for one in after
        if one.condition is Condition.SUCCEEDED
        and (states[one.id] is None or (states[one.id] in ENDED and states[one.id] is not JobState.SUCCEEDED))
    ]
    open_ = [one for one in after if states[one.id] is not None and states[one.id] not in ENDED]
    assert found is (Verdict.NEVER if lost else Verdict.WAIT if open_ else Verdict.READY)
    assert bool(why) == (found is not Verdict.READY)


def test_job_waits_outside_of_the_queue_and_says_for_what(shop: Workshop) -> None:
    first = submit(shop)
    second = submit(shop, first)
    rounds(shop)
    told = status(shop, second)
    assert (told.state, told.reason) == (JobState.WAITING, Reason.WAITING_FOR_DEPENDENCIES)
    assert told.message == f"waits for {first} to succeed"
    assert [plan.task_id for plan in shop.engine.launched] == [f"{first}.1.0"]
    shop.engine.finish(f"{first}.1.0")
    rounds(shop)
    assert status(shop, second).state is JobState.RUNNING


def test_chain_behind_a_failure_is_cancelled_to_its_end_with_the_reason(shop: Workshop) -> None:
    first = submit(shop)
    second = submit(shop, first)
    third = submit(shop, second)
    anyway = submit(shop, Dependency(id=first, condition=Condition.ENDED))
    rounds(shop)
    shop.engine.finish(f"{first}.1.0", 1)
    rounds(shop, 4)
    told = status(shop, second)
    assert (told.state, told.reason) == (JobState.CANCELLED, Reason.DEPENDENCY_FAILED)
    assert told.message == f"{first}, which it comes after, failed"
    assert f"skyloom job rerun {second}" in told.next_action
    assert status(shop, third).reason is Reason.DEPENDENCY_FAILED
    assert status(shop, anyway).state is JobState.RUNNING


def test_job_that_failed_and_is_tried_again_has_not_ended_for_those_after_it(shop: Workshop) -> None:
    first = submit(shop, max_retries=1)
    second = submit(shop, first)
    rounds(shop)
    shop.engine.finish(f"{first}.1.0", 1)
    rounds(shop)
    assert status(shop, second).state is JobState.WAITING
    shop.engine.finish(f"{first}.2.0")
    rounds(shop)
    assert status(shop, second).state is JobState.RUNNING


def test_gang_that_waits_is_released_whole_and_its_retry_waits_for_nothing(shop: Workshop) -> None:
    first = submit(shop)
    gang = submit(shop, first, num_workers=2, max_retries=1)
    rounds(shop)
    shop.engine.finish(f"{first}.1.0")
    rounds(shop)
    assert status(shop, gang).state is JobState.RUNNING
    shop.engine.finish(f"{gang}.1.0", 1)
    rounds(shop, 4)
    assert status(shop, gang).job.attempt == 2
    assert status(shop, gang).state is JobState.RUNNING


def test_waiting_job_is_cancelled_at_once_and_stays_so(shop: Workshop) -> None:
    first = submit(shop)
    second = submit(shop, first)
    told = shop.store.write(lambda tx: shop.jobs.cancel(tx, CancelJob(job_id=second), ANN))
    assert (told.state, told.reason) == (JobState.CANCELLED, Reason.CANCELLED)
    rounds(shop)
    shop.engine.finish(f"{first}.1.0")
    rounds(shop)
    assert status(shop, second).state is JobState.CANCELLED


def test_job_after_one_that_has_ended_long_ago_begins(shop: Workshop) -> None:
    first = submit(shop)
    rounds(shop)
    shop.engine.finish(f"{first}.1.0")
    rounds(shop)
    second = submit(shop, first)
    rounds(shop)
    assert status(shop, second).state is JobState.RUNNING


@pytest.mark.parametrize("absent", ["job_nobody", "what_is_this", "nothing"])
def test_job_after_what_does_not_exist_or_is_foreign_is_refused(shop: Workshop, absent: str) -> None:
    with pytest.raises(JobMissing) as refused:
        submit(shop, absent)
    mine = submit(shop)
    ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), after=(Dependency(id=mine),)))
    with pytest.raises(JobMissing):
        shop.store.write(lambda tx: shop.jobs.submit(tx, ask, BOB))
    assert "whole id" in refused.value.next_action


def test_rerun_does_the_same_again_without_waiting(shop: Workshop) -> None:
    first = submit(shop)
    second = submit(shop, first, name="again")
    rounds(shop)
    shop.engine.finish(f"{first}.1.0", 1)
    rounds(shop)
    ask = RerunJob(job_id=second)
    shop.jobs.check_rerun(ask, ANN)
    made = shop.store.write(lambda tx: shop.jobs.rerun(tx, ask, ANN))
    assert (made.state, made.job.spec.name, made.job.spec.after) == (JobState.QUEUED, "again", ())
    with pytest.raises(JobMissing):
        shop.jobs.check_rerun(ask, BOB)


def test_rerun_of_a_job_that_works_for_a_run_is_refused(shop: Workshop) -> None:
    owned = submit(shop, labels={"run": "run_1"})
    with pytest.raises(NotRepeatable):
        shop.jobs.check_rerun(RerunJob(job_id=owned), ANN)


def test_many_that_wait_do_not_hide_one_whose_time_has_come(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "_MOST_AT_ONCE", 3)
    done, endless = submit(shop), submit(shop)
    rounds(shop)
    for _ in range(10):
        submit(shop, endless)
    last = submit(shop, done)
    shop.engine.finish(f"{done}.1.0")
    rounds(shop)
    assert status(shop, last).state is JobState.RUNNING


@pytest.fixture
def shop() -> Workshop:
    return Workshop()


def test_job_that_cannot_be_released_holds_up_no_other_one(shop: Workshop) -> None:
    first = submit(shop)
    broken, other = submit(shop, first), submit(shop, first)

    def refuse(tx: Transaction, event: Event) -> None:
        if event.subject == broken and isinstance(event.body, Moved):
            raise ValueError("not foreseen")

    rounds(shop)
    shop.outbox.subscribers = [*shop.outbox.subscribers, refuse]
    shop.engine.finish(f"{first}.1.0")
    rounds(shop)
    assert status(shop, other).state is JobState.RUNNING
    assert status(shop, broken).state is JobState.WAITING
