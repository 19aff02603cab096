"""Triggers with the room's own clock: every event once and in order, loops end, rights are looked at each time."""

import msgspec
import pytest

from skyloom.core.errors import SkyloomError
from skyloom.core.events import (
    BudgetReached,
    DatasetVersionMade,
    EndpointRolledBack,
    Event,
    EventBody,
    JobEnded,
    ModelRegistered,
    Moved,
    Noted,
    Origin,
    TriggerEvent,
)
from skyloom.core.operation import Caller
from skyloom.ports.door import EVENTS
from skyloom.ports.engine import Command
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.functions import model as functions
from skyloom.rooms.functions.model import InvocationState
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.ports import JOBS, TASKS
from skyloom.rooms.pools.model import LOCAL, Pool
from skyloom.rooms.templates.model import ApplyTemplate, TemplateJob
from skyloom.rooms.tenancy import model as tenancy_model
from skyloom.rooms.tenancy.model import Role
from skyloom.rooms.triggers import model, rules
from skyloom.rooms.triggers.model import (
    Happening,
    RunBatch,
    RunFunction,
    RunTemplateJob,
    TriggerState,
    TriggerStatus,
    When,
)
from skyloom.rooms.triggers.ports import HOOK_BODIES, HOOK_ROOM, HOOKS_SEEN
from skyloom.sdk.triggers import signature_of
from tests.rooms.functions.workroom import GREET, ON_EVENT, Workroom
from tests.rooms.serving.bench import ME, Crash

MADE = DatasetVersionMade(dataset="digits", number=1)
FUNCTION = RunFunction(function="hello")


@pytest.fixture
def room() -> Workroom:
    return Workroom(ON_EVENT)


def create(
    room: Workroom, kind: Happening = Happening.DATASET_VERSION, by: Caller | None = None, **more: object
) -> model.IssuedTrigger:
    run = more.pop("run", FUNCTION)
    per_hour = more.pop("max_per_hour", 600)
    ask = model.CreateTrigger(name="t", when=When(kind=kind, **more), run=run, max_per_hour=per_hour)  # type: ignore[arg-type]
    return room.do(ask, by)  # type: ignore[return-value]


def show(room: Workroom) -> TriggerStatus:
    return room.do(model.GetTrigger(name="t"))  # type: ignore[return-value]


def run(room: Workroom, rounds: int = 1, status: int = 200) -> None:
    """Let both loops work, and every call be answered."""
    for _ in range(rounds):
        room.triggers.tick()
        room.functions.tick()
        while room.errands.waiting and len(room.errands.waiting) > len(room.errands._results):
            room.errands.answer(status, b'{"error":"no"}')
        room.functions.tick()
        room.clock.advance(1)


def told(room: Workroom) -> list[TriggerEvent]:
    return [msgspec.convert(msgspec.json.decode(errand.body)["event"], TriggerEvent) for errand in room.errands.begun]


@pytest.mark.parametrize(
    ("kind", "subject", "body", "facts"),
    [
        (Happening.DATASET_VERSION, "dataset_1", MADE, {"dataset": "digits", "version": "1", "job": ""}),
        (Happening.MODEL_VERSION, "version_1", ModelRegistered(model="m", number=2), {"model": "m", "version": "2"}),
        (
            Happening.JOB_ENDED,
            "job_1",
            JobEnded(state="failed", reason="exit_code"),
            {"job": "job_1", "name": "", "state": "failed", "reason": "exit_code", "user": ""},
        ),
        (
            Happening.ALERT,
            "alert_1",
            Moved(before="", after="firing"),
            {"alert": "alert_1", "about": "", "signal": "", "state": "firing"},
        ),
        (
            Happening.BUDGET,
            "budget_1",
            BudgetReached(budget="b", threshold=0.8, share=0.9, message=""),
            {"budget": "b", "threshold": "80", "over": "false"},
        ),
        (
            Happening.ROLLBACK,
            "ep_1",
            EndpointRolledBack(endpoint="e", revision=1, automatic=True),
            {"endpoint": "e", "revision": "1", "automatic": "true"},
        ),
    ],
)
def test_each_kind_of_event_calls_the_function_once_and_says_what_happened(
    room: Workroom, kind: Happening, subject: str, body: EventBody, facts: dict[str, str]
) -> None:
    room.happen(subject, body)  # before anybody waited for it
    create(room, kind)
    room.happen(subject, Noted(message="x"))
    room.happen(subject, body)
    run(room, 3)
    (event,) = told(room)
    assert (event.kind, event.subject, event.facts, event.depth) == (kind.value, subject, facts, 1)
    assert set(facts) == set(model.FIELDS[kind])
    status = show(room)
    assert (status.trigger.num_delivered, [one.state for one in status.deliveries]) == (1, [InvocationState.SUCCEEDED])
    assert event.id == status.deliveries[0].delivery.id and event.cause == status.deliveries[0].delivery.began


