"""What is settled of what engines saw: legal moves only, who stops with whom, what is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ports.engine import EndReason, Observation, TaskPhase
from skyloom.ports.store import changed
from skyloom.rooms.jobs import rules, settling
from skyloom.rooms.jobs.model import COME_BACK, HALTS, MOVES, Halt, JobState, Reason, TaskState
from tests.rooms.jobs.gangs import NOW, a_halt, a_job, a_task, ended

states = st.sampled_from(list(TaskState))
observations = st.one_of(
    st.none(),
    st.builds(
        Observation,
        task_id=st.just("x"),
        phase=st.sampled_from(list(TaskPhase)),
        pid=st.just(7),
        started_at=st.just(5.0),
        ended_at=st.one_of(st.none(), st.just(9.0)),
        exit_code=st.integers(0, 3),
        reason=st.sampled_from(list(EndReason)),
    ),
)


@given(
    gang=st.lists(st.tuples(states, observations), min_size=1, max_size=4),
    halted=st.sampled_from([None, *sorted(HALTS)]),
    retries=st.integers(0, 2),
)
def test_settle_any_gang_and_sight_makes_only_legal_moves(
    gang: list[tuple[TaskState, Observation | None]], halted: Reason | None, retries: int
) -> None:
    halt = halted and Halt(reason=halted, by="me", at=1.0)
    job = changed(a_job(len(gang), max_retries=retries), {"halt": halt})
    tasks = [a_task(rank, state) for rank, (state, _) in enumerate(gang)]
    seen = {f"job_a.1.{rank}": what for rank, (_, what) in enumerate(gang) if what is not None}
    made = settling.settle(job, tasks, seen, NOW)
    before = {task.id: task for task in tasks}
    for task in made.tasks:
        if task.state is not before[task.id].state:
            MOVES.check(task.id, before[task.id].state, task.state)
    after = {**before, **{task.id: task for task in made.tasks}}
    if made.again is not None:
        assert halted is None or halted in COME_BACK
        assert all(MOVES.is_terminal(task.state) for task in after.values())
    for task_id in made.stop:
        assert after[task_id].state is TaskState.STOPPING
    for task_id in made.launch:
        assert after[task_id].state is TaskState.STARTING


def test_settle_cancelled_task_that_completed_anyway_is_cancelled() -> None:
    job = changed(a_job(), {"halt": a_halt(Reason.CANCELLED)})
    stopping = a_task(state=TaskState.STOPPING, reason=Reason.CANCELLED)
    made = settling.settle(job, [stopping], {stopping.id: ended()}, NOW)
    assert made.tasks[0].state is TaskState.CANCELLED


@pytest.mark.parametrize("reason", sorted(COME_BACK))
def test_settle_gang_that_makes_room_stops_whole_and_comes_back_without_a_retry(reason: Reason) -> None:
    job = changed(a_job(2), {"halt": a_halt(reason)})
    told = settling.settle(job, [a_task(0), a_task(1)], {}, NOW)
    assert set(told.stop) == {"job_a.1.0", "job_a.1.1"} and told.again is None
    assert {task.reason for task in told.tasks} == {reason}
    seen = {f"job_a.1.{rank}": ended(rank, EndReason.STOPPED, exit_code=143) for rank in range(2)}
    over = settling.settle(job, told.tasks, seen, NOW)
    assert over.again is reason
    after = settling.next_attempt(job, reason)
    assert (after.attempt, after.comebacks, after.halt) == (2, 1, None)
    assert rules.turn_of(after) == rules.turn_of(job)
    # Its retries are all still there: none was allowed, and one failure ends it, but the halts before did not.
    failing = changed(after, {"spec": a_job(2, max_retries=1).spec})
    tasks = [changed(a_task(rank, TaskState.FAILED, reason=Reason.EXIT_CODE), {"attempt": 2}) for rank in range(2)]
    assert settling.settle(failing, tasks, {}, NOW).again is Reason.NONE
    assert settling.settle(after, tasks, {}, NOW).again is None


def test_settle_gang_that_completed_before_it_made_room_has_succeeded() -> None:
    job = changed(a_job(), {"halt": a_halt(Reason.PREEMPTED)})
    stopping = a_task(state=TaskState.STOPPING, reason=Reason.PREEMPTED)
    made = settling.settle(job, [stopping], {stopping.id: ended()}, NOW)
    assert (made.tasks[0].state, made.again) == (TaskState.SUCCEEDED, None)


def test_settle_cancel_overtakes_making_room() -> None:
    job = changed(a_job(), {"halt": a_halt(Reason.CANCELLED)})
    stopping = a_task(state=TaskState.STOPPING, reason=Reason.PREEMPTED)
    made = settling.settle(job, [stopping], {stopping.id: ended(exit_code=143, reason=EndReason.STOPPED)}, NOW)
    assert (made.tasks[0].state, made.tasks[0].reason) == (TaskState.CANCELLED, Reason.CANCELLED)
    assert made.again is None


def test_settle_worker_that_failed_by_itself_counts_though_its_gang_makes_room() -> None:
    job = changed(a_job(2), {"halt": a_halt(Reason.PREEMPTED)})
    failed = a_task(0, TaskState.FAILED, reason=Reason.EXIT_CODE, exit_code=1)
    stopping = a_task(1, TaskState.STOPPING, reason=Reason.PREEMPTED)
    made = settling.settle(job, [failed, stopping], {stopping.id: ended(1, EndReason.STOPPED)}, NOW)
    assert made.again is None
    shown = rules.status(job, [failed, *made.tasks])
    assert (shown.state, shown.reason) == (JobState.FAILED, Reason.EXIT_CODE)


def test_settle_failed_worker_stops_its_peers_and_then_retries_once() -> None:
    job = a_job(2, max_retries=1)
    failed = ended(0, EndReason.EXIT_CODE, exit_code=3)
    made = settling.settle(job, [a_task(0), a_task(1)], {"job_a.1.0": failed}, NOW)
    first, second = sorted(made.tasks, key=lambda task: task.rank)
    assert (first.state, first.exit_code, first.message) == (TaskState.FAILED, 3, "exited with code 3")
    assert (second.state, second.reason) == (TaskState.STOPPING, Reason.PEER_FAILED)
    assert made.stop == ("job_a.1.1",) and made.again is None
    over = settling.settle(job, [first, second], {"job_a.1.1": ended(1, EndReason.STOPPED)}, NOW)
    assert over.again is Reason.NONE
    spent = settling.settle(changed(job, {"attempt": 2}), [first, second], {"job_a.1.1": ended(1)}, NOW)
    assert spent.again is None


def test_settle_out_of_memory_is_not_retried() -> None:
    made = settling.settle(a_job(max_retries=5), [a_task()], {"job_a.1.0": ended(reason=EndReason.OUT_OF_MEMORY)}, NOW)
    assert made.tasks[0].state is TaskState.FAILED and made.again is None


def test_settle_refused_request_is_not_retried_and_speaks_for_its_gang() -> None:
    seen = {
        "job_a.1.0": ended(0, EndReason.EXIT_CODE, exit_code=1, ended_at=1.0),
        "job_a.1.1": ended(1, EndReason.REFUSED, exit_code=2, ended_at=2.0, message="no column 'x'"),
    }
    made = settling.settle(a_job(2, max_retries=5), [a_task(0), a_task(1)], seen, NOW)
    assert made.again is None
    shown = rules.status(a_job(2), made.tasks)
    assert (shown.reason, shown.message) == (Reason.REFUSED, "Worker 1 of 2: no column 'x'")
    assert "not retried" in shown.next_action


def test_settle_intent_without_launch_asks_for_launch() -> None:
    task = a_task(state=TaskState.STARTING)
    absent = Observation(task_id=task.id, phase=TaskPhase.ABSENT)
    assert settling.settle(a_job(), [task], {task.id: absent}, NOW).launch == (task.id,)


def test_running_task_that_its_engine_knows_no_more_is_lost_and_tried_again() -> None:
    """Its folder was removed from outside: it would run, and hold its room, for ever."""
    job, task = a_job(max_retries=1), a_task(started_at=5.0)
    absent = Observation(task_id=task.id, phase=TaskPhase.ABSENT)
    settled = settling.settle(job, [task], {task.id: absent}, NOW)
    (lost,) = settled.tasks
    assert (lost.state, lost.reason, lost.ended_at) == (TaskState.FAILED, Reason.SHIM_LOST, NOW)
    assert lost.message
    assert (settled.again, settled.launch) == (Reason.NONE, ())


def test_time_limit_is_no_spent_budget_because_two_clocks_differ_a_little() -> None:
    job = a_job(max_duration_s=3_600.0, budget_usd=5.0)
    task = a_task(started_at=1_000.0)
    for ran_s, reason in ((3_598.5, Reason.TIME_LIMIT), (3_000.0, Reason.BUDGET_EXHAUSTED)):
        seen = ended(reason=EndReason.TIME_LIMIT, started_at=1_000.0, ended_at=1_000.0 + ran_s)
        (after,) = settling.settle(job, [task], {task.id: seen}, NOW).tasks
        assert after.reason is reason
