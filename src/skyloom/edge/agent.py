"""What a device does beside serving: it calls the cloud, brings its outbox, tries what it is told to serve, and switches.

A thread of its own. All of it may fail and be tried again later; serving knows nothing of it.
"""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from skyloom import __version__
from skyloom.core.errors import Conflict, InvalidInput, NotFound, SkyloomError, Unauthenticated, Unavailable
from skyloom.durable import write_private
from skyloom.edge import deployment as rules
from skyloom.edge.bundles import BundleShelf, BytesDiffer
from skyloom.edge.deployment import Deployment, EdgeStep
from skyloom.edge.home import DeviceFile, Home
from skyloom.edge.link import CloudLink
from skyloom.edge.outbox import DeviceOutbox, mark_of
from skyloom.edge.station import Station
from skyloom.edge.trust import check_assignment, follow
from skyloom.rooms.devices.messages import (
    Assignment,
    DeviceOrders,
    Happened,
    Lane,
    OutboxTaken,
    SyncDevice,
    UploadOutbox,
)

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SMOKE_S = 120.0
_COUNT_S = 10.0
_PIECES_A_CALL = 200
_FETCHES = 3


Attempt = Callable[[Path, str], None]


class SmokeFailed(InvalidInput):
    """A new bundle does not pass its first test."""


class SmokeInterrupted(Unavailable):
    """Somebody ended the first test of a bundle, and most likely this device too; that says nothing about the bundle."""


class JoinedAnew(Conflict):
    """What the cloud said was said to who this device was before."""


