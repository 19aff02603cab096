"""Devices and roll-outs over a store in memory: who may speak, what is told, what is taken in."""

import msgspec
import nacl.exceptions
import nacl.signing
import pytest

from skyloom.core import digests
from skyloom.core.errors import Conflict
from skyloom.rooms.devices import messages, model
from skyloom.rooms.devices import rollout as nouns
from skyloom.rooms.devices.messages import (
    Assignment,
    Counted,
    DeviceOutcome,
    Dropped,
    Happened,
    JoinDevice,
    Lane,
    Predicted,
    RunBegan,
    Sampled,
    UploadOutbox,
)
from skyloom.rooms.devices.ports import DEVICE_CHUNKS
from skyloom.rooms.devices.rollout import RolloutState
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.serving.predictions import name_prediction
from skyloom.rooms.tenancy.model import NoToken, ProjectMissing
from tests.rooms.devices.fleet_room import ANN, FleetRoom

RUN = "rep_00000000000000000000000001"


@pytest.fixture
def room() -> FleetRoom:
    return FleetRoom()


def upload(room, device, first, records, *, lane=Lane.FACTS, oldest=0, epoch="e1"):
    ask = UploadOutbox(
        device=device.device_id,
        epoch=epoch,
        lane=lane,
        oldest=oldest,
        first=first,
        now=room.clock.now(),
        records=tuple(records),
    )
    return room.do(ask, device).next


def predicted(nth: int, run: str = RUN) -> Predicted:
    return Predicted(run=run, nth=nth, at=1.0, rows=1, latency_us=10, outputs="[]")


# Joining


def test_join_code_is_good_once_and_its_answer_may_be_asked_for_again(room):
    made = room.enrol("kiosk", site="a")
    asker = room.caller(made.code)
    assert (asker.device_id, asker.rights) == (made.device.id, {messages.Right.JOIN})
    first = room.do(JoinDevice(device=made.device.id, nonce="a" * 32), asker)
    assert room.do(JoinDevice(device=made.device.id, nonce="a" * 32), asker).token == first.token
    with pytest.raises(model.JoinCodeUsed):
        room.do(JoinDevice(device=made.device.id, nonce="b" * 32), asker)


def test_join_code_ends(room):
    made = room.enrol("kiosk")
    room.clock.advance(901)
    with pytest.raises(NoToken):
        room.caller(made.code)


def test_join_code_of_before_ends_with_a_new_one_and_a_new_join_ends_the_token_of_before(room):
    made, device = room.enrol("kiosk"), room.join("kiosk")
    with pytest.raises(NoToken):
        room.caller(made.code)
    old = room.tenancy.device_secret(device.device_id, 1)
    assert room.caller(old).device_id == device.device_id
    room.join("kiosk")
    with pytest.raises(NoToken):
        room.caller(old)


def test_device_token_opens_its_project_only_and_ends_when_the_device_is_retired(room):
    device = room.join("kiosk")
    secret = room.tenancy.device_secret(device.device_id, 1)
    with pytest.raises(ProjectMissing):
        room.tenancy.authenticate(secret, "q")
    room.do(model.RetireDevice(name="kiosk"))
    with pytest.raises(NoToken):
        room.caller(secret)


def test_token_of_a_retired_device_stays_useless_when_its_name_is_enrolled_again(room):
    stolen = room.tenancy.device_secret(room.join("kiosk").device_id, 1)
    room.do(model.RetireDevice(name="kiosk"))
    room.enrol("kiosk")
    with pytest.raises(NoToken):
        room.caller(stolen)
    assert room.do(model.GetDevice(name="kiosk")).state is model.DeviceState.ENROLLED
    assert room.join("kiosk").device_id


@pytest.mark.parametrize(
    "secret",
    ["sky_device.x", "sky_device.d.1.00", "sky_device.d.٣.00", "sky_join.p.d.x", "sky_join.", "sky_join.p.dev\ud800.x"],
)
def test_forged_secrets_are_refused(room, secret):
    with pytest.raises(NoToken):
        room.caller(secret)


def test_device_speaks_for_no_other(room):
    one, other = room.join("one"), room.join("other")
    with pytest.raises(model.NotThisDevice):
        room.do(messages.SyncDevice(device=other.device_id, now=1.0, epoch="e"), one)
    with pytest.raises(model.NotThisDevice):
        room.do(messages.SyncDevice(device=other.device_id, now=1.0, epoch="e"), ANN)


# What it is told


