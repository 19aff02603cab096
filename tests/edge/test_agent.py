"""What a device brings when the cloud cannot read all of it."""

from pathlib import Path

import msgspec
import pytest

from skyloom.core.errors import InvalidInput
from skyloom.edge.agent import Agent
from skyloom.edge.deployment import Deployment
from skyloom.edge.home import DeviceFile, Home
from skyloom.edge.outbox import DeviceOutbox
from skyloom.rooms.devices.messages import Assignment, DeviceOrders, Happened, Lane, OutboxTaken, UploadOutbox
from skyloom.rooms.devices.rules import intake
from tests.edge.test_process import RING


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
    agent = Agent(Home(tmp_path), outbox, Deployment(), None, interval_s=1.0, switch=lambda: None, say=said.append)
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


def test_disk_that_is_behind_the_cloud_sends_all_it_has_as_a_new_outbox(outbox, tmp_path):
    cloud = PickyCloud()
    before = outbox.epoch
    agent = Agent(Home(tmp_path), outbox, Deployment(), None, interval_s=1.0, switch=lambda: None, say=lambda _: None)
    file = DeviceFile(url="http://h", project="p", device="dev_1", name="d", token="t", ring=RING)
    orders = DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0), facts=100)
    agent._bring(cloud, file, orders)
    assert outbox.epoch != before
    assert len(cloud.taken) == 6