class Agent:
    """One device's conversation with its cloud.

    Args:
        station: what serves now; None while there is nothing to serve.
        switch: called when another bundle should be served: this process is to end, and the next one serves it.
        say: tells the operator, on the process's own output.
        longest_pause_s: between calls, however long nobody has answered.
        attempt: loads and runs a new bundle once, and raises what is wrong with it.
    """

    def __init__(
        self,
        home: Home,
        outbox: DeviceOutbox,
        now_is: Deployment,
        station: Station | None,
        *,
        interval_s: float,
        switch: Callable[[], None],
        say: Callable[[str], None],
        attempt: "Attempt",
        longest_pause_s: float = 900.0,
    ) -> None:
        self._home = home
        self._outbox = outbox
        self._deployment = now_is
        self._station = station
        self._interval_s, self._longest_pause_s = interval_s, longest_pause_s
        self._look_s = min(0.25, interval_s / 4)
        self._switch = switch
        self._say = say
        self._attempt = attempt
        self._shelf = BundleShelf(home.bundles)
        self._began = time.monotonic()
        self._stopping, self._sooner = threading.Event(), False
        self._trouble, self._orderly = "", True
        self._positions: dict[Lane, int] = {}
        self._tries = 0
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop calling; waits for a call that is under way."""
        self._stopping.set()
        self._thread.join(timeout=10)
        if self._orderly and not self._thread.is_alive() and self._deployment.on_trial:
            with contextlib.suppress(OSError):  # then it counts as one that failed
                self._keep(rules.ended(self._deployment))

    def _run(self) -> None:
        failures, due_at, count_at = 0, time.monotonic(), time.monotonic() + _COUNT_S
        while not self._stopping.wait(self._look_s):
            now = time.monotonic()
            try:
                self._probation()
            except Exception as error:  # a full disk, or a defect: it must not end the calls
                self._told(f"{type(error).__name__}: {error}")
            if now >= count_at:
                self._count()
                count_at = now + rules.count_pause_s(failures, _COUNT_S)
            if now >= due_at or self._sooner:
                self._sooner = False
                failures = 0 if self._call() else failures + 1
                due_at = time.monotonic() + self._pause_s(failures)

    def _pause_s(self, failures: int) -> float:
        return rules.pause_s(failures, random.random(), self._interval_s, self._longest_pause_s)  # noqa: S311

    # The trial

    def _probation(self) -> None:
        """See whether what is on trial has held, or fares badly."""
        now_is = self._deployment
        if not now_is.on_trial or self._station is None:
            return
        seen = self._station.traffic.snapshot()
        if rules.fares_badly(seen.requests, seen.server_errors):
            reason = f"{seen.server_errors} of {seen.requests} requests failed while it was on trial."
            self._keep(rules.given_up(now_is, reason))
            self._note(f"Went back from version {now_is.current.label if now_is.current else ''}: {reason}")
            self._change_over()
        elif time.monotonic() - self._began >= now_is.probation_s:
            self._keep(rules.held(now_is))
            self._shelf.tidy(self._deployment.kept)
            self._sooner = True

    def _count(self) -> None:
        if self._station is not None:
            with contextlib.suppress(OSError):  # a full disk; it must not keep away the call that makes room
                self._station.count()

    # The call

    def _call(self) -> bool:
        """Sync once: say how it is, do what is told, bring what waits. False when it has to be tried again sooner or later."""
        try:
            self._count()
            file = self._home.read()
            self._deployment = rules.under(self._deployment, file.device)
            link = CloudLink(file.url, file.project, file.token, authority=file.authority, proxy=file.proxy)
            orders = link.ask(self._report(file))
            file = self._learn(file, orders)
            try:
                self._bring(link, file, orders)
            finally:  # an outbox that nobody takes is no reason to go on serving what is to be replaced
                self._obey(link, file, orders.assignment)
        except Unauthenticated as error:
            self._told(f"the cloud knows this device no more; it serves on. {error}")
            return False
        except Exception as error:  # also a defect: it must not end the calls for ever
            self._told(str(error) if isinstance(error, SkyloomError | OSError) else f"{type(error).__name__}: {error}")
            return False
        self._told("")
        return True

    def _report(self, file: DeviceFile) -> SyncDevice:
        now_is = self._deployment
        records, size = self._outbox.waiting(self._positions)
        return SyncDevice(
            device=file.device,
            now=time.time(),
            interval_s=self._interval_s,
            software=f"skyloom {__version__}",
            serving=now_is.current.version if now_is.current else "",
            assignment=now_is.number,
            outcome=now_is.outcome,
            message=now_is.message,
            ring=file.ring.number,
            epoch=self._outbox.epoch.id,
            waiting_records=records,
            waiting_bytes=size,
        )

    def _learn(self, file: DeviceFile, orders: DeviceOrders) -> DeviceFile:
        """Follow a change of keys. Raises `SignatureRefused`."""
        ring = follow(file.ring, orders.rings, file.project)
        if ring is None or ring == file.ring:
            return file
        followed = self._home.replace(file, msgspec.structs.replace(file, ring=ring))
        if followed.device != file.device or followed.token != file.token:
            raise JoinedAnew("The device was joined anew meanwhile.", next_action="It calls again, as who it is now.")
        return followed

    def _bring(self, link: CloudLink, file: DeviceFile, orders: DeviceOrders) -> None:
        """Bring the outbox, facts first, from where the cloud says that it stands."""
        self._outbox.sync()
        known, self._positions = self._positions, {Lane.FACTS: orders.facts, Lane.SAMPLES: orders.samples}
        marks = {Lane.FACTS: orders.facts_mark, Lane.SAMPLES: orders.samples_mark}
        moved = [lane for lane, position in self._positions.items() if known.get(lane) != position]
        if any(self._outbox.departs(lane, self._positions[lane], marks[lane]) for lane in moved):
            self._say("the cloud knows another outbox than this disk's, which is a copy: everything here is sent again")
            self._outbox.renew()
            self._positions = dict.fromkeys(Lane, 0)
        # A sample means nothing before the fact that its run began.
        if not (self._bring_lane(link, file, Lane.FACTS) and self._bring_lane(link, file, Lane.SAMPLES)):
            self._sooner = True

    def _bring_lane(self, link: CloudLink, file: DeviceFile, lane: Lane) -> bool:
        """Bring some of a lane; False when there may be more.

        A record that the cloud can make nothing of (it may be older than this software) is passed over, alone, and counted there.
        """
        passed, one_by_one = 0, False
        for _ in range(_PIECES_A_CALL):
            position = max(self._positions[lane], self._outbox.epoch.base(lane), passed)
            piece = self._outbox.read(lane, position)
            if not piece.payloads:
                return True
            if self._stopping.is_set():
                return False
            payloads = piece.payloads[:1] if one_by_one else piece.payloads
            ask = UploadOutbox(
                device=file.device,
                epoch=self._outbox.epoch.id,
                lane=lane,
                base=self._outbox.epoch.base(lane),
                oldest=max(piece.oldest, passed),
                first=piece.first,
                now=time.time(),
                mark=mark_of(payloads[-1]),
                records=(),
            )
            try:
                taken: OutboxTaken = link.ask(ask, {"records": [msgspec.Raw(payload) for payload in payloads]})
            except InvalidInput as error:
                one_by_one = len(payloads) > 1
                if not one_by_one:
                    passed = piece.first + 1
                    self._say(
                        f"the cloud cannot read record {piece.first} of {lane.value}; it is passed over: {error.message}"
                    )
                continue
            if taken.next == self._positions[lane]:
                return True  # the cloud knows why; it is asked again with the next call
            self._positions = {**self._positions, lane: taken.next}
            self._outbox.taken(lane, taken.next)
        return False

    # What is served

    def _obey(self, link: CloudLink, file: DeviceFile, told: Assignment) -> None:
        """Do what is told, if it is signed and new."""
        step = rules.step_of(self._deployment, told)
        if step is EdgeStep.NOTHING:
            return
        check_assignment(file.ring, file.device, told)
        if step is EdgeStep.KEEP:
            self._keep(rules.kept_on(self._deployment, told))
            self._sooner = True
        elif step is EdgeStep.STOP:
            self._keep(rules.stopped(self._deployment, told))
            self._change_over()
        else:
            self._install(link, file, told)

    def _install(self, link: CloudLink, file: DeviceFile, told: Assignment) -> None:
        folder = (told.manifest or "").removeprefix("sha256:")
        self._shelf.tidy(self._deployment.kept | {folder}, folder)
        self._say(f"fetching {told.model} version {told.label}")
        try:
            made = self._shelf.fetch(link, file.device, told)
            self._attempt(self._shelf.path(made), made.manifest)
        except (InvalidInput, NotFound, msgspec.MsgspecError) as error:
            self._tries += 1
            if isinstance(error, BytesDiffer) and self._tries < _FETCHES:
                raise  # bytes may be damaged on their way; that is no fault of the version
            self._tries = 0
            reason = error.message if isinstance(error, SkyloomError) else str(error)
            self._keep(rules.refused(self._deployment, told, reason))
            self._shelf.tidy(self._deployment.kept)
            self._note(f"Version {told.label} of {told.model} is refused: {reason}")
            self._sooner = True
            return
        self._keep(rules.switched(self._deployment, told, made))
        self._note(f"Switches to version {told.label} of {told.model}.")
        self._change_over()

    def _keep(self, after: Deployment) -> None:
        """Replace the file that says what is served. This rename is the switch."""
        write_private(self._home.deployment, msgspec.json.encode(after))
        self._deployment = after

    def _change_over(self) -> None:
        """Another process serves what the file names now; this one has nothing more to say about it."""
        self._orderly = False
        self._stopping.set()
        self._switch()

    def _note(self, message: str) -> None:
        self._say(message)
        with contextlib.suppress(OSError):  # a full disk is no reason to leave a switch undone
            self._outbox.write([Happened(at=time.time(), message=message[:400])])

    def _told(self, trouble: str) -> None:
        """Say a trouble once: when it begins, changes or is over."""
        if trouble != self._trouble:
            self._say(trouble or "the cloud answers again")
            self._trouble = trouble


def try_bundle(bundle: Path, manifest: str) -> None:
    """Load and run a bundle in a process of its own: one that crashes takes nothing with it. Raises `SmokeFailed`, `SmokeInterrupted`."""
    command = [sys.executable, "-m", "skyloom.edge", "try", str(bundle), manifest]
    try:  # in a session of its own, so that a key at the terminal ends the device and not its judgement
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_SMOKE_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise SmokeFailed(f"It took longer than {_SMOKE_S:.0f} s to answer.", next_action="Mend the model.") from None
    if -done.returncode in _STOPS:
        raise SmokeInterrupted("The first test of the bundle was ended from outside.", next_action="It is tried again.")
    if done.returncode != 0:
        why = _said(done.stderr.decode("utf-8", "replace")) or f"its process ended with {done.returncode}"
        raise SmokeFailed(f"It fails its first test: {why}", next_action="Mend the model and roll out another version.")


def _said(output: str) -> str:
    """Why a process failed, in its own words: our errors have them on one line, anything else on its last."""
    lines = output.strip().splitlines()
    ours = next((line.partition(": ")[2] for line in lines if line.startswith("error ")), "")
    return (ours or (lines[-1] if lines else ""))[:300]
