"""Functions and queued calls with the room's own clock: at least once, bounded, never with rights that are lost."""

import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skyloom.core.errors import IllegalMove, SkyloomError, StorageFull
from skyloom.core.operation import Right
from skyloom.ports.store import Collection, Transaction, changed
from skyloom.rooms.functions import model, rules, service
from skyloom.rooms.functions.model import Invocation, InvocationState
from skyloom.rooms.functions.ports import ANSWER_ROOMS, FUNCTIONS, INVOCATIONS, ErrandResult
from skyloom.rooms.jobs.ports import JOBS
from skyloom.rooms.secrets.model import SecretMissing, SecretUse, SetSecret
from skyloom.rooms.serving.model import Deploy, SecretsForNobody
from skyloom.rooms.tenancy import model as tenancy_model
from skyloom.rooms.tenancy.model import Role
from skyloom.sdk.functions import AnswerGone, InvocationCalls
from skyloom.stores.memory import MemorySnapshot
from tests.rooms.functions.workroom import GREET, POUR, Workroom
from tests.rooms.serving.bench import Crash

QUEUED, RUNNING, SUCCEEDED, DEAD = InvocationState


@pytest.fixture
def room() -> Workroom:
    return Workroom()


def invoke(room: Workroom, name: str = "Ann", key: str = "", **options: object) -> Invocation:
    ask = model.InvokeFunction(name="hello", arguments=msgspec.json.encode({"name": name}).decode(), key=key)
    return room.do(ask, **options)  # type: ignore[arg-type, return-value]


def test_call_is_made_once_with_its_key_and_its_answer_is_kept(room: Workroom) -> None:
    made = invoke(room)
    assert (made.state, made.key) == (QUEUED, made.id)
    room.functions.tick()
    (errand,) = room.errands.begun
    assert errand.url.endswith("/greet") and msgspec.json.decode(errand.body) == {
        "name": "Ann",
        "idempotency_key": made.id,
    }
    access = room.files.access["default"]
    assert len(access) > 1 and errand.token not in str(access)  # its digest is, and opens the gateway
    room.functions.tick()
    assert len(room.errands.begun) == 1
    room.errands.answer(content=b'{"said":"hi"}')
    room.functions.tick()
    (one,) = room.calls
    assert (one.state, one.answer, one.attempts) == (SUCCEEDED, '{"said":"hi"}', 1)
    status = room.do(model.GetFunction(name="hello"))
    assert (status.num_waiting, status.num_dead, status.methods) == (0, 0, (GREET,))  # type: ignore[attr-defined]


def test_same_key_is_the_same_call_and_another_call_with_it_is_refused(room: Workroom) -> None:
    assert invoke(room, key="k").id == invoke(room, key="k").id
    with pytest.raises(model.CallKeyReused):
        invoke(room, "Bob", key="k")
    assert len(room.calls) == 1


def test_failing_call_is_made_again_with_growing_pauses_and_then_is_a_dead_letter(room: Workroom) -> None:
    invoke(room)
    began = []
    for _ in range(200):
        room.functions.tick()
        if len(room.errands.begun) > len(began):
            began.append(room.clock.now())
            room.errands.answer(500, b'{"error":"boom"}')
            room.functions.tick()
        room.clock.advance(0.1)
    assert [round(later - earlier) for earlier, later in itertools.pairwise(began)] == [1, 2]
    (one,) = room.calls
    assert (one.state, one.message) == (DEAD, "failed after 3 attempts: boom")
    assert len({errand.body for errand in room.errands.begun}) == 1
    again = room.do(model.RetryInvocation(invocation_id=one.id))
    assert again == room.do(model.RetryInvocation(invocation_id=one.id))
    room.functions.tick()
    room.errands.answer()
    room.functions.tick()
    assert room.calls[0].state is SUCCEEDED


@pytest.mark.parametrize(("status", "state"), [(422, DEAD), (404, DEAD), (503, QUEUED), (401, QUEUED), (0, QUEUED)])
def test_what_a_call_meets_again_is_no_second_attempt_worth(
    room: Workroom, status: int, state: InvocationState
) -> None:
    invoke(room)
    room.functions.tick()
    room.errands.answer(status, b'{"error":"why"}', problem="nobody")
    room.functions.tick()
    assert room.calls[0].state is state and room.calls[0].message


