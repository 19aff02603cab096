"""Two hundred devices at little cost: real rooms, rules and signatures, and devices that are a few lines each."""

import msgspec
import pytest

from skyloom.core.operation import Caller
from skyloom.rooms.devices.messages import (
    DeviceOutcome,
    Lane,
    OutboxRecord,
    Predicted,
    RunBegan,
    Sampled,
    SyncDevice,
    UploadOutbox,
)
from skyloom.rooms.devices.model import DeviceState, GetDevice, ListDevices
from skyloom.rooms.devices.ports import DEVICE_CHUNKS, DEVICE_REPORTS, DEVICE_RUNS, POSITIONS, SAMPLE_CHUNKS
from skyloom.rooms.devices.rollout import RolloutState, RolloutStatus
from skyloom.rooms.serving.predictions import name_prediction
from tests.rooms.devices.fleet_room import FleetRoom

_GOOD, _BAD = DeviceOutcome.HEALTHY, DeviceOutcome.FAILED
RUN = "rep_00000000000000000000000001"


class BigFleet:
    """120 devices of site a and 80 of site b. Devices in ``bad`` cannot stand version 2."""

    def __init__(self) -> None:
        self.room = FleetRoom()
        sites = ["a"] * 120 + ["b"] * 80
        self.devices = [self.room.join(f"d{i:03}", site=site) for i, site in enumerate(sites)]
        self.bad: set[str] = set()
        self.most = 0

    def round(self, status: RolloutStatus) -> RolloutStatus:
        """The loop looks; then whoever was told something does it and says how it went."""
        self.room.rollouts.tick()
        for device in self.devices:
            told = self.room.sync(device).assignment
            if told.number > self.room.said.get(device.device_id, (0,))[0]:
                fails = device.device_id in self.bad and told.label == "2"
                self.room.obey(device, _BAD if fails else _GOOD)
        self.room.clock.advance(61)
        self.room.rollouts.tick()
        now_is = self.room.look(status.rollout.id)
        self.most = max(self.most, now_is.progress.assigned)
        return now_is

    def to_the_end(self, status: RolloutStatus) -> RolloutStatus:
        for _ in range(12):
            status = self.round(status)
            if status.rollout.state in (RolloutState.DONE, RolloutState.ROLLED_BACK):
                return status
        raise AssertionError(status)

    def serving(self) -> list[str]:
        return [self.room.said.get(device.device_id, (0, _GOOD, ""))[2] for device in self.devices]


@pytest.fixture(scope="module")
def fleet() -> BigFleet:
    return BigFleet()


def test_rollout_to_two_hundred_devices_by_label_reaches_these_and_a_bad_one_is_stopped_at_its_stage(fleet):
    one, two = (version.id for version in fleet.room.versions)
    ended = fleet.to_the_end(fleet.room.roll_out("1", labels={"site": "a"}, stages=(5, 100)))
    assert (ended.rollout.state, ended.progress.healthy, ended.progress.matching) == (RolloutState.DONE, 120, 120)
    assert fleet.serving() == [one] * 120 + [""] * 80

    fleet.bad, fleet.most = {device.device_id for device in fleet.devices[::4]}, 0
    ended = fleet.to_the_end(fleet.room.roll_out("2", labels={"site": "a"}, stages=(10, 50, 100)))
    assert ended.rollout.state is RolloutState.ROLLED_BACK
    assert ended.progress.troubles == ()
    assert fleet.most == 12, "the gate let more devices have it than the first stage is for"
    assert fleet.serving() == [one] * 120 + [""] * 80
    assert two not in fleet.serving()


def test_rollout_reads_again_only_the_devices_that_spoke(fleet):
    room = fleet.room
    status = room.roll_out("1", labels={"site": "b"}, stages=(100,), pause_s=600.0)
    for _ in range(3):
        room.rollouts.tick()
        room.clock.advance(3)
    before = room.board.reads
    for _ in range(20):
        room.rollouts.tick()
        room.clock.advance(1)
    assert room.board.reads == before, "devices were read although none had spoken"
    for device in fleet.devices[:7]:
        room.sync(device)
    room.rollouts.tick()
    room.rollouts.tick()
    assert room.board.reads == before + 7
    assert fleet.to_the_end(status).rollout.state is RolloutState.DONE


