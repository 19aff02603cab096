"""Guests that come and go: once for all who wait, never while busy, within bounds, and each by itself."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skyloom.core.errors import InvalidInput, SkyloomError
from skyloom.inference import model as models
from skyloom.inference.batcher import QueueFull, ReplicaDraining
from skyloom.inference.dataplane import ModelUnknown
from skyloom.inference.packing import guest as guest_module
from skyloom.inference.packing import guests as module
from skyloom.inference.packing.guest import Arrived, Guest, PackedModelBroken
from skyloom.inference.packing.guests import GuestBusy, GuestHouse, GuestTooLarge
from skyloom.rooms.serving.pack import GuestState, PackEntry, PackTable
from tests.inference.serving import toy_rows, write_bundle

ZERO = "sha256:" + "0" * 64


def entry(name: str, label: str = "1", size_bytes: int = 1) -> PackEntry:
    return PackEntry(model=name, version=f"v_{label}", label=label, folder="/", manifest=ZERO, size_bytes=size_bytes)


class Plane:
    """What answers for a guest: busy for as long as the test says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_idle, self.draining, self.closed = True, False, False

    def close(self) -> None:
        self.closed = True


class Place:
    """Guests over models that take as much memory, and as long, as the test says."""

    def __init__(self, folder: Path, *names: str, wait_s: float = 5.0, **bounds: Any) -> None:
        self.path = folder / "pack.json"
        self.write(*(entry(name) for name in names), **bounds)
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self.sizes: dict[str, int] = {}
        self.broken: dict[str, Exception] = {}
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.answers: list[str] = []
        self.guests = GuestHouse(self.path, self.load, lambda guest, _: Plane(guest.entry.model), wait_s, 1_000)  # type: ignore[arg-type, return-value]

    def write(self, *entries: PackEntry, **bounds: Any) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(PackTable(entries=entries, **bounds)))
        draft.replace(self.path)

    def load(self, entry: PackEntry, pace: Any) -> Arrived:
        assert threading.current_thread() is not threading.main_thread()
        assert self.may_go_on.wait(10)
        self.loaded.append(entry.model)
        if entry.model in self.broken:
            raise self.broken[entry.model]
        model = SimpleNamespace(close=lambda: self.closed.append(entry.model))
        return Arrived(model, "pace", self.sizes.get(entry.model, 10))  # type: ignore[arg-type]

    def ask(self, name: str, num_bytes: int = 1) -> Callable[[], None] | None:
        return self.guests.ask(
            name,
            "",
            lambda plane: self.answers.append(f"{name}: {plane.name}"),  # type: ignore[attr-defined]
            lambda error: self.answers.append(f"{name}: {type(error).__name__}"),
            num_bytes,
        )

    async def answered(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.answers) < count:
                await asyncio.sleep(0.002)
        return self.answers

    async def use(self, *names: str) -> None:
        for name in names:
            self.answers.clear()
            self.ask(name)
            assert await self.answered(1) == [f"{name}: {name}"]

    async def let_go(self, *names: str) -> None:
        """Wait until these models, and no others, were closed; that happens on the thread."""
        async with asyncio.timeout(10):
            while set(self.closed) != set(names):
                await asyncio.sleep(0.002)

    def there(self) -> set[str]:
        return {guest.entry.model for guest in self.guests if guest.state is GuestState.LOADED}

    def plane(self, name: str) -> Plane:
        found = self.guests.get(name).plane
        assert isinstance(found, Plane)
        return found


def test_guest_that_has_been_broken_for_days_is_still_told_so_and_holds_up_no_other(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "bad", "good")
        place.broken["bad"] = InvalidInput("no", next_action="no")
        place.guests.get("bad").failures = 5_000  # a minute each
        place.ask("bad")
        place.ask("good")
        assert sorted(await place.answered(2)) == ["bad: PackedModelBroken", "good: good"]
        assert place.guests.get("bad").retry_at <= asyncio.get_running_loop().time() + 60.0
        place.guests.close()

    on_a_loop(work)