def verified(public: str, content: bytes, signature: str) -> bool:
    try:
        nacl.signing.VerifyKey(bytes.fromhex(public)).verify(content, bytes.fromhex(signature))
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def test_assignment_is_signed_for_one_device_and_by_a_key_that_it_knows(room):
    device = room.join("kiosk")
    room.roll_out(stages=(100,))
    room.rollouts.tick()
    orders = room.sync(device)
    told, key = orders.assignment, orders.rings[0].keys[0]
    assert (told.version, told.label, told.number) == (room.versions[0].id, "1", 1)
    assert told.manifest is not None and room.blobs.size(told.manifest)
    assert verified(key.public, messages.assignment_statement(device.device_id, told), told.signature)
    assert not verified(key.public, messages.assignment_statement("dev_other", told), told.signature)


def test_key_change_is_a_chain_that_a_device_can_follow_from_any_link(room):
    device = room.join("kiosk")
    first = room.sync(device).rings
    room.do(model.RotateDeviceKey(overlap_s=100.0))
    with pytest.raises(model.RotationUnderWay):
        room.do(model.RotateDeviceKey())
    room.clock.advance(101)
    room.keys.tick()
    rings = room.sync(device, ring=1).rings
    assert [ring.number for ring in rings] == [2, 3]
    trusted = {key.id: key.public for key in first[0].keys}
    for ring in rings:
        statement = messages.ring_statement("p", ring.number, ring.keys)
        assert verified(trusted[ring.signed_by], statement, ring.signature)
        trusted = {key.id: key.public for key in ring.keys}
    assert first[0].keys[0].id not in trusted
    signed: Assignment = room.sync(device, ring=3).assignment
    assert verified(
        trusted[signed.signed_by], messages.assignment_statement(device.device_id, signed), signed.signature
    )


def test_device_fetches_what_it_should_serve_and_nothing_else(room):
    device = room.join("kiosk")
    room.roll_out(stages=(100,))
    room.rollouts.tick()
    theirs = [file.digest for file in room.versions[0].manifest.files]
    for digest in (*theirs, room.sync(device).assignment.manifest):
        room.devices.check_file(device, device.device_id, digest)
    other = next(file.digest for file in room.versions[1].manifest.files if file.digest not in theirs)
    for digest in (other, digests.of_bytes(b"anything")):
        with pytest.raises(model.FileNotAssigned):
            room.devices.check_file(device, device.device_id, digest)


# Roll-outs


def fleet(room, count=4):
    return [room.join(f"d{i}", site="a") for i in range(count)]


def run_to_end(room, rollout_id, devices, outcome=DeviceOutcome.HEALTHY):
    for _ in range(20):
        room.rollouts.tick()
        back = room.look(rollout_id).rollout.state is RolloutState.ROLLING_BACK
        for device in devices:
            room.obey(device, DeviceOutcome.HEALTHY if back else outcome)
        room.clock.advance(61)
    return room.look(rollout_id)


def test_rollout_reaches_all_devices_stage_by_stage(room):
    devices = fleet(room)
    made = room.roll_out(stages=(25, 50, 100), labels={"site": "a"})
    room.rollouts.tick()
    assert room.look(made.rollout.id).progress.assigned == 1
    ended = run_to_end(room, made.rollout.id, devices)
    assert (ended.rollout.state, ended.progress.healthy) == (RolloutState.DONE, 4)
    assert {room.sync(device).assignment.version for device in devices} == {room.versions[0].id}


def test_rollout_of_a_bad_version_goes_back_to_what_was_served(room):
    devices = fleet(room)
    run_to_end(room, room.roll_out(stages=(100,)).rollout.id, devices)
    bad = room.roll_out("2", stages=(50, 100))
    ended = run_to_end(room, bad.rollout.id, devices, DeviceOutcome.FAILED)
    assert ended.rollout.state is RolloutState.ROLLED_BACK
    assert "2 of 2 devices gave up digits version 2" in ended.rollout.message
    assert {room.sync(device).assignment.version for device in devices} == {room.versions[0].id}
    assert {room.said[device.device_id][2] for device in devices} == {room.versions[0].id}


def test_rollout_that_is_aborted_goes_back_and_says_who_did_it(room):
    devices = fleet(room)
    made = room.roll_out(stages=(100,))
    room.rollouts.tick()
    room.obey(devices[0])
    assert room.do(nouns.AbortRollout(rollout_id=made.rollout.id)).rollout.message == "Aborted by ann."
    assert {room.sync(device).assignment.version for device in devices} == {""}
    assert run_to_end(room, made.rollout.id, devices).rollout.state is RolloutState.ROLLED_BACK


