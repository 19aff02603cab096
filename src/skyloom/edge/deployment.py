"""What a device serves and what it does about news: pure decisions over one small file.

The file is replaced whole (written beside, then renamed), and that rename is the switch: whenever the power goes, the file names a bundle
that is complete on disk. A new bundle is on trial until it has held for its probation; every start while on trial is written down
before the model is loaded, so that a bundle that takes the process with it is given up after three starts.
"""

import enum

import msgspec

from skyloom.rooms.devices.messages import Assignment, DeviceOutcome

MAX_STARTS = 3
_FEWEST_ERRORS, _ERROR_SHARE = 5, 0.1


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is complete on this disk: the model version, its names, and its folder's name."""

    version: str
    model: str
    label: str
    manifest: str

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.manifest.removeprefix("sha256:")


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is served, and what became of the newest thing that was asked for.

    Attributes:
        previous: what was served before; kept until something newer has held.
        device: whose assignments ``number`` counts.
        number: of the newest assignment that was dealt with; older ones are refused.
        owed: that one has to be done once more: what it brought was lost from this disk.
        on_trial: ``current`` has not held for ``probation_s`` yet.
        starts: how often it was started while on trial.
    """

    current: Installed | None = None
    previous: Installed | None = None
    device: str = ""
    number: int = 0
    owed: bool = False
    outcome: DeviceOutcome = DeviceOutcome.PENDING
    message: str = ""
    on_trial: bool = False
    starts: int = 0
    probation_s: float = 0.0

    @property
    def kept(self) -> frozenset[str]:
        """Folders that may not be taken away."""
        return frozenset(item.folder for item in (self.current, self.previous) if item)


class EdgeStep(enum.Enum):
    """What to do about an assignment."""

    NOTHING = "nothing"
    STOP = "stop"
    KEEP = "keep"  # it is served already
    INSTALL = "install"


def under(now_is: Deployment, device: str) -> Deployment:
    """The same with the numbers of a device: one that joined as another device begins to count anew, and serves on."""
    if now_is.device == device:
        return now_is
    return _with(now_is, device=device, number=0 if now_is.device else now_is.number)


def step_of(now_is: Deployment, told: Assignment) -> EdgeStep:
    """Decide. One that was dealt with, or is older than that, asks for nothing."""
    if told.number < now_is.number or (told.number == now_is.number and not now_is.owed):
        return EdgeStep.NOTHING
    if not told.version:
        return EdgeStep.STOP
    same = now_is.current is not None and (now_is.current.version, now_is.current.manifest) == (
        told.version,
        told.manifest,
    )
    return EdgeStep.KEEP if same and not now_is.on_trial else EdgeStep.INSTALL


def kept_on(now_is: Deployment, told: Assignment) -> Deployment:
    """What should be served is served already, and has held."""
    return _with(now_is, number=told.number, owed=False, outcome=DeviceOutcome.HEALTHY, message="")


def stopped(now_is: Deployment, told: Assignment) -> Deployment:
    """Nothing should be served, and nothing gone back to."""
    return Deployment(device=now_is.device, number=told.number, outcome=DeviceOutcome.HEALTHY)


def switched(now_is: Deployment, told: Assignment, made: Installed) -> Deployment:
    """Serve what is on disk and has passed its first test; it is on trial from now on."""
    return Deployment(
        current=made,
        previous=_good(now_is) or now_is.previous,
        device=now_is.device,
        number=told.number,
        outcome=DeviceOutcome.PROBATION,
        on_trial=True,
        probation_s=told.probation_s,
    )


def refused(now_is: Deployment, told: Assignment, reason: str) -> Deployment:
    """It cannot be had, or failed its first test: what is served stays."""
    return _with(now_is, number=told.number, owed=False, outcome=DeviceOutcome.FAILED, message=reason[:400])


def ended(now_is: Deployment) -> Deployment:
    """A process ends because it was told to: that start says nothing against what is on trial."""
    return _with(now_is, starts=max(0, now_is.starts - 1)) if now_is.on_trial else now_is


def begun(now_is: Deployment) -> Deployment:
    """A process begins to serve. One more start on trial than there may be, and the trial is lost."""
    if not now_is.on_trial:
        return now_is
    if now_is.starts >= MAX_STARTS:
        return given_up(now_is, f"It ended {now_is.starts} times before it had held for {now_is.probation_s:g} s.")
    return _with(now_is, starts=now_is.starts + 1)


def held(now_is: Deployment) -> Deployment:
    """The trial is passed."""
    return _with(now_is, on_trial=False, starts=0, outcome=DeviceOutcome.HEALTHY, message="")


def given_up(now_is: Deployment, reason: str) -> Deployment:
    """The trial is lost: serve again what was served before."""
    kept = Deployment(current=now_is.previous, device=now_is.device, number=now_is.number)
    return _with(kept, outcome=DeviceOutcome.FAILED, message=reason[:400])


def damaged(now_is: Deployment, reason: str) -> Deployment:
    """What is served cannot be loaded. On trial that is the end of it; else it is fetched anew, and what was served before helps out."""
    if now_is.on_trial:
        return given_up(now_is, reason)
    kept = Deployment(current=now_is.previous, device=now_is.device, number=now_is.number)
    return _with(kept, owed=True, outcome=DeviceOutcome.PENDING, message=reason[:400])


def fares_badly(requests: int, server_errors: int) -> bool:
    """True when a model on trial fails on too much of what it is asked."""
    return server_errors >= _FEWEST_ERRORS and server_errors > _ERROR_SHARE * requests


def pause_s(failures: int, chance: float, interval_s: float, longest_s: float = 900.0) -> float:
    """How long to wait before the next call: the interval (a tenth more or less) when all is well, else a random share of a pause that
    doubles, so that a thousand devices do not come back at once ("full jitter").

    Args:
        chance: a random number in [0, 1).
    """
    if failures == 0:
        return interval_s * (0.9 + 0.2 * chance)
    return max(0.2, chance * min(longest_s, interval_s * 2.0 ** min(failures, 20)))


def count_pause_s(failures: int, shortest_s: float, longest_s: float = 600.0) -> float:
    """How long until counters are written again. Seldom while nobody answers: they are totals, and the outbox has to last."""
    return min(longest_s, shortest_s * 2.0 ** min(failures, 20))


def _good(now_is: Deployment) -> Installed | None:
    """What is served, if it has held."""
    return None if now_is.on_trial else now_is.current


def _with(now_is: Deployment, **changes: object) -> Deployment:
    return msgspec.structs.replace(now_is, **changes)