def test_guest_that_was_never_in_memory_tells_of_its_refusals_and_one_that_nobody_asked_for_nothing(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "bad", "idle")
        place.broken["bad"] = InvalidInput("no", next_action="no")
        place.ask("bad")
        await place.answered(1)
        place.guests.get("bad").traffic.answered(500, 0.01)
        assert [(one.model, one.traffic.server_errors) for one in place.guests.seen()] == [("bad", 1)]
        place.guests.close()

    on_a_loop(work)


def test_table_that_cannot_be_read_is_said_once_and_guests_that_leave_are_closed_too(tmp_path, capsys):
    async def work() -> None:
        place = Place(tmp_path, "one", "two")
        await place.use("one")
        plane = place.plane("one")
        plane.is_idle = False
        place.write(entry("two"))
        place.guests.refresh()
        place.path.write_bytes(b"{")
        for _ in range(3):
            place.guests.refresh()
        assert capsys.readouterr().err.count("cannot be read") == 1
        place.guests.close()
        assert plane.closed

    on_a_loop(work)


def test_loading_that_ends_in_the_middle_leaves_no_model_in_memory(tmp_path, monkeypatch):
    closed = []
    model = SimpleNamespace(close=lambda: closed.append(True), rehearsal=None, work_clock=None)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(models, "load", lambda *_: model)
    monkeypatch.setattr(guest_module.Pace, "measure", no_memory)
    plan = SimpleNamespace(cpus=1.0, gpus=0, limits=SimpleNamespace(max_batch_rows=1))
    with pytest.raises(MemoryError):
        guest_module.loader(plan, lambda: 0)(entry("one"), None)
    assert closed == [True]


def on_a_loop(work: Callable[[], Any]) -> None:
    asyncio.run(work())


def test_many_that_wait_for_one_guest_are_served_by_one_load_and_the_loop_goes_on(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "b")
        place.may_go_on.clear()
        for _ in range(50):
            place.ask("a")
        place.ask("b")
        await asyncio.sleep(0)
        assert place.guests.get("a").state is GuestState.LOADING
        assert not place.guests.is_idle
        place.may_go_on.set()
        assert (await place.answered(51)).count("a: a") == 50
        assert place.loaded == ["a", "b"]
        assert place.ask("a") is None  # in memory: answered at once
        assert place.answers[-1] == "a: a" and place.guests.is_idle
        place.guests.close()

    on_a_loop(work)


def test_guest_that_was_asked_for_longest_ago_goes_by_number_and_by_measured_memory(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "b", "c", max_loaded=2)
        await place.use("a", "b", "a", "c")
        assert place.there() == {"a", "c"}
        place.write(*(entry(name) for name in "abcd"), memory_bytes=30)
        place.guests.refresh()
        place.sizes["d"] = 25  # it said nothing of that: only loading it tells
        await place.use("d")
        assert place.there() == {"d"}
        await place.let_go("a", "b", "c")
        place.write(*(entry(name) for name in "abcd"), memory_bytes=5)
        place.guests.refresh()
        assert place.there() == set()
        place.guests.close()

    on_a_loop(work)


def test_busy_guest_stays_and_who_needs_its_room_is_told_so_in_time(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "b", max_loaded=1, wait_s=0.05)
        await place.use("a")
        place.plane("a").is_idle = False
        place.ask("b")
        assert await place.answered(2) == ["a: a", "b: GuestOnItsWay"]
        assert place.there() == {"a"} and place.loaded == ["a"]
        with pytest.raises(GuestBusy):
            place.guests.unload("a")
        place.guests._wait_s = 10.0
        place.ask("b")
        place.plane("a").is_idle = True
        assert await place.answered(3) == ["a: a", "b: GuestOnItsWay", "b: b"]
        place.guests.unload("b")
        assert place.there() == set() and place.guests.get("b").state is GuestState.ABSENT
        place.guests.close()

    on_a_loop(work)