def test_answer_that_is_too_long_is_not_kept(room: Workroom) -> None:
    invoke(room)
    room.functions.tick()
    room.errands.answer(content=b"1" * (model.MAX_ANSWER_BYTES + 1))
    room.functions.tick()
    assert room.calls[0].state is DEAD and not room.calls[0].answer


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("phase", ["before", "after"])
def test_control_plane_that_dies_at_any_commit_loses_no_call(phase: str, number: int) -> None:
    room = Workroom()
    room.start(phase, number)
    asked = 0
    for _ in range(12):
        try:
            if not asked:
                invoke(room, key="once")
                asked += 1
            room.functions.tick()
            if room.errands.waiting:
                room.errands.answer()
                room.functions.tick()
        except Crash:
            room.start()
        room.clock.advance(1)
    (one,) = room.calls
    assert one.state is SUCCEEDED and one.attempts <= 2


def test_call_goes_with_the_rights_of_who_asked_and_stops_without_them(room: Workroom) -> None:
    by = room.caller(Role.PREDICTOR)
    assert Right.PREDICT in by.rights
    invoke(room, by=by)
    room.store.write(lambda tx: room.tenancy.revoke_token(tx, tenancy_model.RevokeToken(token_id=by.token_id), by))
    room.functions.tick()
    assert not room.errands.begun
    assert (room.calls[0].state, room.calls[0].message) == (
        DEAD,
        f"the token of {by.principal} was revoked or has expired",
    )


def test_one_function_takes_no_more_than_its_share_and_holds_up_no_other() -> None:
    room = Workroom()
    room.put_up(GREET, name="other")
    for number in range(40):
        invoke(room, str(number))
    other = model.InvokeFunction(name="other", arguments='{"name":"x"}')
    room.do(other)
    room.functions.tick()
    urls = [errand.url for errand in room.errands.begun]
    assert (len(urls), len(set(urls))) == (17, 2)


