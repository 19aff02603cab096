"""Decisions about one endpoint, over every situation that Hypothesis can think of."""

from hypothesis import given
from hypothesis import strategies as st

from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.serving import rules
from skyloom.rooms.serving.model import Endpoint, EndpointState, Replica, ReplicaState
from skyloom.rooms.serving.rules import FAILURE_WINDOW_S, LOOP_FAILURES, SILENT_S, Seen, Situation, reconcile, state_of

NOW = 10_000.0


def endpoint(num_replicas=2, revision=2, stopped_by="") -> Endpoint:
    return Endpoint(
        id="ep",
        project="p",
        name="toy",
        model="toy",
        revision=revision,
        num_replicas=num_replicas,
        created_at=0.0,
        created_by="me",
        stopped_by=stopped_by,
    )


def replica(number=0, revision=2, **changes) -> Replica:
    made = Replica(
        id=f"rep_{number}",
        project="p",
        endpoint_id="ep",
        revision_id=f"rev_{revision}",
        revision_number=revision,
        job_id=f"job_{number}",
        created_at=float(number),
    )
    return changed(made, changes)


def seen(number=0, revision=2, job=JobState.RUNNING, ready=True, stopped=False, **facts) -> Seen:
    return Seen(replica(number, revision, stopped_at=5.0 if stopped else None), job, ready, **facts)


SEEN = st.builds(
    seen,
    number=st.integers(0, 1_000),
    revision=st.integers(1, 2),
    job=st.sampled_from([None, *JobState]),
    ready=st.booleans(),
    stopped=st.booleans(),
    silent_s=st.sampled_from([0.0, SILENT_S + 1]),
    waits=st.booleans(),
)
SITUATIONS = st.builds(
    Situation,
    st.builds(endpoint, st.integers(1, 4), st.just(2), st.sampled_from(["", "", "me"])),
    st.lists(SEEN, max_size=8, unique_by=lambda item: item.replica.id),
    st.lists(
        st.builds(
            lambda n, at: replica(n, 2, failed=True, ended_at=at, message="why"),
            st.integers(2_000, 3_000),
            st.floats(NOW - 400, NOW),
        ),
        max_size=8,
    ),
)


@given(SITUATIONS)
def test_reconcile_never_stops_what_is_needed_nor_starts_too_many(situation):
    steps = reconcile(situation, NOW)
    wanted = situation.endpoint.num_replicas
    stopped = {item.id for item in steps.stop}
    alive = [item for item in situation.seen if item.wanted and item.replica.id not in stopped]
    current = [item for item in alive if item.replica.revision_number == 2]
    if situation.endpoint.stopped_by:
        assert not alive and not steps.num_starts
        return
    assert len(current) + steps.num_starts <= wanted
    assert len(current) + steps.num_starts == wanted or steps.wait_s is not None
    answering_before = [item for item in situation.seen if item.answers and item.silent_s <= SILENT_S]
    answering_after = [item for item in alive if item.answers]
    makes_room = any(item.waits for item in situation.seen if item.wanted and item.replica.revision_number == 2)
    floor = 1 if makes_room else wanted
    assert len(answering_after) >= min(floor, len(answering_before))


@given(SITUATIONS)
def test_reconcile_writes_each_replica_at_most_once_and_only_forward(situation):
    steps = reconcile(situation, NOW)
    written = [item.id for item in (*steps.ended, *steps.stop)]
    assert len(written) == len(set(written))
    by_id = {item.replica.id: item for item in situation.seen}
    assert all(by_id[item.id].ended and item.ended_at == NOW for item in steps.ended)
    assert all(by_id[item.id].wanted and item.stopped_at == NOW for item in steps.stop)
    assert {item.id for item in steps.ended} == {key for key, item in by_id.items() if item.ended}


@given(SITUATIONS, st.integers(0, 30))
def test_world_that_does_what_it_is_told_converges(situation, seed):
    """Apply the steps, let jobs start, answer and end, and look again: soon there is nothing left to do."""
    names = iter(range(5_000, 9_000))
    running = list(situation.seen)
    failures = list(situation.failures)
    now = NOW
    for _ in range(40):
        steps = reconcile(Situation(situation.endpoint, running, failures), now)
        over = {item.id for item in steps.ended}
        failures += [item for item in steps.ended if item.failed]
        told = {item.id: item for item in steps.stop}
        running = [
            Seen(told.get(item.replica.id, item.replica), item.job, item.ready)
            for item in running
            if item.replica.id not in over
        ]
        running += [Seen(replica(next(names)), JobState.QUEUED) for _ in range(steps.num_starts)]
        running = [_lived(item) for item in running]
        now += 30
    wanted = 0 if situation.endpoint.stopped_by else situation.endpoint.num_replicas
    assert len(running) == wanted
    assert all(item.answers and item.replica.revision_number == 2 for item in running)
    assert reconcile(Situation(situation.endpoint, running, failures), now).nothing
    expected = EndpointState.STOPPED if situation.endpoint.stopped_by else EndpointState.READY
    assert state_of(Situation(situation.endpoint, running, failures), now)[0] is expected


def _lived(item: Seen) -> Seen:
    """One more step of a job's life."""
    if item.replica.stopped_at is not None or item.ended:
        return Seen(item.replica, JobState.CANCELLED if not item.ended else item.job)
    return Seen(item.replica, JobState.RUNNING, ready=item.job is JobState.RUNNING)


