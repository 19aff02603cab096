"""The guests of one replica: who is in memory, who is on the way, who waits for them. Lives on the event loop; loading does not.

A request for a guest that is not there is held, bounded in number, bytes and time; one load serves all that wait for it. Guests are loaded
one after the other on a thread of their own, so that what each takes can be measured. Before one comes, those that were asked for
longest ago go, but never one with requests under way.

So that models under steady load keep nobody out: who has waited too long is the next to come, and busy models that stayed their time take
nothing new until it is there. They wait for their own turn then, as everybody does.
"""

import asyncio
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from skyloom.core.errors import Conflict, InternalError, SkyloomError, Unavailable
from skyloom.inference.batcher import QueueFull, ReplicaDraining
from skyloom.inference.dataplane import DataPlane, ModelUnknown
from skyloom.inference.model import Model
from skyloom.inference.packing.gauge import give_back
from skyloom.inference.packing.guest import Arrived, Guest, Load, Waiter, broken
from skyloom.inference.packing.room import Resident, victims
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.monitoring.windows import merge_traffic
from skyloom.rooms.serving.pack import GuestReport, GuestState, GuestTraffic, PackEntry, PackTable

_MAX_TABLE_BYTES = 4 * 2**20
_MAX_HELD = 256
_LOOK_S = 0.02  # while everybody in memory is busy
_FIRST_RETRY_S, _LONGEST_RETRY_S = 2.0, 60.0
_PATIENCE_S = 2.0  # who waits for longer is passed by nobody; or a quarter of what a request may wait, if that is less
# A busy guest stays for so many times what it took to load, so that most of the time is not spent on loading.
_STAY_LOADS = 4

Settle = Callable[[Guest, Arrived], DataPlane]
"""Makes what answers for a guest that has arrived."""


class GuestOnItsWay(Unavailable):
    """A model of the pack was not in memory in time."""


class GuestTooLarge(InternalError):
    """A model of the pack needs more memory than all of the pack may have."""


class GuestBusy(Conflict):
    """A model with requests under way is not unloaded."""