def test_round_reads_what_is_due_however_many_functions_and_calls_wait(
    room: Workroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = invoke(room)

    def work(tx: Transaction) -> None:
        hello = tx.select(FUNCTIONS)[0]
        for number in range(300):
            tx.insert(FUNCTIONS, changed(hello, {"id": f"fn_{number}", "name": f"f{number}"}))
            later = {"id": f"inv_{number}", "function_id": f"fn_{number}", "key": str(number), "next_at": 9e9}
            tx.insert(INVOCATIONS, changed(first, later))

    room.disk.write(work)
    read: Counter[str] = Counter()
    select = MemorySnapshot.select

    def counted(view: MemorySnapshot, collection: Collection[Any], *args: Any, **options: Any) -> list[Any]:
        found = select(view, collection, *args, **options)
        read[collection.name] += len(found)
        return found

    monkeypatch.setattr(MemorySnapshot, "select", counted)
    room.functions.tick()
    assert [errand.id for errand in room.errands.begun] == [f"{first.id}.1"]
    assert read["functions"] < 5, "of 301 functions"
    assert read["invocations"] <= 70, "of 301 calls"


def test_one_project_takes_no_more_than_its_share_and_holds_up_no_other(
    room: Workroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AT_ONCE", 5)
    monkeypatch.setattr(service, "_AT_ONCE_PROJECT", 2)
    for number in range(9):
        one = invoke(room, str(number))
    theirs = msgspec.structs.replace(
        one, id="inv_theirs", project="q", function_id="fn_theirs", next_at=one.next_at + 1
    )
    room.store.write(lambda tx: tx.insert(INVOCATIONS, theirs))
    room.clock.advance(2)
    room.functions.tick()
    assert len(room.errands.begun) == 2
    assert room.disk.read(lambda view: view.get(INVOCATIONS, "inv_theirs")).state is DEAD, "its turn came"


def test_call_that_was_not_sent_cannot_have_been_answered(room: Workroom) -> None:
    with pytest.raises(IllegalMove):
        rules.settled(invoke(room), ErrandResult(id="x", status=200), 1.0)


def test_round_that_sent_everything_waits_for_an_answer_and_lists_tell_calls_apart(room: Workroom) -> None:
    invoke(room)
    assert room.functions.tick() > 1
    for named, state, count in (("hello", None, 1), ("other", None, 0), (None, RUNNING, 1), (None, DEAD, 0)):
        assert len(room.do(model.ListInvocations(function=named, state=state)).items) == count  # type: ignore[attr-defined]


def test_longest_answer_is_kept(room: Workroom) -> None:
    invoke(room)
    room.functions.tick()
    room.errands.answer(content=b'"' + b"x" * (model.MAX_ANSWER_BYTES - 2) + b'"')
    room.functions.tick()
    assert (room.calls[0].state, len(room.calls[0].answer)) == (SUCCEEDED, model.MAX_ANSWER_BYTES)


def ended(room: Workroom, name: str, *, status: int = 200, content: bytes = b'"done"') -> Invocation:
    made = invoke(room, name, key=name)
    room.functions.tick()
    room.errands.answer(status, content)
    room.clock.advance(1)
    room.functions.tick()
    return made


class SmallRoom(Workroom):
    answer_bytes = 3_000


def test_answers_of_a_project_are_bounded_and_the_oldest_make_way() -> None:
    room = SmallRoom()
    letter = ended(room, "dead", status=422)
    made = [ended(room, str(number), content=b'"' + b"a" * 900 + b'"') for number in range(5)]
    found = {one.id: one for one in room.calls}
    assert [bool(found[one.id].answer) for one in made] == [False, False, True, True, True]
    gone = found[made[0].id]
    assert (gone.state, gone.arguments) == (SUCCEEDED, "") and "made way for newer ones" in gone.message
    assert invoke(room, "0", key="0").id == gone.id  # its key is still known, and makes no second call
    assert found[letter.id].arguments  # a dead letter stays while answers can go
    transport = SimpleNamespace(send=room.do)
    with pytest.raises(AnswerGone, match="made way for newer ones"):
        InvocationCalls(transport).wait(gone.id)  # type: ignore[arg-type]
    room.clock.advance(model.KEEP_DEAD_S + 61)
    room.functions.tick()
    assert [one.num_bytes for one in room.disk.read(lambda view: view.select(ANSWER_ROOMS))] == [0]


def test_dead_letters_are_bounded_and_one_that_made_way_is_not_sent_again() -> None:
    room = SmallRoom()
    letters = [ended(room, str(number) + "a" * 180, status=422) for number in range(16)]
    held = [bool(one.arguments) for one in room.calls]
    assert held == sorted(held) and 1 < sum(held) < 16
    with pytest.raises(model.LetterEmpty):
        room.do(model.RetryInvocation(invocation_id=letters[0].id))
    assert room.do(model.RetryInvocation(invocation_id=letters[-1].id)).state is QUEUED  # type: ignore[attr-defined]
    held_bytes = sum(len(one.arguments) for one in room.calls if one.state is DEAD)
    assert [one.num_bytes for one in room.disk.read(lambda view: view.select(ANSWER_ROOMS))] == [held_bytes]


def test_queue_of_a_function_is_bounded(room: Workroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_WAITING", 2)
    for number in range(2):
        invoke(room, str(number))
    with pytest.raises(model.TooManyWaiting):
        invoke(room, "one more")


def test_dead_letters_come_back_to_a_queue_that_is_bounded_too(room: Workroom, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = invoke(room)
    room.functions.tick()
    room.errands.answer(422)
    room.functions.tick()
    monkeypatch.setattr(model, "MAX_WAITING", 1)
    invoke(room, "Bob")
    with pytest.raises(model.TooManyWaiting):
        room.do(model.RetryInvocation(invocation_id=dead.id))


@pytest.mark.parametrize("dies", [False, True])
def test_call_on_its_way_when_its_function_is_deleted_is_not_left_in_the_queue(room: Workroom, dies: bool) -> None:
    invoke(room)
    room.functions.tick()
    room.do(model.DeleteFunction(name="hello"))
    if dies:
        room.start()
    else:
        room.errands.answer(0, problem="nobody")
    room.functions.tick()
    assert (room.calls[0].state, room.calls[0].ended_at) == (DEAD, room.clock.now())
    assert "deleted" in room.calls[0].message


def test_call_whose_function_has_no_port_yet_is_looked_at_soon_though_others_are_on_their_way(
    room: Workroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke(room)
    room.functions.tick()
    monkeypatch.setattr(room.serving, "url", lambda _: "")
    invoke(room, "Bob")
    assert room.functions.tick() < 1


def test_answer_that_the_disk_did_not_take_is_written_later_and_its_call_not_made_again(
    room: Workroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke(room)
    room.functions.tick()
    room.errands.answer()

    def full(_: object) -> object:
        raise StorageFull("The disk is full.", next_action="Make room.")

    with monkeypatch.context() as disk:
        disk.setattr(room.functions._store, "write", full)
        with pytest.raises(StorageFull):
            room.functions.tick()
    room.functions.tick()
    assert (room.calls[0].state, len(room.errands.begun)) == (SUCCEEDED, 1)


def test_answer_that_calls_itself_text_and_is_none_is_kept_as_bytes(room: Workroom) -> None:
    invoke(room)
    room.functions.tick()
    room.errands.answer(content=b"\xff")
    room.functions.tick()
    assert (room.calls[0].state, room.calls[0].answer) == (SUCCEEDED, '"/w=="')


def test_deleted_function_leaves_dead_letters_and_its_name(room: Workroom) -> None:
    invoke(room)
    room.do(model.DeleteFunction(name="hello"))
    assert room.calls[0].state is DEAD and "deleted" in room.calls[0].message
    with pytest.raises(model.FunctionMissing):
        room.do(model.GetFunction(name="hello"))
    room.put_up(GREET)
    assert room.do(model.RetryInvocation(invocation_id=room.calls[0].id)).state is QUEUED  # type: ignore[attr-defined]
    room.functions.tick()
    assert len(room.errands.begun) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("[]", "JSON object"),
        ("{", "JSON object"),
        ('{"name":' + "[" * 30_000, "JSON object"),
        ("{}", "lacks 'name'"),
        ('{"name":"a","x":1}', "is given 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_they_wait(room: Workroom, arguments: str, words: str) -> None:
    with pytest.raises(model.ArgumentsUnreadable, match=words):
        room.do(model.InvokeFunction(name="hello", arguments=arguments))


def test_entry_has_to_be_clear_and_answer_as_a_whole() -> None:
    room = Workroom(GREET, POUR)
    for method, words in (("", "several"), ("nothing", "no entry"), ("pour", "in parts")):
        with pytest.raises(model.EntryUnclear, match=words):
            room.do(model.InvokeFunction(name="hello", method=method, arguments='{"name":"a"}'))


def test_model_and_plain_endpoint_are_no_functions(room: Workroom) -> None:
    with pytest.raises(model.NotAFunction):
        room.do(model.DeployFunction(name="toy", version=1))
    room.serving.check(Deploy(model="hello", name="plain"), room.me)
    room.deploy("toy")
    with pytest.raises(model.FunctionNameTaken):
        room.do(model.DeployFunction(name="toy", version=1))


def test_results_are_forgotten_after_a_day_and_dead_letters_after_a_week(room: Workroom) -> None:
    for status in (200, 422):
        invoke(room, str(status))
        room.functions.tick()
        room.errands.answer(status)
        room.functions.tick()
    room.clock.advance(model.KEEP_S + 61)
    room.functions.tick()
    assert [one.state for one in room.calls] == [DEAD]
    room.clock.advance(model.KEEP_DEAD_S)
    room.functions.tick()
    assert not room.disk.read(lambda view: view.count(INVOCATIONS))


def test_call_of_another_project_is_absent(room: Workroom) -> None:
    made = invoke(room)
    stranger = msgspec.structs.replace(room.me, project="q")
    for ask in (model.GetInvocation(invocation_id=made.id), model.RetryInvocation(invocation_id=made.id)):
        with pytest.raises(SkyloomError) as refusal:
            room.do(ask, stranger)
        assert refusal.value.code == "invocation_missing"
    assert room.do(model.ListInvocations(), stranger).items == ()  # type: ignore[attr-defined]


def test_secrets_go_to_the_process_stay_with_the_next_revision_and_to_no_model(room: Workroom) -> None:
    uses = (SecretUse(name="key", variable="KEY"),)
    with pytest.raises(SecretMissing):
        room.put_up(GREET, secrets=uses)
    secrets = room.jobs._secrets
    room.store.write(lambda tx: secrets.set(tx, SetSecret(name="key", value="x"), room.me))
    for given in (uses, None, ()):
        room.put_up(GREET, secrets=given)
        newest = room.disk.read(lambda view: view.select(JOBS, newest_first=True, limit=9))
        spec = next(job.spec for job in newest if job.spec.name.startswith("hello revision"))
        assert spec.secrets == (uses if given is None else given)
    with pytest.raises(SecretsForNobody):
        room.deploy("toy", secrets=uses)