class Stream:
    """Requests for a guest that overlap for ever: the next one is sent before the last one is answered."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.name = place, name
        self.answered = self.under_way = 0
        self.failures: list[str] = []

    def send(self) -> None:
        self.place.guests.ask(self.name, "", self._begun, lambda error: self.failures.append(type(error).__name__))

    def _begun(self, plane: Any) -> None:
        self.under_way += 1
        plane.is_idle = False
        asyncio.get_running_loop().call_later(0.01, self._done, plane)

    def _done(self, plane: Any) -> None:
        self.send()
        self.under_way -= 1
        self.answered += 1
        plane.is_idle = self.under_way == 0


def test_guests_under_steady_load_keep_nobody_out_and_each_has_its_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.04)

    async def work() -> None:
        place = Place(tmp_path, "a", "b", "c", max_loaded=1)
        streams = [Stream(place, name) for name in "ab"]
        for stream in streams:
            stream.send()
            stream.send()
        place.ask("c")
        assert await place.answered(1) == ["c: c"]
        async with asyncio.timeout(10):
            while any(place.loaded.count(name) < 3 for name in "ab"):
                await asyncio.sleep(0.002)
        assert not [stream.failures for stream in streams if stream.failures]
        assert all(stream.answered > 6 for stream in streams)  # a turn is more than one answer
        place.guests.close()

    on_a_loop(work)


def test_guest_that_waits_for_much_room_is_passed_by_no_small_ones_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.04)

    async def work() -> None:
        place = Place(tmp_path, "a", "b", "large", memory_bytes=25)
        place.sizes["large"] = 20
        await place.use("large", "a", "b")  # what each takes is known from here on
        for name in "ab":
            Stream(place, name).send()
        place.answers.clear()
        place.ask("large")
        assert await place.answered(1) == ["large: large"]
        place.guests.close()

    on_a_loop(work)


def test_guest_that_yields_to_one_that_nobody_waits_for_any_more_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)

    async def work() -> None:
        place = Place(tmp_path, "a", "b", max_loaded=1)
        await place.use("a")
        place.plane("a").is_idle = False
        place.guests.get("a").stays_until = 0.0
        leave = place.ask("b")
        assert place.guests.get("a").is_yielding
        place.answers.clear()
        assert place.ask("a") is not None
        assert leave is not None
        leave()
        assert await place.answered(1) == ["a: a"]
        assert place.loaded == ["a"]
        place.guests.close()

    on_a_loop(work)


def test_broken_guest_answers_for_itself_and_is_tried_again_later(tmp_path, monkeypatch, capsys):
    async def work() -> None:
        place = Place(tmp_path, "a", "bad", "worse")
        place.broken["bad"] = InvalidInput("It is damaged.", next_action="Export it again.")
        place.broken["worse"] = RuntimeError("/secret/path")
        for name in ("bad", "worse", "a"):
            place.ask(name)
        assert await place.answered(3) == ["bad: PackedModelBroken", "worse: PackedModelBroken", "a: a"]
        with pytest.raises(PackedModelBroken, match="'bad' version 1 cannot be loaded: It is damaged"):
            place.ask("bad")
        with pytest.raises(PackedModelBroken) as found:
            place.ask("worse")
        assert "/secret" not in str(found.value) and "/secret" in capsys.readouterr().err
        assert place.loaded == ["bad", "worse", "a"]
        del place.broken["bad"]
        place.guests.get("bad").retry_at = 0.0
        place.ask("bad")
        assert (await place.answered(4))[-1] == "bad: bad"
        assert place.guests.get("bad").failures == 0
        place.guests.close()

    on_a_loop(work)


def test_guest_larger_than_the_pack_is_refused_and_drives_nobody_out(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "huge", memory_bytes=30)
        place.sizes["huge"] = 100
        await place.use("a")
        place.ask("huge")
        assert (await place.answered(2))[-1] == "huge: GuestTooLarge"
        assert place.there() == {"a"}
        await place.let_go("huge")
        with pytest.raises(GuestTooLarge, match="needs 100 bytes"):
            place.ask("huge")
        place.write(entry("a"), entry("huge"), memory_bytes=200)
        place.guests.refresh()
        await place.use("huge")  # at once: the bound is another
        place.guests.close()

    on_a_loop(work)


def test_what_is_held_is_bounded_and_who_leaves_is_forgotten(tmp_path, monkeypatch):
    async def work() -> None:
        monkeypatch.setattr(module, "_MAX_HELD", 3)
        place = Place(tmp_path, "a", "b")
        place.may_go_on.clear()
        leave = place.ask("a", 600)
        with pytest.raises(QueueFull):
            place.ask("b", 600)
        assert leave is not None
        leave()
        leave()
        leaves = [place.ask("b", 1) for _ in range(3)]
        with pytest.raises(QueueFull):
            place.ask("a", 1)
        for one in leaves:
            assert one is not None
            one()
        assert place.guests.is_idle
        place.may_go_on.set()
        await place.use("a")
        assert place.loaded == ["a"]  # nobody waited for b any more
        place.guests.close()

    on_a_loop(work)


def test_pack_that_changes_keeps_what_is_the_same_and_lets_the_rest_finish(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "b", "c")
        await place.use("a", "b", "c")
        same, old, gone = place.plane("a"), place.plane("b"), place.plane("c")
        old.is_idle = gone.is_idle = False
        place.write(entry("a"), entry("b", "2"), entry("d"))
        place.guests.refresh()
        assert place.plane("a") is same and place.there() == {"a"}
        assert not old.closed and not gone.closed  # requests are under way
        for name, version in (("c", ""), ("b", "1")):
            with pytest.raises(ModelUnknown):
                place.guests.get(name, version)
        await place.use("b")
        assert place.guests.get("b", "2") and not place.guests.is_idle
        old.is_idle = gone.is_idle = True
        place.guests.refresh()
        assert old.closed and gone.closed and place.guests.is_idle
        place.path.write_bytes(b"{")
        place.guests.refresh()
        assert {guest.entry.model for guest in place.guests} == {"a", "b", "d"}
        place.guests.close()

    on_a_loop(work)


def test_draining_replica_tells_those_who_wait_to_go_elsewhere(tmp_path):
    async def work() -> None:
        place = Place(tmp_path, "a", "b")
        await place.use("a")
        place.may_go_on.clear()
        place.ask("b")
        place.guests.drain()
        assert place.answers[-1] == "b: ReplicaDraining" and place.plane("a").draining
        with pytest.raises(ReplicaDraining):
            place.ask("b")
        place.may_go_on.set()
        place.guests.close()

    on_a_loop(work)


def test_error_of_ours_while_handing_over_keeps_nobody_waiting(tmp_path, capsys):
    async def work() -> None:
        place = Place(tmp_path, "a")
        errors: list[SkyloomError] = []

        def wrong(plane: object) -> None:
            raise RuntimeError("a defect")

        place.guests.ask("a", "", wrong, errors.append)
        place.ask("a")
        assert await place.answered(1) == ["a: a"]
        assert [error.code for error in errors] == ["internal_error"]
        assert "a defect" in capsys.readouterr().err
        place.guests.close()

    on_a_loop(work)


def test_rows_of_a_guest_are_held_against_those_of_its_own_training(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")  # with a profile
    model = models.load(folder, 1)
    guest = Guest(entry("toy"))
    guest.traffic.answered(503, 0.1)  # before it came
    guest.settled(model)
    rows = toy_rows(300)
    guest.traffic.watch([rows], model.run([rows]))
    guest.loads += 1
    guest.settled(model)  # another stay
    seen = guest.seen().traffic
    assert (seen.requests, seen.server_errors, seen.rows) == (1, 1, 300)
    assert [histogram.total for histogram in seen.histograms] == [300] * len(model.profile.features) != []
    model.close()


def test_model_that_does_not_fit_its_profile_is_let_go_again(tmp_path: Path) -> None:
    async def work() -> None:
        place = Place(tmp_path, "a")

        def misfit(guest: Guest, arrived: Arrived) -> Any:
            raise InvalidInput("The profile watches what is not there.", next_action="Register it again.")

        place.guests._settle = misfit
        place.ask("a")
        assert await place.answered(1) == ["a: PackedModelBroken"]
        await place.let_go("a")

    asyncio.run(work())


def test_guest_that_arrives_while_its_replica_drains_takes_nothing_new(tmp_path: Path) -> None:
    async def work() -> None:
        place = Place(tmp_path, "a")
        place.may_go_on.clear()
        place.ask("a")
        await asyncio.sleep(0)
        place.guests.drain()
        place.may_go_on.set()
        async with asyncio.timeout(10):
            while place.guests.get("a").plane is None:
                await asyncio.sleep(0.002)
        assert place.plane("a").draining

    asyncio.run(work())
