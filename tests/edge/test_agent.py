"""What a device brings when the cloud cannot read all of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from skyloom.core import digests
from skyloom.core.errors import InvalidInput
from skyloom.core.operation import Caller
from skyloom.edge import deployment as rules
from skyloom.edge.agent import Agent
from skyloom.edge.deployment import Deployment
from skyloom.edge.home import DeviceFile, Home, load_deployment
from skyloom.edge.link import CloudLink, LinkDown
from skyloom.edge.outbox import DeviceOutbox
from skyloom.rooms.devices.messages import (
    Assignment,
    DeviceOrders,
    Happened,
    Lane,
    OutboxRecord,
    OutboxTaken,
    Predicted,
    RunBegan,
    UploadOutbox,
)
from skyloom.rooms.devices.model import GetDevice
from skyloom.rooms.devices.ports import DEVICE_CHUNKS
from skyloom.rooms.devices.rules import intake
from tests.edge.devices import until
from tests.edge.pulling import PowerLost
from tests.edge.test_bundles import MANIFEST, TOLD, FakeLink, is_whole
from tests.edge.test_outbox import predicted, run_id
from tests.edge.test_process import RING
from tests.rooms.devices.fleet_room import FleetRoom


def fine(_bundle: Path, _manifest: str) -> None:
    """Whatever is tried, it works."""


class PickyCloud:
    """Takes records by the cloud's own rule, but refuses any chunk that holds a word it does not know."""

    def __init__(self, *unknown: bytes) -> None:
        self.unknown, self.position, self.skipped = unknown, 0, 0
        self.taken: list[str] = []

    def ask(self, ask: UploadOutbox, fields: dict) -> OutboxTaken:
        records = [bytes(raw) for raw in fields["records"]]
        if any(word in record for word in self.unknown for record in records):
            raise InvalidInput("devices.upload: Invalid value.", next_action="Correct that field.")
        plan = intake(self.position, ask.oldest, ask.first, len(records))
        self.position, self.skipped = plan.next, self.skipped + plan.skipped
        self.taken += [msgspec.json.decode(record)["message"] for record in records[plan.start :]]
        return OutboxTaken(next=self.position)


@pytest.fixture
def outbox(tmp_path: Path) -> DeviceOutbox:
    box = DeviceOutbox(tmp_path / "outbox")
    for n in range(6):
        box.write([Happened(at=1.0, message=f"news {n}")])
    return box


def bring(outbox: DeviceOutbox, cloud: PickyCloud, tmp_path: Path) -> list[str]:
    said: list[str] = []
    agent = Agent(
        Home(tmp_path), outbox, Deployment(), None, interval_s=1.0, switch=lambda: None, say=said.append, attempt=fine
    )
    file = DeviceFile(url="http://h", project="p", device="dev_1", name="d", token="t", ring=RING)
    orders = DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0))
    agent._bring(cloud, file, orders)
    assert agent._positions[Lane.FACTS] == cloud.position
    return said


def test_record_that_the_cloud_cannot_read_is_passed_over_alone_and_counted(outbox, tmp_path):
    cloud = PickyCloud(b"news 2", b"news 5")
    said = bring(outbox, cloud, tmp_path)
    assert cloud.taken == ["news 0", "news 1", "news 3", "news 4"]
    assert len(said) == 2
    outbox.write([Happened(at=1.0, message="news 6")])
    bring(outbox, cloud, tmp_path)
    assert (cloud.taken[-1], cloud.skipped) == ("news 6", 2)


def test_outbox_that_the_cloud_can_read_is_brought_whole(outbox, tmp_path):
    cloud = PickyCloud()
    assert bring(outbox, cloud, tmp_path) == []
    assert (len(cloud.taken), cloud.skipped) == (6, 0)


def test_device_whose_disk_is_full_calls_all_the_same_because_that_makes_room(outbox, tmp_path):
    class Full:
        traffic = None

        def count(self):
            raise OSError(28, "No space left on device")

    calls = []
    home = Home(tmp_path)
    agent = Agent(
        home, outbox, Deployment(), Full(), interval_s=0.01, switch=lambda: None, say=lambda _: None, attempt=fine
    )
    agent._call = lambda: calls.append(1) or True
    agent._probation = lambda: agent._count()
    agent.start()
    until(lambda: len(calls) > 3)
    agent.close()


def test_two_machines_with_one_folder_lose_nothing_and_are_told_apart(tmp_path):
    """Both copies write and call in turns; everything of both arrives, and the cloud says that there are two."""
    room = FleetRoom()
    device = room.join("kiosk")
    file = DeviceFile(url="http://h", project="p", device=device.device_id, name="kiosk", token="t", ring=RING)
    first = DeviceOutbox(tmp_path / "a")
    first.write([RunBegan(run=run_id(1), version="v", at=1.0), *(predicted(1, n) for n in range(5))])
    first.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    agents = []
    for number, name in enumerate("ab", 2):
        box = DeviceOutbox(tmp_path / name)
        box.write([RunBegan(run=run_id(number), version="v", at=1.0), *(predicted(number, n) for n in range(4))])
        agents.append(
            Agent(Home(tmp_path), box, Deployment(), None, interval_s=1.0, switch=lambda: None, say=print, attempt=fine)
        )
    for agent in (*agents, *agents, *agents):
        orders = room.do(agent._report(file), device)
        agent._bring(RoomLink(room, device), file, orders)
    assert sorted(numbers_of(room)) == sorted(
        [*((1, n) for n in range(5)), *((r, n) for r in (2, 3) for n in range(4))]
    )
    assert "Two machines speak as it" in room.do(GetDevice(name="kiosk")).message