def test_rollout_that_is_paused_goes_on_when_told(room):
    devices = fleet(room)
    made = room.roll_out(stages=(25, 100))
    room.do(nouns.PauseRollout(rollout_id=made.rollout.id))
    assert run_to_end(room, made.rollout.id, devices).progress.assigned == 0
    room.do(nouns.ResumeRollout(rollout_id=made.rollout.id))
    assert run_to_end(room, made.rollout.id, devices).rollout.state is RolloutState.DONE
    with pytest.raises(Conflict):
        room.do(nouns.PauseRollout(rollout_id=made.rollout.id))


def test_rollout_beside_another_on_the_same_devices_is_refused(room):
    fleet(room)
    made = room.roll_out(labels={"site": "a"})
    with pytest.raises(nouns.RolloutInTheWay, match=made.rollout.id):
        room.roll_out("2")


@pytest.mark.parametrize("stages", [(10, 50), (50, 10, 100), (100, 100)])
def test_rollout_with_stages_that_do_not_grow_to_all_is_refused(room, stages):
    with pytest.raises(nouns.StagesUnclear):
        room.roll_out(stages=stages)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"site": "zz"}, "No device is site=zz. site is one of: a, b."),
        ({"site": "old"}, "site is one of: a, b."),
        ({"site": "a", "kind": "pi"}, "No device is site=a and kind=pi. .*kind is one of: pi"),
        ({"place": "a"}, "no device has the label place; there are: kind, site"),
    ],
)
def test_rollout_that_no_device_is_in_is_refused_with_the_labels_there_are(room, labels, words):
    room.enrol("one", site="a")
    room.join("two", site="b", kind="pi")
    room.join("three", site="old")
    room.do(model.RetireDevice(name="three"))
    with pytest.raises(nouns.NobodyMeant, match=words):
        room.roll_out(labels=labels)
    assert room.roll_out(labels={"site": "a"}).rollout.state is RolloutState.RUNNING  # it has a code, and may join


def test_rollout_without_any_device_is_refused(room):
    with pytest.raises(nouns.NobodyMeant) as refused:
        room.roll_out()
    assert "skyloom device enrol" in refused.value.next_action


def test_rollout_whose_devices_are_all_retired_ends(room):
    room.join("one", site="a")
    made = room.roll_out(labels={"site": "a"}, stages=(50, 100))
    room.rollouts.tick()
    room.do(model.RetireDevice(name="one"))
    room.rollouts.tick()
    ended = room.look(made.rollout.id).rollout
    assert (ended.state, ended.message) == (RolloutState.DONE, "No device is left that it is for.")


def test_device_that_joins_later_gets_what_was_rolled_out_to_its_like(room):
    devices = fleet(room)
    run_to_end(room, room.roll_out(stages=(100,), labels={"site": "a"}).rollout.id, devices)
    assert room.sync(room.join("late", site="a")).assignment.version == room.versions[0].id
    assert room.sync(room.join("elsewhere", site="b")).assignment.version == ""


# What it brings


def test_outbox_is_taken_once_and_predictions_are_found(room):
    device = room.join("kiosk")
    version = room.versions[0].id
    records = [RunBegan(run=RUN, version=version, at=1.0), *(predicted(nth) for nth in range(5))]
    assert upload(room, device, 0, records) == 6
    assert upload(room, device, 0, records) == 6
    assert upload(room, device, 8, [predicted(7)]) == 6
    assert upload(room, device, 4, [predicted(3), predicted(4), predicted(5)]) == 7
    found = [room.devices.find_prediction(name_prediction(RUN, nth), "p") for nth in range(6)]
    assert [item.predicted.nth for item in found] == [0, 1, 2, 3, 4, 5]
    assert {(item.device.name, item.version) for item in found} == {("kiosk", version)}
    assert room.devices.find_prediction(name_prediction(RUN, 6), "p") is None
    assert room.devices.find_prediction(name_prediction(RUN, 0), "q") is None
    assert room.do(model.GetDevice(name="kiosk")).report.predictions == 6