def test_function_that_falls_asleep_does_not_wake_itself(room: Workroom) -> None:
    create(room, Happening.JOB_ENDED)
    for job in room.disk.read(lambda view: view.select(JOBS)):
        room.happen(job.id, JobEnded(state="succeeded"))
    assert room.disk.read(lambda view: view.count(JOBS))
    run(room, 3)
    assert not room.errands.begun


def test_events_of_other_projects_and_filters_are_passed_over(room: Workroom) -> None:
    create(room, where={"dataset": "dig*", "version": "2"})
    for dataset, number in (("digits", 1), ("others", 2), ("digits", 2), ("digits", 22)):
        room.happen("dataset_1", DatasetVersionMade(dataset=dataset, number=number))
    room.store.write(
        lambda tx: room.outbox.publish(tx, "q", "dataset_2", DatasetVersionMade(dataset="digits", number=2))
    )
    run(room, 3)
    assert [event.facts["version"] for event in told(room)] == ["2"]


def test_next_event_waits_until_the_call_of_the_one_before_has_ended(room: Workroom) -> None:
    create(room)
    for number in range(3):
        room.happen("dataset_1", DatasetVersionMade(dataset="digits", number=number))
    for _ in range(3):
        room.triggers.tick()
        room.functions.tick()
    assert len(room.errands.begun) == 1
    run(room, 40, status=500)  # each fails as often as it may, then the next has its turn
    versions = [event.facts["version"] for event in told(room)]
    assert versions == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert len({event.id for event in told(room)}) == 3
    (dead, *_) = show(room).deliveries
    assert dead.state is InvocationState.DEAD
    room.do(model.Redeliver(name="t", number=dead.delivery.number))
    run(room, 2)
    assert show(room).deliveries[0].state is InvocationState.SUCCEEDED
    with pytest.raises(model.NothingToRepeat):
        room.do(model.Redeliver(name="t", number=dead.delivery.number))


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("phase", ["before", "after"])
def test_control_plane_that_dies_at_any_commit_loses_no_event_and_delivers_none_twice(phase: str, number: int) -> None:
    room = Workroom(ON_EVENT)
    create(room)
    for version in range(2):
        room.happen("dataset_1", DatasetVersionMade(dataset="digits", number=version))
    room.start(phase, number)
    for _ in range(14):
        try:
            run(room)
        except Crash:
            room.start()
            room.clock.advance(1)
    status = show(room)
    assert status.trigger.num_delivered == 2
    assert [one.state for one in status.deliveries] == [InvocationState.SUCCEEDED] * 2
    assert len(room.calls) == 2


def test_trigger_that_sets_itself_off_is_cut_and_says_so(room: Workroom) -> None:
    create(room)
    room.happen("dataset_1", MADE)
    for _ in range(10):
        before = len(room.errands.begun)
        run(room)
        if len(room.errands.begun) > before:  # the function makes a version because of what it was told
            call = told(room)[-1].cause
            by = msgspec.structs.replace(room.me, because=call)
            depth = room.disk.read(lambda view, call=call: next(c.cause for c in room.calls if c.id == call))
            room.store.write(lambda tx, depth=depth: room.outbox.publish(tx, ME.project, "dataset_1", MADE, depth))
            assert by.because
    trigger = show(room).trigger
    assert (trigger.num_delivered, trigger.num_cut) == (model.MAX_DEPTH, 1) and "loop" in trigger.message