class RoomLink:
    """A cloud without a network in between."""

    def __init__(self, room: FleetRoom, device: Caller) -> None:
        self.room, self.device = room, device

    def ask(self, ask: UploadOutbox, fields: dict) -> OutboxTaken:
        records = tuple(msgspec.json.decode(raw, type=OutboxRecord) for raw in fields["records"])
        return self.room.do(msgspec.structs.replace(ask, records=records), self.device)


def numbers_of(room: FleetRoom) -> list[tuple[int, int]]:
    chunks = room.store.read(lambda view: view.select(DEVICE_CHUNKS))
    lines = [line for chunk in chunks for line in msgspec.json.decode(chunk.lines, type=list[Predicted])]
    return [(int(line.run[4:]), line.nth) for line in lines]


def test_disk_that_is_behind_the_cloud_sends_all_it_has_as_a_new_outbox(outbox, tmp_path):
    cloud = PickyCloud()
    before = outbox.epoch
    agent = Agent(
        Home(tmp_path),
        outbox,
        Deployment(),
        None,
        interval_s=1.0,
        switch=lambda: None,
        say=lambda _: None,
        attempt=fine,
    )
    file = DeviceFile(url="http://h", project="p", device="dev_1", name="d", token="t", ring=RING)
    orders = DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0), facts=100)
    agent._bring(cloud, file, orders)
    assert outbox.epoch != before
    assert len(cloud.taken) == 6


class Killer:
    """Ends the process, so to speak, at the k-th thing that a disk is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        for place, name in ((os, "fsync"), (os, "write"), (os, "replace"), (Path, "replace"), (Path, "mkdir")):
            monkeypatch.setattr(place, name, self._counted(getattr(place, name)))

    def _counted(self, real: Callable) -> Callable:
        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                raise PowerLost
            return real(*arguments, **options)

        return call


def test_switch_that_is_killed_at_every_disk_call_leaves_the_old_or_the_new_and_is_done_in_the_end(
    tmp_path, monkeypatch
):
    room = FleetRoom()
    device = room.join("kiosk")
    rings = room.sync(device).rings
    file = DeviceFile(url="u", project="p", device=device.device_id, name="kiosk", token="t", ring=rings[0])
    other = msgspec.json.encode(msgspec.structs.replace(MANIFEST, labels=("a",)))
    two = msgspec.structs.replace(TOLD, number=2, version="v2", label="2", manifest=digests.of_bytes(other))
    link = FakeLink()
    link.blobs[digests.of_bytes(other)] = other
    one, two = room.store.read(lambda view: [room.keys.sign(view, "p", device.device_id, told) for told in (TOLD, two)])
    kill, home = Killer(monkeypatch), Home(tmp_path / "home")
    home.make()
    agent = agent_of(home)
    agent._obey(link, file, one)
    agent._keep(rules.held(agent._deployment))
    shutil.copytree(home.folder, tmp_path / "before")
    for k in range(1, 200):
        shutil.rmtree(home.folder)
        shutil.copytree(tmp_path / "before", home.folder)
        kill.left = k
        try:
            agent_of(home)._obey(link, file, two)
        except PowerLost:
            now_is = load_deployment(home.deployment)
            assert now_is.current is not None
            assert now_is.current.label in "12"
            assert all(is_whole(home.bundles / name) for name in now_is.kept)
        else:
            assert kill.left > 0
            assert k > 20
            break
        finally:
            kill.left = -1
        agent_of(home)._obey(link, file, two)
        assert load_deployment(home.deployment).current.label == "2"
    else:
        pytest.fail("it never came to its end")


def agent_of(home: Home) -> Agent:
    """A process that begins: it knows what is on disk."""
    now_is, box = load_deployment(home.deployment), DeviceOutbox(home.outbox)
    agent = Agent(home, box, now_is, None, interval_s=1.0, switch=lambda: None, say=lambda _: None, attempt=fine)
    return agent


def test_device_obeys_though_nobody_takes_its_outbox(tmp_path, monkeypatch):
    home, obeyed = Home(tmp_path), []
    home.make()
    home.write(DeviceFile(url="http://h", project="p", device="dev_1", name="d", token="t", ring=RING))
    agent, told = agent_of(home), Assignment(number=3)

    def ask(_link, ask, fields=None):
        if isinstance(ask, UploadOutbox):
            raise LinkDown("The cloud's disk is full.", next_action="")
        return DeviceOrders(now=1.0, interval_s=1.0, assignment=told)

    monkeypatch.setattr(CloudLink, "ask", ask)
    monkeypatch.setattr(Agent, "_obey", lambda *told: obeyed.append(told[-1]))
    agent._outbox.write([Happened(at=1.0, message="news")])
    assert not agent._call() and obeyed == [told]
