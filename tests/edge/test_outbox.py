"""The outbox against a disk that loses power and a cloud that loses answers: nothing twice, nothing synced is lost, gaps are told."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.core.errors import Unavailable
from skyloom.edge.lane import RecordLane, read_piece
from skyloom.edge.outbox import DeviceOutbox, RecordTooLarge, mark_of
from skyloom.rooms.devices.messages import Dropped, Happened, Lane, Predicted, RunBegan, SyncDevice, UploadOutbox
from skyloom.rooms.devices.model import GetDevice
from skyloom.rooms.devices.ports import DEVICE_CHUNKS
from skyloom.stores.memory import MemoryStore
from tests.edge.pulling import FrailDisk, PowerLost
from tests.rooms.devices.fleet_room import FleetRoom

RARE = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def run_id(number: int) -> str:
    return f"rep_{number:026d}"


def predicted(run: int, nth: int) -> Predicted:
    return Predicted(run=run_id(run), nth=nth, at=1.0, rows=1, latency_us=1)


class FrailStore(MemoryStore):
    """A store whose process dies around a commit: before it nothing is kept, after it the answer is lost."""

    dies = ""

    def write(self, work):
        dies, self.dies = self.dies, ""
        if dies == "before":
            super().read(lambda view: None)
            raise Unavailable("killed before the commit", next_action="")
        answer = super().write(work)
        if dies == "after":
            raise Unavailable("killed after the commit", next_action="")
        return answer


class Journey:
    """One device writing and sending, with accidents on both sides."""

    def __init__(self, folder: Path, seed: int, max_bytes: int, kill_only: bool) -> None:
        self.folder, self.random, self.max_bytes, self.kill_only = folder, random.Random(seed), max_bytes, kill_only
        self.store = FrailStore()
        self.room = FleetRoom(self.store)
        self.device = self.room.join("kiosk")
        self.run = 0
        self.synced: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.old: list[UploadOutbox] = []
        self.start()

    def start(self) -> None:
        """A new process: it opens the outbox, and may lose power while it does."""
        self.run += 1
        self.written[self.run] = 0
        while True:
            die_soon = self.random.random() < 0.2
            self.disk = FrailDisk(
                self.random.randrange(2**32), self.random.randint(1, 4) if die_soon else None, self.kill_only
            )
            try:
                self.box = DeviceOutbox(self.folder, self.max_bytes, self.disk)
            except PowerLost:
                self.disk.after_power_loss(self.folder)
                continue
            break
        self.box.preface = (RunBegan(run=run_id(self.run), version="v", at=1.0),)
        self.disk.dies_at = self.disk.steps + self.random.randint(1, 60) if self.random.random() < 0.6 else None

    def step(self) -> None:
        try:
            self.random.choices((self.write, self.sync, self.send, self.resend, self.restart), (8, 3, 4, 2, 0.5))[0]()
        except PowerLost:
            self.disk.after_power_loss(self.folder)
            self.start()

    def write(self) -> None:
        count = self.random.randint(1, 20)
        first = self.written[self.run]
        self.box.write([predicted(self.run, first + nth) for nth in range(count)])
        self.written[self.run] += count
        if self.kill_only:
            self.synced[self.run] = self.written[self.run]

    def sync(self) -> None:
        self.box.sync()
        self.synced[self.run] = self.written[self.run]

    def restart(self) -> None:
        self.sync()
        self.box.close()
        self.start()

    def send(self) -> None:
        if self.random.random() < 0.5:  # only what is synced is ever sent, whoever forgets to sync first
            self.sync()
        position = self.position()
        assert not self.box.departs(Lane.FACTS, position, self.mark), "the cloud has what this disk has not"
        for _ in range(self.random.randint(1, 3)):
            piece = self.box.read(Lane.FACTS, position)
            if not piece.payloads:
                return
            cut = self.random.randint(1, len(piece.payloads))
            ask = self.chunk(piece, piece.first, piece.payloads[:cut])
            later = self.chunk(piece, piece.first + cut, piece.payloads[cut:])
            if later.records and self.random.random() < 0.3:  # it overtakes the one before it
                self.room.do(later, self.device)
            self.old += [ask, later]
            self.store.dies = self.random.choice(["", "", "", "before", "after"])
            try:
                position = self.room.do(ask, self.device).next
            except Unavailable:
                return
            if self.random.random() < 0.7:
                self.box.taken(Lane.FACTS, position)

    def chunk(self, piece, first: int, payloads) -> UploadOutbox:
        return UploadOutbox(
            device=self.device.device_id, epoch=self.box.epoch.id, lane=Lane.FACTS, base=self.box.epoch.facts,
            oldest=piece.oldest, first=first, now=1.0, mark=mark_of(payloads[-1]) if payloads else "",
            records=tuple(msgspec.json.decode(p, type=RunBegan | Predicted | Happened | Dropped) for p in payloads),
        )  # fmt: skip

    def resend(self) -> None:
        """An old chunk comes once more, late: a proxy that repeats, or a device that lost the answer."""
        if self.old:
            self.room.do(self.random.choice(self.old), self.device)

    def position(self) -> int:
        ask = SyncDevice(device=self.device.device_id, now=1.0, epoch=self.box.epoch.id)
        orders = self.room.do(ask, self.device)
        self.mark = orders.facts_mark
        return orders.facts

    def finish(self) -> None:
        self.disk.dies_at = None
        self.sync()
        position = self.position()
        while (piece := self.box.read(Lane.FACTS, position)).payloads:
            position = self.room.do(self.chunk(piece, piece.first, piece.payloads), self.device).next
        self.box.close()

    def arrived(self) -> dict[int, list[int]]:
        chunks = self.store.read(lambda view: view.select(DEVICE_CHUNKS))
        found: dict[int, list[int]] = {}
        for chunk in chunks:
            lines = msgspec.json.decode(chunk.lines, type=list[Predicted])
            found.setdefault(int(chunk.run[4:]), []).extend(line.nth for line in lines)
        return found


@RARE
@given(seed=st.integers(0, 2**32), kill_only=st.booleans())
def test_outbox_through_crashes_at_every_write_on_both_sides_has_no_gap_and_no_duplicate(
    tmp_path_factory, seed, kill_only
):
    journey = Journey(tmp_path_factory.mktemp("box") / "outbox", seed, 2**24, kill_only)
    for _ in range(60):
        journey.step()
    journey.finish()
    arrived = journey.arrived()
    for run, numbers in arrived.items():
        assert sorted(numbers) == list(range(len(numbers))), "a gap or a duplicate"
        assert len(numbers) <= journey.written[run] + 20
    for run, count in journey.synced.items():
        assert len(arrived.get(run, [])) >= count, "something that was on disk did not arrive"
    report = journey.room.do(GetDevice(name="kiosk")).report
    assert (report.predictions, report.refused) == (sum(map(len, arrived.values())), 0)


@RARE
@given(seed=st.integers(0, 2**32))
def test_outbox_that_is_full_loses_nothing_silently(tmp_path_factory, seed):
    """Without crashes: what arrived and what the cloud counts as given up is all that was written."""
    journey = Journey(tmp_path_factory.mktemp("box") / "outbox", seed, 16_384, True)
    journey.disk.dies_at = None
    for _ in range(80):
        journey.random.choices((journey.write, journey.send), (9, 1))[0]()
        assert journey.box.size_bytes <= 16_384 + 2 * 4_096
    journey.finish()
    arrived = journey.arrived()
    assert all(len(numbers) == len(set(numbers)) for numbers in arrived.values())
    report = journey.room.do(GetDevice(name="kiosk")).report
    lost = sum(journey.written.values()) - sum(map(len, arrived.values()))
    assert lost <= report.dropped, "records were lost that nobody counted"
    assert report.refused == 0
    assert bool(lost) <= report.note.startswith("Its outbox was full")


def test_outbox_gives_up_the_oldest_samples_before_any_fact(tmp_path):
    box = DeviceOutbox(tmp_path / "outbox", 16_384)
    for n in range(200):
        box.write([Happened(at=1.0, message=f"sample {n} " + "x" * 80)], Lane.SAMPLES)
    box.write([Happened(at=1.0, message="fact")])
    box.sync()
    samples, facts = box.read(Lane.SAMPLES, 0), box.read(Lane.FACTS, 0)
    assert samples.oldest == samples.first > 0
    assert facts.first == 0
    assert b"fact" in facts.payloads[-1]
    assert all(b"dropped" in payload for payload in facts.payloads[:-1])


def test_outbox_whose_disk_takes_no_more_says_so_and_keeps_what_it_has(tmp_path):
    class Full(FrailDisk):
        full = False

        def append(self, descriptor, content):
            if self.full:
                super().append(descriptor, content[:3])
                raise OSError(28, "No space left on device")
            super().append(descriptor, content)

    disk = Full()
    box = DeviceOutbox(tmp_path / "outbox", 2**20, disk)
    box.write([Happened(at=1.0, message="first")])
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        box.write([Happened(at=1.0, message="second")])
    disk.full = False
    box.write([Happened(at=1.0, message="third")])
    box.close()
    again = DeviceOutbox(tmp_path / "outbox", 2**20)
    assert [msgspec.json.decode(payload)["message"] for payload in again.read(Lane.FACTS, 0).payloads] == [
        "first",
        "third",
    ]
    again.close()


def test_record_that_went_bad_ends_its_segment_and_the_reader_tells_the_hole(tmp_path):
    lane = RecordLane(tmp_path / "lane", FrailDisk(), 4_096)
    for n in range(100):
        lane.append([b"%03d" % n + b"x" * 100])
    lane.close()
    first = sorted((tmp_path / "lane").iterdir())[0]
    content = bytearray(first.read_bytes())
    content[116 * 5 + 40] ^= 1
    first.write_bytes(content)
    lane = RecordLane(tmp_path / "lane", FrailDisk(), 4_096)
    assert [p[:3] for p in read_piece(lane.readable(), 0, 1000, 2**20).payloads] == [
        b"000",
        b"001",
        b"002",
        b"003",
        b"004",
    ]
    following = read_piece(lane.readable(), 5, 1000, 2**20)
    assert (following.oldest, following.payloads[0][:3]) == (following.first, b"%03d" % following.first)
    assert following.first > 5
    lane.close()


def test_half_record_that_cannot_be_cut_now_is_cut_before_anything_follows_it(tmp_path):
    class Broken(FrailDisk):
        broken = False

        def append(self, descriptor, content):
            super().append(descriptor, content[:5] if self.broken else content)
            if self.broken:
                raise OSError(5, "Input/output error")

        def cut(self, descriptor, size_bytes):
            if self.broken:
                raise OSError(5, "Input/output error")
            super().cut(descriptor, size_bytes)

    disk = Broken()
    box = DeviceOutbox(tmp_path / "outbox", 2**20, disk)
    box.write([Happened(at=1.0, message="first")])
    for disk.broken in (True, False):
        if disk.broken:
            with pytest.raises(OSError, match="Input/output"):
                box.write([Happened(at=1.0, message="second")])
        else:
            box.write([Happened(at=1.0, message="third")])
    box.sync()
    payloads = box.read(Lane.FACTS, 0).payloads
    assert [msgspec.json.decode(payload)["message"] for payload in payloads] == ["first", "third"]
    box.close()


def test_record_that_nobody_could_read_back_is_refused(tmp_path):
    box = DeviceOutbox(tmp_path / "outbox")
    with pytest.raises(RecordTooLarge):
        box.write([Happened(at=1.0, message="x" * 2**19)])
    assert box.size_bytes == 0
    box.close()


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_outbox_whose_name_went_bad_is_a_new_one_with_all_its_records(tmp_path, content):
    box = DeviceOutbox(tmp_path / "outbox")
    box.write([Happened(at=1.0, message="kept")])
    box.close()
    epoch = tmp_path / "outbox" / "epoch"
    epoch.unlink() if content is None else epoch.write_bytes(content)
    again = DeviceOutbox(tmp_path / "outbox")
    assert again.epoch.id != box.epoch.id
    assert len(again.read(Lane.FACTS, 0).payloads) == 1
    again.close()


def test_disk_with_other_records_below_the_clouds_position_than_the_cloud_was_told_departs(tmp_path):
    """An older copy that has written more meanwhile, or one of two machines with one folder: the numbers alone look right."""
    box = DeviceOutbox(tmp_path / "outbox")
    box.write([Happened(at=1.0, message=f"n{n}") for n in range(9)])
    box.sync()
    payloads = box.read(Lane.FACTS, 0).payloads
    assert not box.departs(Lane.FACTS, 5, mark_of(payloads[4]))
    assert not box.departs(Lane.FACTS, 5, "")
    assert not box.departs(Lane.FACTS, 0, "")
    assert box.departs(Lane.FACTS, 5, mark_of(b"another"))
    box.close()


def test_disk_that_is_an_older_copy_begins_a_new_epoch(tmp_path):
    box = DeviceOutbox(tmp_path / "outbox")
    box.write([Happened(at=1.0, message="a")])
    before = box.epoch
    assert box.departs(Lane.FACTS, 2, "")
    box.renew()
    assert box.epoch.id != before.id
    box.close()
    assert DeviceOutbox(tmp_path / "outbox").epoch == box.epoch