def test_what_a_caller_does_because_of_a_call_carries_its_depth_and_anothers_does_not(room: Workroom) -> None:
    create(room)
    room.happen("dataset_1", MADE)
    run(room)
    call = told(room)[0].cause
    mine = msgspec.structs.replace(room.me, because=call)
    theirs = msgspec.structs.replace(room.me, because=call, project="q")
    spec = JobSpec(entry=Command(argv=("true",)))
    ask = ApplyTemplate(name="x", jobs={"a": TemplateJob(spec=spec)})
    for by in (mine, theirs, room.me):
        room.do(ask, by)
        ask = msgspec.structs.replace(ask, name="y")
    causes = [job.cause for job in room.disk.read(lambda view: view.select(JOBS)) if job.spec.name == "a"]
    assert causes == [Origin(id=call, depth=1), None, None]


def test_trigger_that_runs_away_is_paused_and_goes_on_when_somebody_says_so(room: Workroom) -> None:
    create(room, max_per_hour=2)
    for _ in range(4):
        room.happen("dataset_1", MADE)
    run(room, 6)
    trigger = show(room).trigger
    assert (trigger.state, trigger.num_delivered) == (TriggerState.PAUSED, 2) and "2 times" in trigger.message
    room.do(model.ResumeTrigger(name="t"))
    run(room, 6)
    assert show(room).trigger.num_delivered == 4


def test_trigger_stops_when_its_maker_loses_the_right_and_goes_on_with_anothers(room: Workroom) -> None:
    by = room.caller(Role.EDITOR)
    create(room, by=by)
    room.store.write(lambda tx: room.tenancy.revoke_token(tx, tenancy_model.RevokeToken(token_id=by.token_id), by))
    room.happen("dataset_1", MADE)
    run(room, 2)
    trigger = show(room).trigger
    assert trigger.state is TriggerState.STOPPED and "was revoked" in trigger.message and not room.errands.begun
    room.do(model.ResumeTrigger(name="t"))
    run(room, 2)
    assert (len(room.errands.begun), show(room).trigger.owner) == (1, room.me.principal)


def test_trigger_stops_when_its_function_is_gone_and_says_so(room: Workroom) -> None:
    create(room)
    room.do(functions.DeleteFunction(name="hello"))
    room.happen("dataset_1", MADE)
    run(room, 2)
    assert show(room).trigger.state is TriggerState.STOPPED and "no function 'hello'" in show(room).trigger.message


def test_paused_trigger_keeps_events_and_skipping_drops_them(room: Workroom) -> None:
    create(room)
    for skip, expected in ((False, 1), (True, 1)):
        room.do(model.PauseTrigger(name="t"))
        room.happen("dataset_1", MADE)
        run(room, 2)
        room.do(model.ResumeTrigger(name="t", skip=skip))
        run(room, 3)
        assert show(room).trigger.num_delivered == expected


def test_clock_is_an_event_for_its_own_trigger_and_missed_slots_are_one(room: Workroom) -> None:
    create(room, Happening.CRON, cron="* * * * *")
    room.do(model.CreateTrigger(name="u", when=When(kind=Happening.CRON, cron="@yearly"), run=FUNCTION))
    room.clock.advance(600)
    run(room, 4)
    assert len(told(room)) == 1 and told(room)[0].kind == "cron"
    room.clock.advance(60)
    run(room, 3)
    assert len(told(room)) == 2


