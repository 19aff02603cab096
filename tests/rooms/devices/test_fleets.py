"""Drift over a fleet: the counters of many devices become one window, judged by the monitoring room's own rules and alerts."""

import msgspec
import pytest

from skyloom.core import digests
from skyloom.core.operation import Caller
from skyloom.rooms.devices.fleets import fleet_name
from skyloom.rooms.devices.messages import Counted, DeviceOutcome, Lane, RunBegan, UploadOutbox
from skyloom.rooms.devices.model import GetDevice, ListDevices
from skyloom.rooms.devices.ports import FLEET_TRAFFIC
from skyloom.rooms.devices.rollout import RolloutState
from skyloom.rooms.devices.rules import MOST
from skyloom.rooms.monitoring.model import (
    AlertState,
    Feature,
    GetMonitor,
    Histogram,
    ListAlerts,
    Profile,
    Reduction,
    Signal,
    Traffic,
)
from skyloom.rooms.registry.bundle import PROFILE_FILE, BundleFile
from skyloom.rooms.registry.model import RegisterModelVersion
from tests.rooms.devices.fleet_room import FleetRoom
from tests.rooms.workshop import manifest

PROFILE = Profile(
    features=(Feature(name="x", tensor="x", reduction=Reduction.COLUMN, edges=(1.0, 2.0, 3.0)),),
    histograms=(Histogram(counts=(250, 250, 250, 250)),),
)


class WatchedFleet(FleetRoom):
    """Four devices, two of each site, and a version whose inputs are known from training."""

    def __init__(self) -> None:
        super().__init__()
        content = msgspec.json.encode(PROFILE)
        self.blobs.put([content])
        made = manifest(self.blobs, b"profiled")
        others = tuple(file for file in made.files if file.path != PROFILE_FILE)
        profile = BundleFile(path=PROFILE_FILE, digest=digests.of_bytes(content), size_bytes=len(content))
        made = msgspec.structs.replace(made, files=(*others, profile))
        self.profiled = self.do(RegisterModelVersion(model="digits", manifest=made))
        self.places = [self.join(f"d{n}", site="a" if n < 2 else "b") for n in range(4)]
        self.sent: dict[tuple[str, int], int] = {}

    def deploy(self, number: int, outcome=DeviceOutcome.HEALTHY, **labels: str) -> RolloutState:
        status = self.roll_out(str(number), stages=(100,), labels=labels)
        for _ in range(4):
            self.rollouts.tick()
            for device in self.places:
                if self.sync(device).assignment.number > self.said.get(device.device_id, (0,))[0]:
                    back = self.look(status.rollout.id).rollout.state is not RolloutState.RUNNING
                    self.obey(device, DeviceOutcome.HEALTHY if back else outcome)
            self.clock.advance(61)
        return self.look(status.rollout.id).rollout.state

    def counts(self, device: Caller, *counts: int, run: int = 0, histograms: bool = True) -> None:
        """A device says what its run saw so far."""
        name, version = f"rep_{run}{device.device_id[-25:]}", self.said[device.device_id][2]
        first = self.sent.get((device.device_id, run), 0)
        seen = (Histogram(counts=counts),) if histograms else ()
        traffic = Traffic(requests=sum(counts), rows=sum(counts), histograms=seen)
        began = () if first else (RunBegan(run=name, version=version, at=1.0),)
        records = (*began, Counted(run=name, at=1.0, traffic=traffic))
        ask = UploadOutbox(
            device=device.device_id, epoch=f"e{run}", lane=Lane.FACTS, oldest=0, first=first, now=1.0, records=records
        )
        self.do(ask, device)
        self.sent[device.device_id, run] = first + len(records)

    def pass_time(self) -> None:
        for _ in range(3):
            self.fleets.tick()
            self.monitoring.tick()
            self.clock.advance(5)

    def alerts(self) -> list[tuple[str, Signal]]:
        return [(alert.endpoint_name, alert.signal) for alert in self.do(ListAlerts(state=AlertState.FIRING)).items]


@pytest.fixture
def room() -> WatchedFleet:
    return WatchedFleet()


def test_drift_of_a_fleet_fires_its_alert_though_no_device_alone_has_seen_enough(room):
    room.deploy(room.profiled.number, site="a")
    room.deploy(room.profiled.number, site="b")
    room.pass_time()
    for device in room.places[:2]:
        room.counts(device, 0, 0, 0, 120)
    for device in room.places[2:]:
        room.counts(device, 30, 30, 30, 30)
    room.pass_time()
    assert room.alerts() == [("fleet:digits:site.a", Signal.DRIFT)]
    told = room.do(GetMonitor(name="fleet:digits:site.a", window_s=600.0))
    assert (told.rows, told.drift[0].name, told.drift[0].drifted) == (240, "x", True)
    assert not room.do(GetMonitor(name="fleet:digits:site.b", window_s=600.0)).drift[0].drifted


def test_counters_that_come_twice_or_from_a_new_process_are_added_once(room):
    room.deploy(room.profiled.number)
    device = room.places[0]
    for total in (10, 30, 30):
        room.counts(device, total, 0, 0, 0)
    room.counts(device, 5, 0, 0, 0, run=1)
    sums = room.store.read(lambda view: view.select(FLEET_TRAFFIC))[-1].traffic
    assert (sums.requests, sums.histograms[0].counts) == (35, (35, 0, 0, 0))


def test_version_that_goes_back_is_watched_no_longer_and_the_one_before_is(room):
    room.deploy(room.profiled.number)
    other = room.register(b"other")
    assert room.deploy(other.number, DeviceOutcome.FAILED) is RolloutState.ROLLED_BACK
    room.pass_time()
    for device in room.places:
        room.counts(device, 0, 0, 0, 120)
    room.pass_time()
    assert room.alerts() == [("fleet:digits", Signal.DRIFT)]


def test_first_version_that_goes_back_leaves_nothing_to_watch(room):
    assert room.deploy(room.profiled.number, DeviceOutcome.FAILED) is RolloutState.ROLLED_BACK
    room.pass_time()
    assert room.alerts() == []
    assert room.fleets.tick() == 60.0


def test_device_that_lies_about_its_counts_breaks_neither_the_sums_nor_the_list_of_devices(room):
    """Sums beyond what a count can be would make records that nobody can read again."""
    room.deploy(room.profiled.number)
    liar, honest = room.places[:2]
    for run in range(3):
        room.counts(liar, MOST, run=run, histograms=False)
    room.counts(liar, 1, 2, 3, 4, 5, 6, run=3)
    room.counts(honest, 1, 1, 1, 1)
    assert room.do(GetDevice(name="d0")).report.traffic.requests == MOST
    sums = room.store.read(lambda view: view.select(FLEET_TRAFFIC))[-1]
    assert sums.traffic.histograms == (Histogram(counts=(1, 1, 1, 1)),)
    assert msgspec.json.decode(msgspec.json.encode(sums), type=type(sums)) == sums
    assert len(room.do(ListDevices()).items) == 4


def test_fleet_has_a_name_that_alerts_can_be_asked_for_by():
    assert fleet_name("digits", {}) == "fleet:digits"
    assert fleet_name("digits", {"site": "a", "kind": "kiosk"}) == "fleet:digits:kind.kiosk:site.a"
    long = [fleet_name("m" * 60, {"site": end * 80}) for end in "ab"]
    assert max(map(len, long)) <= 100
    assert len(set(long)) == 2
