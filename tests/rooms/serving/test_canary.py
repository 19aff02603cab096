"""A canary's decisions, and the fleet that carries them out, over every situation that Hypothesis can think of."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.resources import Resources
from skyloom.ports.store import changed
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.monitoring.model import Latency
from skyloom.rooms.quality.model import QualityCount
from skyloom.rooms.serving import fleet
from skyloom.rooms.serving.canary import CanaryMove, Watched, decide, judge, judge_labels, slower_than, split_of
from skyloom.rooms.serving.model import Revision
from skyloom.rooms.serving.routes import RevisionTraffic
from skyloom.rooms.serving.routing import effective, route_of
from skyloom.rooms.serving.rules import SILENT_S, Seen, Situation
from skyloom.rooms.serving.split import (
    CANARY_MOVES,
    LIVE_CANARY,
    Canary,
    CanaryPlan,
    CanaryState,
    Fallback,
    Front,
    TrafficSplit,
)
from tests.rooms.serving.test_rules import endpoint, replica

NOW = 10_000.0
PLAN = CanaryPlan(steps=(1.0, 10.0, 50.0), step_s=60.0, min_requests=50)


def canary(**changes) -> Canary:
    made = Canary(
        id="canary",
        project="p",
        endpoint_id="ep",
        number=2,
        stable=1,
        plan=PLAN,
        step_at=0.0,
        created_at=0.0,
        created_by="me",
    )
    return changed(made, changes)


def traffic(requests, errors=0, place=40) -> RevisionTraffic:
    return RevisionTraffic(requests=requests, server_errors=errors, latency=Latency(counts={place: requests}))


SEEN = st.builds(
    Watched,
    since=st.one_of(st.none(), st.floats(NOW - 200, NOW)),
    crashes=st.integers(0, 4),
    last_words=st.just("segfault"),
    stable=st.builds(traffic, st.integers(0, 5_000), st.integers(0, 20), st.integers(30, 60)),
    fresh=st.builds(traffic, st.integers(20, 500), st.integers(0, 20), st.integers(30, 60)),
    drift=st.sampled_from(["", "", "pixel mean has moved"]),
)
CANARIES = st.builds(
    lambda state, step, shadow: canary(state=state, step=step, plan=msgspec.structs.replace(PLAN, shadow=shadow)),
    st.sampled_from(CanaryState),
    st.integers(0, 2),
    st.booleans(),
)


@given(CANARIES, SEEN)
def test_each_decision_is_a_legal_move_with_a_sentence_and_at_most_one_step(one, seen):
    move = decide(one, seen, NOW)
    if not one.live:
        assert move is None
    if move is not None:
        CANARY_MOVES.check(one.id, one.state, move.state)
        assert move.message.endswith(".") or move.state is CanaryState.ROLLED_BACK
        assert 0 <= move.step - one.step <= 1 and move.step < one.plan.num_steps


@given(CANARIES, SEEN)
def test_replay_of_a_decision_is_the_same_decision(one, seen):
    assert decide(one, seen, NOW) == decide(one, seen, NOW)


@given(st.sampled_from(LIVE_CANARY), st.integers(0, 2), SEEN)
def test_rollback_is_reached_from_every_live_state(state, step, seen):
    crashing = Watched(since=seen.since, crashes=3, last_words="segfault", stable=seen.stable, fresh=seen.fresh)
    move = decide(canary(state=state, step=step), crashing, NOW)
    assert move is not None and move.state is CanaryState.ROLLED_BACK and "segfault" in move.message
    assert all(CanaryState.ROLLED_BACK in CANARY_MOVES.table[one] for one in (*LIVE_CANARY, CanaryState.PROMOTED))


@given(st.integers(0, 2), st.booleans(), st.dictionaries(st.integers(1, 5), st.floats(0, 100), min_size=1))
def test_split_of_a_step_gives_the_canary_its_percent_and_nobody_else_anything(step, shadow, before):
    one = canary(plan=msgspec.structs.replace(PLAN, shadow=shadow))
    split = split_of(one, TrafficSplit(shares=before), step)
    assert set(split.weighted) <= {1, 2}
    assert abs(sum(split.weighted.values()) - 1.0) < 1e-9
    assert abs(split.weighted.get(2, 0.0) * 100 - one.plan.percent(step)) < 1e-9
    assert split.shadows == ({2: 1.0} if shadow and step == 0 else {})


def test_life_of_a_canary_never_exceeds_its_step_and_ends():
    one, steps, at = canary(), [], NOW
    for _ in range(20):
        seen = Watched(since=at - 61, stable=traffic(5_000), fresh=traffic(60))
        move = decide(one, seen, at)
        if move is None or not one.live:
            break
        one = changed(one, {"state": move.state, "step": move.step})
        steps.append((move.state, move.step))
    assert steps == [
        (CanaryState.STEPPING, 0),
        (CanaryState.STEPPING, 1),
        (CanaryState.STEPPING, 2),
        (CanaryState.PROMOTED, 2),
    ]


def test_too_little_traffic_waits_once_and_goes_on_when_there_is_some():
    seen = Watched(since=NOW - 61, fresh=traffic(12))
    move = decide(canary(state=CanaryState.STEPPING), seen, NOW)
    assert move == CanaryMove(CanaryState.WAITING, 0, move.message) and "12 of 50 requests" in move.message
    assert decide(canary(state=CanaryState.WAITING), seen, NOW) is None
    assert decide(canary(state=CanaryState.WAITING), Watched(since=NOW - 61, fresh=traffic(50)), NOW).step == 1


def test_no_worse_is_never_judged_worse_more_often_than_promised():
    """Two alike that err in two of a hundred, looked at after every ten requests."""
    dice, alarms, runs = random.Random(3), 0, 100
    one = canary(state=CanaryState.STEPPING, step=1, plan=msgspec.structs.replace(PLAN, false_alarm=0.05))
    for _ in range(runs):
        errors, requests = [0, 0], [0, 0]
        for turn in range(1_000):
            which = int(dice.random() < 0.1)
            requests[which] += 1
            errors[which] += dice.random() < 0.02
            if turn % 10 == 0 and judge(one, traffic(requests[0], errors[0]), traffic(requests[1], errors[1])):
                alarms += 1
                break
    assert alarms <= 0.05 * runs


def test_errors_are_judged_against_the_stable_revision_and_against_the_bound():
    one = canary(state=CanaryState.STEPPING, step=1)
    assert judge(one, traffic(900, 0), traffic(100, 12))
    assert judge(one, traffic(900, 108), traffic(100, 12)) == "", "both err alike: it is not the new one's fault"
    bound = canary(state=CanaryState.STEPPING, step=1, plan=msgspec.structs.replace(PLAN, max_error_rate=0.02))
    words = judge(bound, traffic(900, 108), traffic(100, 12))
    assert "12 of 100" in words and "2.00% are allowed" in words


def test_latency_is_judged_by_the_bound_and_by_the_stable_revision():
    fast, slow = 40, 50  # bins: about 7.5 ms and 70 ms
    one = canary(state=CanaryState.STEPPING, step=1)
    assert "times that is allowed" in judge(one, traffic(2_000, place=fast), traffic(60, place=slow))
    assert judge(one, traffic(2_000, place=fast), traffic(60, place=fast)) == ""
    assert judge(one, traffic(20, place=fast), traffic(60, place=slow)) == "", "a p99 of twenty requests is none"
    bound = canary(state=CanaryState.STEPPING, step=1, plan=msgspec.structs.replace(PLAN, max_p99_s=0.02))
    assert "p99 of 0.02 s is allowed" in judge(bound, traffic(0), traffic(60, place=slow))
    assert slower_than(Latency(counts={fast: 3, slow: 4}), 0.02) == 4


def labelled(wrong, rows):
    return QualityCount(labelled=rows, right=rows - wrong)


def test_wrong_answers_are_judged_against_the_stable_revision_and_against_the_bound():
    one = canary(state=CanaryState.STEPPING, step=1)
    words = judge_labels(one, labelled(20, 400), labelled(30, 60))
    assert "30 of 60 rows with a label" in words and "20 of 400" in words
    assert judge_labels(one, labelled(200, 400), labelled(30, 60)) == "", "both are as often wrong"
    assert judge_labels(one, labelled(0, 19), labelled(19, 19)) == "", "a handful of labels proves nothing"
    bound = canary(state=CanaryState.STEPPING, step=1, plan=msgspec.structs.replace(PLAN, max_wrong_rate=0.1))
    assert "10.00% are allowed" in judge_labels(bound, labelled(0, 0), labelled(30, 60))


def test_revision_as_often_wrong_is_never_rolled_back_more_often_than_promised():
    dice, alarms, runs = random.Random(5), 0, 60
    one = canary(state=CanaryState.STEPPING, plan=msgspec.structs.replace(PLAN, false_alarm=0.05))
    for _ in range(runs):
        wrong, rows = [0, 0], [0, 0]
        for turn in range(600):
            which = int(dice.random() < 0.3)
            rows[which] += 1
            wrong[which] += dice.random() < 0.2
            if turn % 10 == 0 and judge_labels(one, labelled(wrong[0], rows[0]), labelled(wrong[1], rows[1])):
                alarms += 1
                break
    assert alarms <= 0.05 * runs


def test_canary_waits_for_its_labels():
    one = canary(state=CanaryState.STEPPING, plan=msgspec.structs.replace(PLAN, min_labels=10))
    move = decide(one, Watched(since=NOW - 61, fresh=traffic(60), fresh_labels=labelled(0, 3)), NOW)
    assert move.state is CanaryState.WAITING and "3 of 10 rows of revision 2 have one" in move.message
    assert decide(one, Watched(since=NOW - 61, fresh=traffic(60), fresh_labels=labelled(0, 10)), NOW).step == 1


# The fleet


def seen(number, revision, private, ready=True, stopped=False, job=JobState.RUNNING, **facts) -> Seen:
    made = replica(number, revision, private=private, stopped_at=5.0 if stopped else None)
    return Seen(made, job, ready, port=50_000 + number if private and ready else 0, **facts)


FLEET = st.lists(
    st.builds(
        seen,
        number=st.integers(0, 10_000),
        revision=st.integers(1, 3),
        private=st.booleans(),
        ready=st.booleans(),
        stopped=st.booleans(),
        job=st.sampled_from([JobState.RUNNING, JobState.RUNNING, JobState.QUEUED, JobState.FAILED]),
        silent_s=st.sampled_from([0.0, 0.0, SILENT_S + 1]),
        waits=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda item: item.replica.id,
)
SPLITS = st.builds(
    TrafficSplit,
    shares=st.dictionaries(st.integers(1, 3), st.sampled_from([0.0, 1.0, 9.0, 90.0]), min_size=1).filter(
        lambda shares: sum(shares.values()) > 0
    ),
)
SITUATIONS = st.builds(
    lambda count, force, coming, kept, front, items, listens: Situation(
        changed(
            endpoint(count, revision=3),
            {
                "rest_port": 40_000,
                "split": force,
                "coming": coming,
                "fallback": kept,
                "front": Front.GATEWAY if coming or not force.is_plain else front,
            },
        ),
        items,
        listens=listens,
    ),
    st.integers(1, 4),
    SPLITS,
    st.one_of(st.none(), SPLITS),
    st.one_of(st.none(), st.builds(Fallback, number=st.integers(1, 3), until=st.sampled_from([0.0, NOW + 100]))),
    st.sampled_from(Front),
    FLEET,
    st.booleans(),
)


def reached(now_is, items) -> int:
    """How many answer and are asked: at the endpoint's ports, or behind a gateway that listens there."""
    weighted = now_is.endpoint.in_force.weighted
    behind = now_is.listens
    return sum(
        item.answers and (behind and item.replica.revision_number in weighted if item.replica.private else True)
        for item in items
    )