def test_devices_are_listed_by_label_and_state_page_by_page(fleet):
    room, seen, cursor = fleet.room, [], None
    room.clock.advance(3_600)
    for device in fleet.devices[100:130]:
        room.sync(device)
    while True:
        ask = ListDevices(label="site=a", state=DeviceState.ONLINE, limit=7, cursor=cursor)
        part = room.do(ask)
        seen += [item.device.name for item in part.items]
        cursor = part.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == [f"d{n:03}" for n in range(100, 120)]
    assert len(room.do(ListDevices(state=DeviceState.OFFLINE, limit=1_000)).items) == 170
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"label": "nonsense"}, ListDevices)


def test_board_waits_for_a_change_that_is_still_being_written_and_forgets_one_that_never_came():
    room = FleetRoom()
    room.join("d")
    device = room.store.read(lambda view: room.devices.find(view, "d", "p"))
    look = lambda: room.store.read(lambda view: room.board.look(view, "p"))  # noqa: E731
    look()
    room.clock.advance(3)
    look()
    room.board.mark(msgspec.structs.replace(device, version=device.version + 1))
    assert [look()[0] for _ in range(3)] == [True, True, True]
    room.clock.advance(11)
    assert [look()[0] for _ in range(3)] == [True, False, False]


def test_device_that_gave_up_a_version_goes_back_to_what_it_really_serves():
    room = FleetRoom()
    devices = [room.join(f"d{i}") for i in range(2)]
    for version, outcomes in (("1", (_GOOD, _GOOD)), ("2", (_GOOD, _BAD))):
        status = room.roll_out(version, stages=(100,), min_healthy=0.5)
        for _ in range(3):
            room.rollouts.tick()
            for device, outcome in zip(devices, outcomes, strict=True):
                if room.sync(device).assignment.number > room.said.get(device.device_id, (0,))[0]:
                    room.obey(device, outcome)
            room.clock.advance(61)
        assert room.look(status.rollout.id).rollout.state is RolloutState.DONE
    three = room.register(b"three")
    room.roll_out(str(three.number), stages=(100,))
    room.rollouts.tick()
    for device in devices:
        room.obey(device, _BAD)
    room.clock.advance(6)
    room.rollouts.tick()
    wanted = [room.sync(device).assignment.label for device in devices]
    assert wanted == ["2", "1"]


def test_device_that_calls_and_never_says_how_it_fares_holds_up_a_stage_only_so_long():
    room = FleetRoom()
    stuck, away = room.join("stuck"), room.join("away")
    status = room.roll_out(stages=(100,), probation_s=10.0, patience_s=400.0)
    room.rollouts.tick()
    for _ in range(13):
        room.sync(stuck)
        room.clock.advance(30)
    room.rollouts.tick()
    assert room.look(status.rollout.id).rollout.state is RolloutState.RUNNING
    room.sync(away)  # it comes back after all that time, and has its own time before it
    room.clock.advance(25)
    room.sync(stuck)
    room.rollouts.tick()
    room.rollouts.tick()
    ended = room.look(status.rollout.id)
    assert ended.rollout.state is RolloutState.ROLLING_BACK
    assert ended.progress.waits_for == ("stuck", "away")
    assert "1 of 2 devices gave up" in ended.rollout.message
    assert "stuck: It calls, and has not said for 400 s" in ended.rollout.message


def test_rollout_that_nobody_stands_and_nobody_minds_ends():
    room = FleetRoom()
    device = room.join("d")
    status = room.roll_out(stages=(100,), min_healthy=0.0)
    room.rollouts.tick()
    room.obey(device, _BAD)
    room.rollouts.tick()
    room.rollouts.tick()
    ended = room.look(status.rollout.id)
    assert ended.rollout.state is RolloutState.DONE
    assert (ended.progress.failed, ended.progress.troubles) == (1, ("d",))


def test_device_that_knows_more_than_a_restored_database_is_told_anew():
    room = FleetRoom()
    device = room.join("d")
    room.roll_out(stages=(100,))
    room.rollouts.tick()
    room.said[device.device_id] = (40, _GOOD, "version_of_before")
    assert room.sync(device).assignment.number == 41


# What is kept


def bring(room: FleetRoom, device: Caller, first: int, *records: OutboxRecord, lane=Lane.FACTS, epoch="e1") -> int:
    ask = UploadOutbox(
        device=device.device_id, epoch=epoch, lane=lane, oldest=0, first=first, now=room.clock.now(), records=records
    )
    return room.do(ask, device).next