class GuestHouse:
    """The pack of one replica.

    Args:
        path: the `PackTable`; "" for a replica without any.
        wait_s, max_held_bytes: bounds of what is held for guests on their way.
    """

    def __init__(self, path: Path | None, load: Load, settle: Settle, wait_s: float, max_held_bytes: int) -> None:
        self._path = path
        self._load = load
        self._settle = settle
        self._wait_s = wait_s
        self._patience_s = min(_PATIENCE_S, wait_s / 4)
        self._max_held_bytes = max_held_bytes
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="guests")
        self._table = PackTable()
        self._seen: tuple[int, int, int] | None = None
        self._complaint = ""
        self._guests: dict[str, Guest] = {}
        self._queue: list[Guest] = []
        self._leaving: list[Guest] = []  # no part of the pack any more, and still busy
        self._coming: Guest | None = None
        self._departed = Traffic()
        self._used = itertools.count(1)
        self._num_held = self._held_bytes = 0
        self._look: asyncio.TimerHandle | None = None
        self.draining = self._is_closed = False
        self.refresh()

    # Which

    def refresh(self) -> None:
        """Read the table again if it changed. Called about once a second. What cannot be read changes nothing."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                if found.st_size > _MAX_TABLE_BYTES:
                    raise ValueError("too large")
                self._take(msgspec.json.decode(self._path.read_bytes(), type=PackTable))
                self._seen = seen
            self._complaint = ""
        except FileNotFoundError:
            pass
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._complain(f"{type(error).__name__}: {error}")
        self._let_leave()
        # The bounds may have become smaller; whoever is busy goes at another look.
        for name in victims(self._residents(), 0, self._table.memory_bytes, self._table.max_loaded, 0) or ():
            self._let_go(self._guests[name])

    def _complain(self, why: str) -> None:
        """Say once, and not every second, why the table cannot be read."""
        if why != self._complaint:
            print(f"the pack cannot be read, the one before stays: {why}", file=sys.stderr)
        self._complaint = why

    def has(self, name: str) -> bool:
        """It is part of the pack."""
        return name in self._guests

    def get(self, name: str, version: str = "") -> Guest:
        """One guest. Raises `ModelUnknown`."""
        guest = self._guests.get(name)
        if guest is None or version not in ("", guest.entry.label):
            known = ", ".join(sorted(self._guests))[:400] or "none"
            raise ModelUnknown(
                f"No model {name[:80]!r}{f' version {version[:80]!r}' if version else ''} is served here.",
                next_action=f"Of the pack there are: {known}.",
            )
        return guest

    def __iter__(self) -> Iterator[Guest]:
        return iter(self._guests.values())

    def reports(self) -> tuple[GuestReport, ...]:
        """What became of those that were ever asked for."""
        known = (guest for guest in self if guest.loads or guest.state is not GuestState.ABSENT)
        return tuple(guest.report() for guest in known)

    def traffic(self) -> Traffic:
        """What all of them answered, those that are no part of the pack any more too: it only grows."""
        total = self._departed
        for guest in (*self, *self._leaving):
            total = merge_traffic(total, _counts(guest))
        return total

    def seen(self) -> tuple[GuestTraffic, ...]:
        """What those saw that were ever asked for, each by itself: of one that cannot be loaded the refusals are all there is to see."""
        return tuple(guest.seen() for guest in self if guest.used)

    @property
    def is_idle(self) -> bool:
        """Nobody waits, and no request is under way."""
        return not self._num_held and not any(guest.is_busy for guest in (*self, *self._leaving))

    # Asking

    def ask(
        self,
        name: str,
        version: str,
        then: Callable[[DataPlane], None],
        failed: Callable[[SkyloomError], None],
        num_bytes: int = 0,
    ) -> Callable[[], None] | None:
        """Call ``then`` with what answers for a guest: at once when it is in memory, else when it is; or ``failed``, once.

        Returns what gives up waiting; None when there was nothing to wait for. Raises `ModelUnknown`, `ReplicaDraining`, `QueueFull`, why
        the guest is broken, and what ``then`` raises when it is called at once.
        """
        guest = self.get(name, version)
        guest.used = next(self._used)
        if guest.plane is not None and not guest.is_yielding:
            then(guest.plane)
            return None
        if self.draining:
            raise ReplicaDraining("This replica is stopping.", next_action="Send again: another replica answers.")
        if guest.failure is not None and self._loop.time() < guest.retry_at:
            raise guest.failure
        if self._num_held >= _MAX_HELD or (self._num_held and self._held_bytes + num_bytes > self._max_held_bytes):
            raise QueueFull(
                f"{self._num_held} requests wait for models to be loaded already.",
                next_action="Send again in a moment, or give the pack more memory.",
            )
        waiter = Waiter(then, failed, num_bytes, self._loop.time())
        guest.waiters.append(waiter)
        self._num_held += 1
        self._held_bytes += num_bytes
        waiter.timer = self._loop.call_later(self._wait_s, self._late, guest, waiter)
        if guest.plane is None and guest not in self._queue and not guest.is_loading:
            self._queue.append(guest)
            self._next()
        return partial(self._left, guest, waiter)

    def unload(self, name: str) -> None:
        """Let a guest go; its next request loads it again. Raises `ModelUnknown`, `GuestBusy`."""
        guest = self.get(name)
        if guest.is_busy or guest.is_loading or guest.waiters:
            raise GuestBusy(f"The model {name!r} has requests under way.", next_action="Unload it when it is idle.")
        self._let_go(guest)

    def drain(self) -> None:
        """Take nothing new; what is still held is told to try elsewhere."""
        self.draining = True
        for guest in self:
            if guest.plane is not None:
                guest.plane.draining = True
            self._fail(guest, ReplicaDraining("This replica is stopping.", next_action="Send again."))

    def close(self) -> None:
        """Let go of everybody."""
        self._is_closed = True
        for guest in (*self, *self._leaving):
            if guest.plane is not None:
                guest.plane.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # Coming and going

    def _next(self) -> None:
        """Begin to load the first for whom there is room, or look again in a moment."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._coming is not None or self._is_closed:
            return
        self._queue = [guest for guest in self._queue if guest.waiters]
        yielding: list[str] = []
        for guest in tuple(self._queue):
            if self._make_room(guest):
                self._queue.remove(guest)
                self._begin(guest)
                break
            if guest.waiters and self._loop.time() - guest.waiters[0].since >= self._patience_s:
                yielding = self._whom_to_ask(guest)
                break  # nobody passes it any more
        self._let_yield(yielding)
        if self._queue and self._coming is None:
            self._look = self._loop.call_later(_LOOK_S, self._next)

    def _whom_to_ask(self, guest: Guest) -> list[str]:
        """Who has to make way for one that waited too long: who is idle, then who was asked for longest ago and has stayed its time."""
        now, there = self._loop.time(), self._residents()
        most = max((one.used for one in there), default=0) + 1
        free = [
            one._replace(is_busy=False, used=one.used + most)
            if one.is_busy and one.name and now >= self._guests[one.name].stays_until
            else one
            for one in there
        ]
        return victims(free, guest.needed_bytes, self._table.memory_bytes, self._table.max_loaded) or []

    def _let_yield(self, names: list[str]) -> None:
        """These, and no others, take nothing new until they have made way; who yielded in vain answers those who waited for it."""
        for guest in self:
            yields = guest.entry.model in names
            if guest.is_yielding and not yields and guest.plane is not None:
                guest.is_yielding = False
                for waiter in self._let_in(guest):
                    _hand_over(waiter, guest.plane)
            guest.is_yielding = yields

    def _make_room(self, guest: Guest) -> bool:
        """Let go of whom it needs; False while they are busy. One that never fits is told so, and nobody goes for it."""
        most_bytes = self._table.memory_bytes
        if most_bytes and guest.needed_bytes > most_bytes:
            self._break(guest, _too_large(guest, most_bytes))
            return False
        leaving = victims(self._residents(), guest.needed_bytes, most_bytes, self._table.max_loaded)
        for name in leaving or ():
            self._let_go(self._guests[name])
        return leaving is not None

    def _begin(self, guest: Guest) -> None:
        guest.is_loading, self._coming = True, guest
        entry, began_at = guest.entry, self._loop.time()
        coming = self._loop.run_in_executor(self._thread, self._load, entry, guest.pace)
        coming.add_done_callback(lambda done: self._arrived(guest, entry, began_at, done))

    def _arrived(self, guest: Guest, entry: PackEntry, began_at: float, done: "asyncio.Future[Arrived]") -> None:
        guest.is_loading, self._coming = False, None
        now = self._loop.time()
        guest.stays_until = now + min(max(self._patience_s, _STAY_LOADS * (now - began_at)), self._wait_s / 2)
        try:
            if not done.cancelled() and not self._is_closed:
                self._take_in(guest, entry, done)
        except Exception as error:
            if not isinstance(error, SkyloomError):
                traceback.print_exc(file=sys.stderr)
            self._break(guest, broken(entry, error))
        self._next()

    def _take_in(self, guest: Guest, entry: PackEntry, done: "asyncio.Future[Arrived]") -> None:
        arrived = done.result()
        if self._guests.get(entry.model) is not guest:  # no part of the pack any more
            self._close(arrived.model)
            return
        guest.memory_bytes = max(guest.memory_bytes, arrived.grown_bytes)
        leaving = victims(self._residents(), guest.memory_bytes, self._table.memory_bytes, self._table.max_loaded)
        if leaving is None:  # it took more than its files told, and the others are busy
            self._close(arrived.model)
            if guest.waiters:
                self._queue.append(guest)
            return
        for name in leaving:
            self._let_go(self._guests[name])
        try:
            guest.plane = self._settle(guest, arrived)
        except BaseException:
            self._close(arrived.model)
            raise
        guest.plane.draining = self.draining
        guest.model, guest.pace, guest.failure, guest.failures = arrived.model, arrived.pace, None, 0
        guest.loads += 1
        for waiter in self._let_in(guest):
            _hand_over(waiter, guest.plane)

    def _residents(self) -> list[Resident]:
        there = [guest for guest in self if guest.plane is not None]
        found = [Resident(guest.entry.model, guest.memory_bytes, guest.used, guest.is_busy) for guest in there]
        return found + [Resident("", guest.memory_bytes, 0, True) for guest in self._leaving if guest.plane is not None]

    def _let_go(self, guest: Guest) -> None:
        plane, model = guest.plane, guest.model
        guest.plane = guest.model = None
        guest.is_yielding = False
        if guest.waiters and guest not in self._queue:  # they came while it made way, and have a turn of their own
            self._queue.append(guest)
        if plane is not None:
            plane.close()
        if model is not None:
            self._close(model)

    def _close(self, model: Model) -> None:
        """On the thread that loads: what comes next is measured after this has gone."""

        def close() -> None:
            model.close()
            give_back()

        self._thread.submit(close)

    # The pack changes

    def _take(self, table: PackTable) -> None:
        known, self._guests, self._table = self._guests, {}, table
        for entry in table.entries:
            before = known.pop(entry.model, None)
            if before is not None and before.entry == entry:
                self._guests[entry.model] = before
                before.failure = None  # maybe it was too large for the pack as it was
                continue
            self._guests[entry.model] = Guest(entry)
            if before is not None:
                known[entry.model] = before
        for guest in known.values():
            gone = ModelUnknown(
                f"The model {guest.entry.model!r} version {guest.entry.label} is served no more.",
                next_action="See POST /v2/repository/index.",
            )
            self._fail(guest, gone)
            self._leaving.append(guest)

    def _let_leave(self) -> None:
        staying = []
        for guest in self._leaving:
            if guest.is_busy:
                staying.append(guest)
            else:
                self._let_go(guest)
                self._departed = merge_traffic(self._departed, _counts(guest))
        self._leaving = staying

    # Those who wait

    def _break(self, guest: Guest, failure: SkyloomError) -> None:
        guest.failures += 1
        guest.failure = failure
        pause_s = min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(guest.failures - 1, 10))
        guest.retry_at = self._loop.time() + pause_s
        self._fail(guest, failure)

    def _fail(self, guest: Guest, failure: SkyloomError) -> None:
        for waiter in self._let_in(guest):
            waiter.failed(failure)

    def _let_in(self, guest: Guest) -> list[Waiter]:
        """All that wait for a guest; they do so no more."""
        waiters, guest.waiters = guest.waiters, []
        for waiter in waiters:
            self._forget(waiter)
        return waiters

    def _late(self, guest: Guest, waiter: Waiter) -> None:
        guest.waiters.remove(waiter)
        self._forget(waiter)
        waiter.failed(
            GuestOnItsWay(
                f"The model {guest.entry.model!r} was not in memory within {self._wait_s:g} s.",
                next_action="Send again, or give the pack more memory: others may be busy.",
            )
        )

    def _left(self, guest: Guest, waiter: Waiter) -> None:
        """Nobody waits for this answer any more."""
        if waiter in guest.waiters:
            guest.waiters.remove(waiter)
            self._forget(waiter)

    def _forget(self, waiter: Waiter) -> None:
        self._num_held -= 1
        self._held_bytes -= waiter.num_bytes
        if waiter.timer is not None:
            waiter.timer.cancel()


def _counts(guest: Guest) -> Traffic:
    """Its rows are of a profile of their own, so they are added to nobody's."""
    return msgspec.structs.replace(guest.traffic.snapshot(), histograms=())


def _hand_over(waiter: Waiter, plane: DataPlane) -> None:
    try:
        waiter.then(plane)
    except SkyloomError as error:
        waiter.failed(error)
    except Exception:  # a defect of ours must not keep the others waiting
        traceback.print_exc(file=sys.stderr)
        waiter.failed(InternalError("The server made a mistake.", next_action="Send something else."))


def _too_large(guest: Guest, most_bytes: int) -> GuestTooLarge:
    return GuestTooLarge(
        f"The model {guest.entry.model!r} needs {guest.needed_bytes} bytes; all of the pack may have {most_bytes}.",
        next_action="Give the pack more memory: skyloom endpoint pack ENDPOINT --memory SIZE.",
    )