@given(SITUATIONS)
def test_steps_stop_nobody_whom_the_split_in_force_needs(situation):
    steps = fleet.reconcile(situation, NOW)
    gone = {item.id for item in (*steps.stop, *steps.ended)}
    left = [item for item in situation.seen if item.replica.id not in gone]
    answered = [item for item in situation.seen if item.answers and item.silent_s <= SILENT_S]
    if reached(situation, answered) > 0:
        assert reached(situation, left) > 0
    if situation.endpoint.front is Front.GATEWAY and situation.listens:
        for number, part in situation.endpoint.in_force.weighted.items():
            need = -(-situation.endpoint.num_replicas * part // 1) if part < 1 else situation.endpoint.num_replicas
            before = sum(item.replica.revision_number == number and item.replica.private for item in answered)
            after = sum(
                item.answers and item.replica.revision_number == number and item.replica.private for item in left
            )
            assert after >= min(before, need)


def test_what_is_kept_for_going_back_makes_room_for_what_waits():
    one = changed(
        endpoint(1, revision=2),
        {"front": Front.GATEWAY, "split": TrafficSplit(shares={2: 1}), "fallback": Fallback(number=1, until=NOW + 60)},
    )
    waiting = seen(2, 2, True, ready=False, job=JobState.QUEUED, waits=True)
    assert fleet.reconcile(Situation(one, [seen(1, 1, True), waiting], listens=True), NOW).drop_fallback
    assert not fleet.reconcile(Situation(one, [seen(1, 1, True), seen(2, 2, True)], listens=True), NOW).drop_fallback


@pytest.mark.parametrize(("stable", "makes_room"), [(2, True), (1, False)])
def test_what_is_kept_makes_room_for_a_canary_that_would_not_go_back_to_it(stable: int, makes_room: bool):
    kept = Fallback(number=1, until=NOW + 60)
    one = changed(
        endpoint(1, revision=3), {"front": Front.GATEWAY, "split": TrafficSplit(shares={2: 1}), "fallback": kept}
    )
    held = [seen(1, 1, True), seen(2, 2, True), seen(3, 3, True, ready=False, job=JobState.QUEUED, waits=True)]
    situation = Situation(one, held, listens=True, canary=canary(number=3, stable=stable))
    assert fleet.reconcile(situation, NOW).drop_fallback is makes_room


@given(SITUATIONS)
def test_row_of_the_table_conserves_the_traffic(situation):
    revisions = {
        number: Revision(
            id=f"rev_{number}",
            project="p",
            endpoint_id="ep",
            number=number,
            model_version="mv",
            version_label="1",
            resources=msgspec.convert({}, Resources),
            files={},
            created_at=0.0,
        )
        for number in (1, 2, 3)
    }
    row = route_of(situation, revisions, "/access")
    assert sum(share.weight for share in row.shares) > 0
    backed = {share.number for share in row.shares if share.backends}
    weighted = situation.endpoint.in_force.weighted
    if backed & set(weighted):
        assert all(share.backends for share in row.shares if share.weight > 0), "nobody is sent where nobody is"
    told = {item.replica.id for item in situation.seen if not item.wanted}
    assert not told & {backend.replica for share in row.shares for backend in share.backends}


@given(st.dictionaries(st.integers(1, 5), st.floats(0, 100), min_size=1), st.sets(st.integers(1, 5)))
def test_effective_weights_keep_the_proportions_of_those_who_answer(shares, answering):
    found = effective(shares, answering)
    assert sum(found.values()) > 0 or sum(shares.values()) == 0
    assert all(found[number] in (0.0, weight) for number, weight in shares.items())


@given(SITUATIONS, st.integers(0, 40))
def test_world_that_does_what_it_is_told_settles_without_a_moment_in_which_nobody_answers(situation, _):
    """Steps are carried out, jobs start, answer and end, the gateway obeys; splits come into force; soon there is nothing left to do."""
    names = iter(range(20_000, 40_000))
    items = [seen(next(names), number, True) for number in situation.endpoint.in_force.weighted]
    if situation.endpoint.front is Front.DIRECT:
        items = [seen(next(names), situation.endpoint.current, False) for _ in range(situation.endpoint.num_replicas)]
    now_is = Situation(situation.endpoint, items, listens=situation.endpoint.front is Front.GATEWAY)
    now = NOW
    for _ in range(60):
        one = now_is.endpoint
        if fleet.takes_over(now_is):
            one = changed(one, {"split": one.coming, "coming": None})
        front = Front.GATEWAY if fleet.needs_gateway(one, None, now) else Front.DIRECT
        now_is = Situation(changed(one, {"front": front}), now_is.seen, listens=now_is.listens)
        listens = fleet.published(now_is)
        steps = fleet.reconcile(now_is, now)
        told, over = {item.id: item for item in steps.stop}, {item.id for item in steps.ended}
        left = [
            Seen(told.get(item.replica.id, item.replica), item.job, item.ready, port=item.port)
            for item in now_is.seen
            if item.replica.id not in over
        ]
        assert reached(now_is, left) > 0, "somebody is always there"
        left += [
            seen(next(names), start.number, start.private, ready=False, job=JobState.QUEUED)
            for start in steps.starts
            for _ in range(start.count)
        ]
        now_is, now = Situation(now_is.endpoint, [lived(item) for item in left], listens=listens), now + 10
    final = now_is.endpoint
    assert final.coming is None and fleet.reconcile(now_is, now).nothing
    assert final.front is (Front.DIRECT if final.in_force.is_plain else Front.GATEWAY)
    expected = {final.current: final.num_replicas} if final.front is Front.DIRECT else fleet.counts(final, None, now)
    held = [item.replica.revision_number for item in now_is.seen]
    assert {number: held.count(number) for number in set(held)} == expected


def lived(item: Seen) -> Seen:
    """One more step of a replica's life."""
    if item.replica.stopped_at is not None or item.ended:
        return Seen(item.replica, JobState.CANCELLED if not item.ended else item.job)
    ready = item.job is JobState.RUNNING
    port = 50_000 + int(item.replica.id.removeprefix("rep_")) % 10_000 if item.replica.private and ready else 0
    return Seen(item.replica, JobState.RUNNING, ready=ready, port=port)