def predicted(nth: int, run: str = RUN) -> Predicted:
    return Predicted(run=run, nth=nth, at=1.0, rows=1, latency_us=1, outputs="[]")


def count(room: FleetRoom, *places) -> list[int]:
    return [room.store.read(lambda view, place=place: view.count(place)) for place in places]


def test_predictions_and_samples_are_forgotten_after_their_time_and_their_sums_are_not():
    room = FleetRoom()
    device = room.join("d")
    bring(room, device, 0, RunBegan(run=RUN, version="v", at=1.0), predicted(0), predicted(1))
    bring(room, device, 0, Sampled(run=RUN, nth=0, at=1.0, inputs="[]"), lane=Lane.SAMPLES)
    room.clock.advance(60 * 86_400)
    bring(room, device, 3, predicted(2))
    room.clock.advance(31 * 86_400)
    assert room.keeping.tick() > 60
    assert count(room, DEVICE_CHUNKS, SAMPLE_CHUNKS, DEVICE_RUNS) == [1, 0, 1]
    report = room.do(GetDevice(name="d")).report
    assert (report.predictions, report.forgotten) == (3, 2)
    found = [room.devices.find_prediction(name_prediction(RUN, nth), "p") is not None for nth in range(3)]
    assert found == [False, False, True]
    room.clock.advance(365 * 86_400)
    room.keeping.tick()
    assert count(room, DEVICE_CHUNKS, DEVICE_RUNS) == [0, 1], "it still serves in its newest run"
    assert bring(room, device, 4, predicted(3)) == 5
    report = room.do(GetDevice(name="d")).report
    assert (report.predictions, report.forgotten, report.refused) == (4, 3, 0)
    kept = room.store.read(lambda view: view.select(DEVICE_CHUNKS))
    assert report.kept_bytes == sum(len(chunk.lines) for chunk in kept)


def test_device_that_brings_too_much_loses_its_oldest_samples_and_then_its_oldest_predictions():
    room = FleetRoom()
    room.keeping._keep_bytes = 2_000
    device = room.join("d")
    bring(room, device, 0, RunBegan(run=RUN, version="v", at=1.0))
    for n in range(10):
        bring(room, device, n, Sampled(run=RUN, nth=n, at=1.0, inputs="x" * 100), lane=Lane.SAMPLES)
    assert count(room, SAMPLE_CHUNKS) == [10]
    for n in range(60):
        room.clock.advance(1)
        bring(room, device, n + 1, predicted(n))
        assert room.do(GetDevice(name="d")).report.kept_bytes <= 2_000
    assert count(room, SAMPLE_CHUNKS) == [0]
    report = room.do(GetDevice(name="d")).report
    (left,) = count(room, DEVICE_CHUNKS)
    assert (report.predictions, report.forgotten) == (60, 60 - left)
    assert room.devices.find_prediction(name_prediction(RUN, 59), "p")


def test_many_silent_devices_do_not_keep_old_runs_of_others(monkeypatch):
    monkeypatch.setattr("skyloom.rooms.devices.keeping._SOME", 3)
    room = FleetRoom()
    devices = [room.join(f"d{n}") for n in range(5)]
    for n, device in enumerate(devices):
        bring(room, device, 0, RunBegan(run=f"rep_{n:026d}", version="v", at=1.0))
    room.clock.advance(1)
    for n in range(2):
        bring(room, devices[4], n + 1, RunBegan(run=f"rep_{n + 5:026d}", version="v", at=1.0))
    room.clock.advance(100 * 86_400)
    room.keeping.tick()
    assert count(room, DEVICE_RUNS) == [5]


def test_device_that_begins_ever_new_outboxes_and_runs_fills_nothing():
    room = FleetRoom()
    room.keeping._keep_runs = 5
    device = room.join("d")
    for n in range(20):
        room.clock.advance(1)
        run = f"rep_{n:026d}"
        bring(room, device, 0, RunBegan(run=run, version="v", at=1.0), predicted(0, run), epoch=f"e{n}")
        room.do(SyncDevice(device=device.device_id, now=1.0, epoch=f"e{n}"), device)
    runs, chunks, positions = count(room, DEVICE_RUNS, DEVICE_CHUNKS, POSITIONS)
    assert (runs, chunks) == (5, 5)
    assert positions <= 10
    report = room.store.read(lambda view: view.get(DEVICE_REPORTS, device.device_id))
    assert (report.predictions, report.forgotten) == (20, 15)
