"""Nouns of roll-outs: a model version goes to the devices that a selector names, some first, and back again if they do not fare well."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name
from skyloom.core.errors import Conflict, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.states import Moves
from skyloom.ports.store import Record
from skyloom.rooms.devices.model import DEVICE_OPERATIONS, Labels

Percent = Annotated[int, Meta(ge=1, le=100)]


class RolloutMissing(NotFound):
    """No such roll-out in this project."""


class RolloutInTheWay(Conflict):
    """Another roll-out is at work on some of the same devices."""


class NobodyMeant(InvalidInput):
    """No device has the labels that a roll-out is for."""


class StagesUnclear(InvalidInput):
    """The stages do not grow to all devices."""


class NotForDevices(InvalidInput):
    """The model version cannot be served by a device."""


class RolloutState(enum.StrEnum):
    """Where a roll-out is."""

    RUNNING = "running"
    PAUSED = "paused"  # no more devices get it until somebody says so
    DONE = "done"
    ROLLING_BACK = "rolling_back"  # its devices are told to serve what they served before
    ROLLED_BACK = "rolled_back"


ROLLOUT_MOVES = Moves(
    "roll-out",
    {
        RolloutState.RUNNING: (RolloutState.PAUSED, RolloutState.DONE, RolloutState.ROLLING_BACK),
        RolloutState.PAUSED: (RolloutState.RUNNING, RolloutState.ROLLING_BACK),
        RolloutState.ROLLING_BACK: (RolloutState.ROLLED_BACK,),
        RolloutState.DONE: (),
        RolloutState.ROLLED_BACK: (),
    },
)


class RolloutProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices are how far.

    Attributes:
        matching: devices that are meant. assigned: those told to serve it. waiting: of these, called lately and not done yet.
        away: of these, not heard of for long; they hold up nothing.
        troubles: what the first of the failed ones say.
        waits_for: names of the first of those that are waited for.
    """

    matching: int = 0
    assigned: int = 0
    healthy: int = 0
    failed: int = 0
    waiting: int = 0
    away: int = 0
    troubles: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()


class Rollout(Record, frozen=True, kw_only=True):
    """A model version on its way to devices.

    Attributes:
        model_version: id of the registered version; ``number`` is the one that people know.
        manifest: digest of its bundle's manifest; ``files`` are the digests of all files, the manifest's included.
        labels: devices with all of these are meant; empty means every device.
        stages: shares of these devices in percent, growing to 100.
        pause_s: how long a stage has to stay healthy before the next begins.
        min_healthy: share of the devices that tried it, which must be healthy.
        probation_s: how long it has to hold on one device.
        patience_s: how long a device that calls may take to say how it fares; after that it counts as one that failed.
        stage: index of the current one.
        passed_at: since when the stage is healthy enough; None while it is not.
        message: why it went back or ended before its last stage, or who paused it.
        final: how far it was when it ended; devices go on to other roll-outs.
    """

    model: str
    model_version: str
    number: int
    manifest: str
    files: tuple[str, ...]
    labels: dict[str, str]
    stages: tuple[int, ...]
    pause_s: float
    min_healthy: float
    probation_s: float
    patience_s: float = 3_600.0
    state: RolloutState = RolloutState.RUNNING
    stage: int = 0
    passed_at: float | None = None
    message: str = ""
    final: RolloutProgress | None = None
    created_at: float
    created_by: str


class RolloutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A roll-out and how far it is.

    Attributes:
        share: percent of the devices that the current stage is for.
        progress: of one that goes back, ``healthy`` are the devices that are back.
        next_at: when the next stage begins if all stays well; None while nobody can say.
    """

    rollout: Rollout
    share: int
    progress: RolloutProgress
    next_at: float | None = None


@operation("rollouts.create", Right.RUN, "POST /rollouts")
class CreateRollout(Operation[RolloutStatus], frozen=True, kw_only=True):
    """Bring a model version to devices by stages. It halts and goes back by itself when too many of them do not fare well with it.

    Attributes:
        version: a version's number, id or alias; empty for the newest.
        labels: devices with all of these, of which there must be one, joined or not; empty means every device. One that comes later
            gets it too while the roll-out lives.
        stages: percent of the devices, growing to 100.
        pause_s: how long a stage has to stay healthy before the next begins.
        min_healthy: share of the devices that tried it, which must be healthy.
        probation_s: how long it has to hold on a device before that calls itself healthy.
        patience_s: how long a device that calls may take to say how it fares, its probation not counted; after that it counts as one
            that failed.
    """

    model: Name
    version: Annotated[str, Meta(max_length=120)] = ""
    labels: Labels = msgspec.field(default_factory=dict)
    stages: Annotated[tuple[Percent, ...], Meta(min_length=1, max_length=20)] = (10, 50, 100)
    pause_s: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 600.0
    min_healthy: Annotated[float, Meta(ge=0, le=1)] = 0.95
    probation_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    patience_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 3_600.0


@operation("rollouts.list", Right.READ, "GET /rollouts")
class ListRollouts(Operation[Page[RolloutStatus]], frozen=True, kw_only=True):
    """List roll-outs, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None


@operation("rollouts.get", Right.READ, "GET /rollouts/{rollout_id}")
class GetRollout(Operation[RolloutStatus], frozen=True, kw_only=True):
    """Show one roll-out and how far it is."""

    rollout_id: Id


@operation("rollouts.pause", Right.RUN, "POST /rollouts/{rollout_id}/pause")
class PauseRollout(Operation[RolloutStatus], frozen=True, kw_only=True):
    """Give it to no more devices for now. One that fares badly goes back all the same. Safe to repeat."""

    rollout_id: Id


@operation("rollouts.resume", Right.RUN, "POST /rollouts/{rollout_id}/resume")
class ResumeRollout(Operation[RolloutStatus], frozen=True, kw_only=True):
    """Go on after a pause. Safe to repeat."""

    rollout_id: Id


@operation("rollouts.abort", Right.RUN, "POST /rollouts/{rollout_id}/abort")
class AbortRollout(Operation[RolloutStatus], frozen=True, kw_only=True):
    """Stop it and tell its devices to serve what they served before. Safe to repeat."""

    rollout_id: Id


ROLLOUT_OPERATIONS = (CreateRollout, ListRollouts, GetRollout, PauseRollout, ResumeRollout, AbortRollout)
OPERATIONS = (*DEVICE_OPERATIONS, *ROLLOUT_OPERATIONS)