def test_job_of_a_template_is_run_with_the_event_beside_it(room: Workroom) -> None:
    spec = JobSpec(entry=Command(argv=("true",)), environment={"A": "b"})
    room.do(ApplyTemplate(name="nightly", jobs={"train": TemplateJob(spec=spec), "other": TemplateJob(spec=spec)}))
    with pytest.raises(model.TriggerUnclear, match="Which job"):
        create(room, run=RunTemplateJob(template="nightly"))
    create(room, run=RunTemplateJob(template="nightly", job="train"))
    room.happen("dataset_1", MADE)
    run(room, 2)
    (delivery,) = show(room).deliveries
    job = room.disk.read(lambda view: view.get(JOBS, delivery.delivery.began))
    assert job is not None and job.cause == Origin(id=delivery.delivery.id, depth=1)
    event = msgspec.json.decode(job.spec.environment[model.EVENT_VARIABLE], type=TriggerEvent)
    assert (event.facts["dataset"], job.spec.environment["A"]) == ("digits", "b")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"where": {"colour": "red"}}, "no field 'colour'"),
        ({"cron": "@daily"}, "A clock needs a cron line"),
        ({"kind": Happening.CRON}, "A clock needs a cron line"),
        ({"kind": Happening.CRON, "cron": "0 0 31 2 *"}, "no cron line"),
        ({"run": RunFunction(function="nobody")}, "no function"),
        ({"run": RunTemplateJob(template="nothing")}, "No template"),
    ],
)
def test_what_can_never_happen_or_run_is_refused_when_it_is_made(
    room: Workroom, more: dict[str, object], words: str
) -> None:
    with pytest.raises(SkyloomError, match=words):
        create(room, **more)  # type: ignore[arg-type]


def test_function_that_takes_no_event_is_refused() -> None:
    with pytest.raises(model.TriggerUnclear, match="does not take an event"):
        create(Workroom(GREET))


