"""A fleet on one machine: deployed, alone while the cloud is down, synced afterwards, updated by stages, and saved from a bad version."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from skyloom.edge.serving import EdgeOptions
from skyloom.rooms.devices.model import DeviceState
from skyloom.rooms.devices.rollout import RolloutState
from skyloom.rooms.lineage.model import Kind
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.sdk.client import Client
from skyloom.sdk.files import upload_file
from tests.control_plane import ControlPlane
from tests.edge.devices import EdgeDevice, EdgeProcess, EdgeThread, until
from tests.inference.serving import toy_model, write_bundle

pytestmark = pytest.mark.slow
OPTIONS = ("--sample", "0.5", "--interval", "0.1", "--longest-pause", "0.5")


def register(cloud: Client, folder: Path, seed: int, broken: bool = False) -> None:
    bundle = write_bundle(folder, toy_model(seed))
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    if broken:  # it says that it answers what it does not
        outputs = (msgspec.structs.replace(manifest.signature.outputs[0], name="wrong"),)
        signature = msgspec.structs.replace(manifest.signature, outputs=outputs)
        manifest = msgspec.structs.replace(manifest, signature=signature)
    for file in manifest.files:
        upload_file(cloud.transport, bundle / file.path)
    cloud.transport.send(RegisterModelVersion(model="toy", manifest=manifest))


@dataclasses.dataclass
class Fleet:
    plane: ControlPlane
    process: EdgeProcess
    threads: list[EdgeThread]

    @property
    def devices(self) -> list[EdgeDevice]:
        return [self.process, *self.threads]

    def told(self) -> str:
        return "\n".join(f"--- {device.home.name}\n{device.told()}" for device in self.devices)

    def wait(self, condition, timeout_s: float = 90) -> None:
        until(condition, self.told, timeout_s)


@pytest.fixture
def fleet(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr("skyloom.sdk.devices._PAUSE_S", 0.1)
    fleet = Fleet(control_plane, EdgeProcess(tmp_path / "kiosk0"), [EdgeThread(tmp_path / f"kiosk{i}") for i in (1, 2)])
    with control_plane.client() as cloud:
        for seed, broken in ((1, False), (2, False), (3, True)):
            register(cloud, tmp_path / f"v{seed}", seed, broken)
        for device in fleet.devices:
            device.join(cloud.devices.enrol(device.home.name, {"site": "a"}).code, control_plane.url)
    options = EdgeOptions(interval_s=0.1, longest_pause_s=0.5, sample_share=0.5)
    try:
        fleet.process.start(*OPTIONS)
        for thread in fleet.threads:
            thread.start(options)
        yield fleet
    finally:
        for device in (fleet.process, *fleet.threads):
            device.stop()


def test_fleet_serves_offline_syncs_once_and_is_updated_and_saved_by_stages(fleet: Fleet) -> None:
    devices, plane = fleet.devices, fleet.plane
    with plane.client() as cloud:
        first = cloud.rollouts.create("toy", "1", stages=(100,), pause_s=0, probation_s=0.2)
        ended = cloud.rollouts.wait(first.rollout.id, timeout_s=30)
        assert ended.rollout.state is RolloutState.DONE, fleet.told()
    fleet.wait(lambda: all(device.serves("1") for device in devices))

    # Alone: the control plane is gone, a device is killed in the middle, and everything goes on.
    url = plane.url
    plane.kill()
    for device in devices:
        for _ in range(20):
            assert device.ask().status_code == 200
    fleet.process.kill()
    fleet.process.start(*OPTIONS)
    plane.start(SKYLOOM_PORT=url.rpartition(":")[2]).ready()
    fleet.wait(lambda: fleet.process.serves("1"))

    # Connected again: everything arrives, once.
    with plane.client() as cloud:

        def counted() -> tuple[int, int]:
            reports = [item.report for item in cloud.devices.list().items if item.report]
            return sum(report.predictions for report in reports), sum(
                report.dropped + report.refused for report in reports
            )

        made = [prediction for device in devices for prediction in device.made]
        fleet.wait(lambda: counted() == (len(made), 0))
        for prediction in made[::10]:
            tree = cloud.lineage.get(prediction).subject
            assert (tree.kind, tree.next[0].kind, tree.next[0].next[0].name) == (
                Kind.PREDICTION,
                Kind.DEVICE,
                "toy version 1",
            )

        # A good version by stages, then a bad one that is taken back.
        good = cloud.rollouts.create("toy", "2", labels={"site": "a"}, stages=(30, 100), pause_s=0.1, probation_s=0.2)
        assert cloud.rollouts.wait(good.rollout.id, timeout_s=30).progress.healthy == 3, fleet.told()
        assert all(device.serves("2") for device in devices)
        bad = cloud.rollouts.create("toy", "3", stages=(30, 100), pause_s=0.1, probation_s=0.2)
        ended = cloud.rollouts.wait(bad.rollout.id, timeout_s=30)
        assert ended.rollout.state is RolloutState.ROLLED_BACK, fleet.told()
        assert "1 of 1 devices gave up toy version 3" in ended.rollout.message
        assert all(device.serves("2") for device in devices)
        assert {item.wanted for item in cloud.devices.list().items} == {"toy:2"}

        # Each prediction that was made is there, and no other.
        made = [prediction for device in devices for prediction in device.made]
        assert len(set(made)) == len(made)
        fleet.wait(lambda: counted() == (len(made), 0))
        assert cloud.devices.samples("kiosk0").items
        assert {item.state for item in cloud.devices.list().items} == {DeviceState.ONLINE}