def test_outbox_counters_are_totals_and_gaps_are_told(room):
    device = room.join("kiosk")
    records = [RunBegan(run=RUN, version="v", at=1.0)]
    records += [Counted(run=RUN, at=1.0, traffic=Traffic(requests=n, rows=2 * n)) for n in (3, 10)]
    records += [Happened(at=1.0, message="It went back."), Dropped(lane=Lane.SAMPLES, first=5, end=9, at=1.0)]
    assert upload(room, device, 0, records) == 5
    assert upload(room, device, 9, [], lane=Lane.SAMPLES, oldest=4) == 4
    report = room.do(model.GetDevice(name="kiosk")).report
    assert (report.traffic.requests, report.traffic.rows, report.dropped, report.note) == (
        10,
        20,
        4,
        "Its outbox was full: 4 records of samples were given up.",
    )


def test_outbox_that_lost_records_says_so_and_goes_on(room):
    device = room.join("kiosk")
    assert upload(room, device, 0, [Happened(at=1.0, message="a")]) == 1
    assert upload(room, device, 10, [Happened(at=1.0, message="b")], oldest=10) == 11
    assert room.sync(device).facts == 11
    assert upload(room, device, 0, [Happened(at=1.0, message="c")], epoch="e2") == 1


def test_outbox_records_of_a_run_that_is_another_devices_are_refused_and_hold_up_nothing(room):
    one, other = room.join("one"), room.join("other")
    upload(room, one, 0, [RunBegan(run=RUN, version="v", at=1.0), predicted(0)])
    assert (
        upload(
            room,
            other,
            0,
            [
                RunBegan(run=RUN, version="w", at=1.0),
                predicted(1),
                Counted(run=RUN, at=1.0, traffic=Traffic(requests=9)),
            ],
        )
        == 3
    )
    report = room.do(model.GetDevice(name="other")).report
    assert (report.refused, report.traffic.requests) == (2, 0)
    assert room.devices.find_prediction(name_prediction(RUN, 1), "p") is None


def test_samples_are_listed_newest_first(room):
    device = room.join("kiosk")
    upload(room, device, 0, [RunBegan(run=RUN, version="v", at=1.0)])
    for first in (0, 2):
        some = [Sampled(run=RUN, nth=first + n, at=1.0, inputs="[1]") for n in range(2)]
        upload(room, device, first, some, lane=Lane.SAMPLES)
    listed = room.do(model.ListSamples(name="kiosk", limit=1))
    assert [sample.nth for sample in listed.items[0].samples] == [2, 3]
    rest = room.do(model.ListSamples(name="kiosk", limit=1, cursor=listed.next_cursor))
    assert [sample.nth for sample in rest.items[0].samples] == [0, 1]


def test_clock_of_a_device_that_is_wrong_is_told_and_taken_out_of_its_times(room):
    device = room.join("kiosk")
    room.sync(device)
    ask = messages.SyncDevice(device=device.device_id, now=room.clock.now() + 600, epoch="e1")
    room.do(ask, device)
    assert room.do(model.GetDevice(name="kiosk")).message == "Its clock is 600 s ahead."
    ask = UploadOutbox(
        device=device.device_id, epoch="e1", lane=Lane.FACTS, oldest=0, first=0, now=room.clock.now() + 600,
        records=(RunBegan(run=RUN, version="v", at=1.0), Predicted(run=RUN, nth=0, at=room.clock.now() + 590, rows=1, latency_us=1)),
    )  # fmt: skip
    room.do(ask, device)
    found = room.devices.find_prediction(name_prediction(RUN, 0), "p")
    assert found.at == room.clock.now() - 10


def test_device_that_is_retired_while_it_joins_is_refused_in_words(room):
    made = room.enrol("kiosk")
    asker = room.caller(made.code)
    room.do(model.RetireDevice(name="kiosk"))
    with pytest.raises(model.JoinCodeUsed, match="no more"):
        room.do(JoinDevice(device=made.device.id, nonce="0" * 32), asker)


def test_version_of_another_project_is_not_named_to_a_device_that_speaks_of_it(room):
    foreign = msgspec.structs.replace(ANN, project="q", scope="q")
    manifest = room.versions[0].manifest
    theirs = room.do(RegisterModelVersion(model="hidden", manifest=manifest), foreign)
    device = room.join("kiosk")
    room.sync(device, serving=theirs.id)
    upload(room, device, 0, [RunBegan(run=RUN, version=theirs.id, at=1.0), predicted(0)])
    assert room.do(model.GetDevice(name="kiosk")).serving == theirs.id
    (chunk,) = room.store.read(lambda view: view.select(DEVICE_CHUNKS))
    assert chunk.model == ""