def test_signed_call_is_one_event_however_often_it_is_sent(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    assert (made.hook, made.secret) == (f"/v1/hooks/{made.trigger.id}", f"s {made.trigger.id}")
    body, now = '{"n": "ü"}'.encode(), room.clock.now()
    signature = signature_of(body, made.secret, now=now)
    taken = {room.triggers.take_call(made.trigger.id, signature, body) for _ in range(3)}
    taken.add(room.triggers.take_call(made.trigger.id, signature + ",v2=x", body))
    run(room, 3)
    assert len(taken) == 1 and [event.body for event in told(room)] == [body.decode()]
    room.triggers.take_call(made.trigger.id, signature_of(body, made.secret, now=now + 1), body)
    run(room, 3)
    assert len(told(room)) == 2


def test_call_that_is_not_signed_now_by_who_knows_the_secret_is_refused(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    other = room.do(model.CreateTrigger(name="o", when=When(kind=Happening.DATASET_VERSION), run=FUNCTION)).trigger  # type: ignore[attr-defined]
    now, secret = room.clock.now(), made.secret
    good = signature_of(b"x", secret, now=now)
    number = room.disk.read(lambda view: len(view.entries(EVENTS)))
    for trigger_id, signature, body, error in (
        (made.trigger.id, good, b"y", model.HookRefused),
        (made.trigger.id, "", b"x", model.HookRefused),
        (made.trigger.id, good.replace("t=", "t=1"), b"x", model.HookRefused),
        (made.trigger.id, f"t={int(now)},v1=ü", b"x", model.HookRefused),
        (made.trigger.id, signature_of(b"x", "guess", now=now), b"x", model.HookRefused),
        ("trigger_nobody", signature_of(b"x", "s trigger_nobody", now=now), b"x", model.HookRefused),
        (other.id, signature_of(b"x", f"s {other.id}", now=now), b"x", model.HookRefused),
        (made.trigger.id, signature_of(b"x", secret, now=now - 301), b"x", model.HookStale),
        (made.trigger.id, signature_of(b"x", secret, now=now + 301), b"x", model.HookStale),
        (made.trigger.id, signature_of(b"\xff", secret, now=now), b"\xff", model.HookBodyRefused),
        (made.trigger.id, good, b"x" * (model.MAX_HOOK_BYTES + 1), model.HookBodyRefused),
    ):
        with pytest.raises(error):
            room.triggers.take_call(trigger_id, signature, body)
    room.do(model.PauseTrigger(name="t"))
    with pytest.raises(model.HookPaused):
        room.triggers.take_call(made.trigger.id, good, b"x")
    assert room.disk.read(lambda view: len(view.entries(EVENTS))) == number


def test_event_whose_delivery_is_refused_is_told_and_holds_up_no_other(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    room.put_up(GREET)  # it takes no event any more, and is there
    body = b"1"
    room.triggers.take_call(made.trigger.id, signature_of(body, made.secret, now=room.clock.now()), body)
    run(room, 2)
    status = show(room)
    assert (status.trigger.num_refused, status.trigger.num_delivered, status.trigger.state) == (
        1,
        0,
        TriggerState.ACTIVE,
    )
    assert "does not take an event" in status.deliveries[0].delivery.message == status.trigger.message
    again = model.Redeliver(name="t", number=status.deliveries[0].delivery.number)
    with pytest.raises(model.TriggerUnclear):
        room.do(again)
    room.put_up(ON_EVENT)
    assert room.do(again).delivery.began  # type: ignore[attr-defined]
    with pytest.raises(model.NothingToRepeat):
        room.do(again)
    run(room, 2)
    assert [event.body for event in told(room)] == ["1"]


def call(room: Workroom, made: model.IssuedTrigger, body: bytes) -> str:
    return room.triggers.take_call(made.trigger.id, signature_of(body, made.secret, now=room.clock.now()), body)


def kept(room: Workroom) -> tuple[list[str], int]:
    """The bodies that are there, and how much the room says they take."""
    bodies = room.disk.read(lambda view: view.select(HOOK_BODIES))
    sizes = room.disk.read(lambda view: view.select(HOOK_ROOM))
    taken = sizes[0].num_bytes if sizes else 0
    assert taken == sum(len(one.text) + 512 for one in bodies)
    return sorted(one.text for one in bodies), taken


def test_body_of_a_call_is_nowhere_in_the_log_and_gone_once_it_is_delivered(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    call(room, made, b"secret words")
    assert kept(room) == (["secret words"], 524)
    assert b"secret" not in msgspec.json.encode(room.disk.read(lambda view: view.entries(EVENTS)))
    run(room, 3)
    assert [event.body for event in told(room)] == ["secret words"] and kept(room) == ([], 0)
    assert b"secret" not in msgspec.json.encode(show(room))


def test_job_finds_what_was_sent_in_a_file_and_no_record_holds_it(room: Workroom) -> None:
    spec = JobSpec(entry=Command(argv=("true",)))
    room.do(ApplyTemplate(name="nightly", jobs={"train": TemplateJob(spec=spec)}))
    made = create(room, Happening.HTTP, run=RunTemplateJob(template="nightly"))
    call(room, made, b"secret words")
    run(room, 3)
    (delivery,) = show(room).deliveries
    job, tasks = room.disk.read(
        lambda view: (view.get(JOBS, delivery.delivery.began), view.select(TASKS, {"job_id": delivery.delivery.began}))
    )
    assert job is not None and b"secret" not in msgspec.json.encode(job) and kept(room)[0] == ["secret words"]
    plans = Plans(room.blobs, "/s", lambda _: "t", lambda: "", told_files=room.bodies.files_for)
    pool = Pool(id=LOCAL, project="", address="", added_at=0.0, added_by="")
    assert plans.task(job, tasks[0], pool).secret_files == {"TOKEN": "t", "EVENT_BODY": "secret words"}
    with pytest.raises(model.HookBodyGone):
        room.bodies.files_for(msgspec.structs.replace(job, project="another"))
    room.do(model.PauseTrigger(name="t"))
    room.do(model.ResumeTrigger(name="t", skip=True))
    assert kept(room)[0] == ["secret words"]  # it is the job's, and no call that waits
    ended = Event(at=1.0, project=job.project, subject=job.id, body=JobEnded(state="succeeded"))
    room.store.write(lambda tx: room.bodies.on_job_ended(tx, ended))
    assert kept(room) == ([], 0)
    with pytest.raises(model.HookBodyGone, match="kept for 7 days, and until its job has ended"):
        room.bodies.files_for(job)


def test_body_whose_delivery_was_refused_is_kept_for_a_week_and_no_longer(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    room.put_up(GREET)
    call(room, made, b"1")
    run(room, 2)
    assert kept(room) == (["1"], 513)
    room.clock.advance(7 * 86_400.0 + 61)
    room.triggers.tick()
    assert kept(room) == ([], 0)
    room.put_up(ON_EVENT)
    with pytest.raises(model.NothingToRepeat, match="gone: it is kept for 7 days"):
        room.do(model.Redeliver(name="t", number=show(room).deliveries[0].delivery.number))


def test_call_that_waited_longer_than_its_body_is_kept_is_told_as_refused(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    call(room, made, b"1")
    room.do(model.PauseTrigger(name="t"))
    room.clock.advance(8 * 86_400.0)
    room.triggers.tick()
    room.do(model.ResumeTrigger(name="t"))
    call(room, made, b"2")
    run(room, 4)
    assert [event.body for event in told(room)] == ["2"]
    assert "gone" in show(room).deliveries[1].delivery.message and show(room).trigger.num_refused == 1


def test_what_is_skipped_leaves_no_body_and_what_was_refused_stays(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    room.put_up(GREET)
    call(room, made, b"refused")
    run(room, 2)
    call(room, made, b"waits")
    room.do(model.PauseTrigger(name="t"))
    room.put_up(ON_EVENT)
    room.do(model.ResumeTrigger(name="t", skip=True))
    run(room, 2)
    assert kept(room)[0] == ["refused"] and not told(room)


def test_bodies_have_so_much_room_and_refused_ones_make_way(room: Workroom) -> None:
    made = create(room, Happening.HTTP)
    room.put_up(GREET)
    call(room, made, b"r" * 30_000)
    run(room, 2)
    room.put_up(ON_EVENT)
    for letter in b"abc":
        call(room, made, bytes([letter]) * 30_000)
    assert [text[0] for text in kept(room)[0]] == ["a", "b", "c"]
    with pytest.raises(model.HookRoomFull):
        call(room, made, b"d" * 30_000)
    run(room, 4)
    call(room, made, b"d" * 30_000)
    room.do(model.DeleteTrigger(name="t"))
    assert kept(room) == ([], 0)


def test_address_that_is_called_without_end_is_closed_for_some_minutes(room: Workroom) -> None:
    made = create(room, Happening.HTTP, max_per_hour=2)

    def call(body: bytes) -> str:
        signature = signature_of(body, made.secret, now=room.clock.now())
        return room.triggers.take_call(made.trigger.id, signature, body)

    first = [call(b"1"), call(b"2")]
    with pytest.raises(model.TooManyHookCalls):
        call(b"3")
    assert [call(b"1"), call(b"2")] == first, "what was taken is taken still"
    room.clock.advance(2 * model.TOLERANCE_S + 1)
    call(b"3")
    assert len(room.disk.read(lambda view: view.select(HOOKS_SEEN))) == 1


def test_deliveries_that_are_kept_are_bounded(room: Workroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "NUM_KEPT", 3)
    create(room)
    for _ in range(5):
        room.happen("dataset_1", MADE)
    run(room, 6)
    assert (len(show(room).deliveries), show(room).trigger.num_delivered) == (3, 5)


def test_version_that_set_a_prediction_off_is_the_one_that_is_predicted() -> None:
    run_batch = RunBatch(order=BatchOrder(dataset="digits", model="m", to="said"))
    kind = Happening.DATASET_VERSION
    assert rules.order_for(run_batch, kind, {"dataset": "digits", "version": "7"}).version == "7"
    assert rules.order_for(run_batch, kind, {"dataset": "others", "version": "7"}).version == "newest"
    assert rules.order_for(run_batch, Happening.MODEL_VERSION, {"model": "m", "version": "7"}).version == "newest"