def test_first_failure_is_replaced_at_once_and_later_ones_after_growing_pauses():
    def pause(count):
        failed = [replica(n, 2, failed=True, ended_at=NOW) for n in range(count)]
        steps = reconcile(Situation(endpoint(1), (), failed), NOW)
        assert steps.num_starts == (0 if steps.wait_s else 1)
        return steps.wait_s

    assert [pause(count) for count in range(10)] == [None, None, 1, 2, 4, 8, 16, 32, 60, 60]


def test_replicas_killed_after_they_had_answered_are_replaced_at_once_and_are_no_crash_loop():
    killed = [replica(n, 2, created_at=NOW - 20, failed=True, worked=True, ended_at=NOW) for n in range(30)]
    assert reconcile(Situation(endpoint(1), (), killed), NOW).num_starts == 1
    assert state_of(Situation(endpoint(1), (), killed), NOW)[0] is EndpointState.STARTING
    never_answered = [changed(each, {"worked": False}) for each in killed]
    assert reconcile(Situation(endpoint(1), (), never_answered), NOW).wait_s == 60


def test_replica_that_dies_young_beside_others_that_answer_is_replaced_after_a_second():
    failed = [replica(n, 2, created_at=NOW - 2, failed=True, worked=True, ended_at=NOW) for n in range(30)]
    assert reconcile(Situation(endpoint(2), [seen(90)], failed), NOW).wait_s == 1
    assert state_of(Situation(endpoint(2), [seen(90)], failed), NOW)[0] is EndpointState.DEGRADED


def test_whether_a_replica_answered_until_it_ended_is_written_with_its_end():
    for ready in (True, False):
        (written,) = reconcile(Situation(endpoint(1), [seen(job=JobState.FAILED, ready=ready)]), NOW).ended
        assert written.worked is ready


def test_failures_of_an_old_revision_or_of_long_ago_hold_nothing_back():
    failed = [replica(n, 1, failed=True, ended_at=NOW) for n in range(9)]
    failed += [replica(n + 10, 2, failed=True, ended_at=NOW - FAILURE_WINDOW_S - 1) for n in range(9)]
    assert reconcile(Situation(endpoint(2), (), failed), NOW).num_starts == 2


def test_clock_set_back_holds_a_start_no_longer_than_its_pause():
    failed = [replica(n, 2, failed=True, ended_at=NOW + 9_999) for n in range(3)]
    assert reconcile(Situation(endpoint(1), (), failed), NOW).wait_s <= 2


def test_replica_that_exits_by_itself_has_failed_even_with_exit_code_0():
    (written,) = reconcile(Situation(endpoint(1), [seen(job=JobState.SUCCEEDED, last_words="bye")]), NOW).ended
    assert (written.failed, written.message) == (True, "bye")


def test_replica_that_was_told_to_end_has_not_failed():
    (written,) = reconcile(Situation(endpoint(1), [seen(job=JobState.CANCELLED, stopped=True)]), NOW).ended
    assert not written.failed


def test_silent_replica_is_stopped_as_failed_and_replaced():
    steps = reconcile(Situation(endpoint(1), [seen(silent_s=SILENT_S + 1)]), NOW)
    assert steps.stop[0].failed
    assert steps.num_starts == 1


def test_new_revision_takes_over_one_by_one():
    old = [seen(1, revision=1), seen(2, revision=1)]
    starting = reconcile(Situation(endpoint(2), old), NOW)
    assert (starting.num_starts, starting.stop) == (2, ())
    half = reconcile(Situation(endpoint(2), [*old, seen(3), seen(4, ready=False)]), NOW)
    assert len(half.stop) == 1
    done = reconcile(Situation(endpoint(2), [*old, seen(3), seen(4)]), NOW)
    assert {item.id for item in done.stop} == {"rep_1", "rep_2"}


def test_new_revision_without_room_takes_one_old_place_at_a_time():
    waiting = seen(3, job=JobState.QUEUED, ready=False, waits=True)
    old = [seen(1, revision=1), seen(2, revision=1)]
    assert len(reconcile(Situation(endpoint(2), [*old, waiting]), NOW).stop) == 1
    leaving = seen(1, revision=1, stopped=True)
    assert not reconcile(Situation(endpoint(2), [leaving, old[1], waiting]), NOW).stop
    assert not reconcile(Situation(endpoint(1), [old[1], waiting]), NOW).stop


def test_endpoint_says_why_it_is_not_ready():
    failed = [replica(n, 2, failed=True, ended_at=NOW, message="segfault") for n in range(LOOP_FAILURES)]
    state, message, action = state_of(Situation(endpoint(), (), failed), NOW)
    assert state is EndpointState.CRASH_LOOP
    assert "segfault" in message and f"skyloom job logs {failed[-1].job_id}" in action and "endpoint stop toy" in action
    waiting = [seen(1), seen(2, job=JobState.QUEUED, ready=False, waits=True)]
    state, message, _ = state_of(Situation(endpoint(), waiting), NOW)
    assert (state, "waits for resources" in message) == (EndpointState.DEGRADED, True)
    assert state_of(Situation(endpoint(), [seen(1, ready=False)]), NOW)[0] is EndpointState.STARTING
    assert state_of(Situation(endpoint(stopped_by="me"), [seen(1, stopped=True)]), NOW)[0] is EndpointState.STOPPING


def test_replica_state_follows_its_job_and_reports():
    assert seen(job=None).state is ReplicaState.ENDED
    assert seen(stopped=True).state is ReplicaState.STOPPING
    assert seen(ready=False).state is ReplicaState.STARTING
    assert seen().state is ReplicaState.READY
    assert rules.Steps().nothing
