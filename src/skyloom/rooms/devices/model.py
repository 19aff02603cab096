"""Nouns of devices: who may speak as one, what it should serve, and what it said last.

What a device is doing is derived from its last report (`rules.state_of`), never stored.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name
from skyloom.core.errors import Conflict, Denied, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.ports.store import Record
from skyloom.rooms.data.model import DraftStatus
from skyloom.rooms.devices.messages import (
    DeviceOutcome,
    JoinDevice,
    Predicted,
    RingKey,
    RingNotice,
    Sampled,
    SyncDevice,
    UploadOutbox,
)
from skyloom.rooms.monitoring.model import Traffic

LabelWord = Annotated[
    str, Meta(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$(?!\n)")
]
Labels = Annotated[dict[LabelWord, LabelWord], Meta(max_length=32)]


class DeviceMissing(NotFound):
    """No such device in this project."""


class NotThisDevice(Denied):
    """Only a device itself may say how it is, bring its outbox or fetch its bundle."""


class JoinCodeUsed(Conflict):
    """The join code was traded already, by another device than the one that asks."""


class RotationUnderWay(Conflict):
    """The keys of the project are being changed already."""


class FileNotAssigned(NotFound):
    """The file is none of those that this device should serve."""


class NothingSampled(NotFound):
    """There are no samples that a dataset could be made of."""


class SamplesMoved(Conflict):
    """Samples were taken by somebody else meanwhile."""


class DeviceState(enum.StrEnum):
    """What a device is doing, as far as the cloud can know; always derived."""

    ENROLLED = "enrolled"  # it has a join code and has not used it
    ONLINE = "online"  # it called when it meant to
    LATE = "late"  # it has missed a call or two
    OFFLINE = "offline"  # nobody has heard of it for long; it serves on
    RETIRED = "retired"  # it may not call any more


class Device(Record, frozen=True, kw_only=True):
    """A device and what it should serve.

    Attributes:
        enrolment: how often it was enrolled; each time has one join code.
        generation: how often it joined; only its newest token is good.
        wanted: id of the model version it should serve; empty for none.
        assignment: number of the newest change of ``wanted``, and ``ordered_at`` when that was.
        fallback: what it should serve if the rollout that chose ``wanted`` goes back.
        rollout: which one chose it.
        probation_s: how long ``wanted`` has to hold on it.
    """

    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    created_at: float
    created_by: str
    enrolment: int = 1
    generation: int = 0
    joined_at: float | None = None
    retired_at: float | None = None
    wanted: str = ""
    assignment: int = 0
    ordered_at: float = 0.0
    fallback: str = ""
    rollout: str = ""
    probation_s: float = 0.0


class JoinCode(Record, frozen=True, kw_only=True):
    """The one open invitation of a device, whose id it has. Only the code's digest is kept.

    Attributes:
        nonce: digest of the nonce that the device traded it with; empty until then.
    """

    digest: str
    expires_at: float
    nonce: str = ""


class DeviceReport(Record, frozen=True, kw_only=True):
    """What a device said last. Its id is the device's.

    Attributes:
        back_at: when it was first heard of again after it had been offline.
        skew_s: how far its clock was ahead of the cloud's.
        traffic: what all its runs together saw, as far as it is known here.
        epoch: the outbox that spoke last; ``former_epochs`` spoke before it, and ``twin_at`` is when one of these came back.
        kept_bytes: what is kept here of its predictions and samples; of ``forgotten`` predictions only the sums are.
        dropped, refused: records that it gave up because its outbox was full, and that the cloud could make nothing of.
    """

    seen_at: float
    back_at: float = 0.0
    skew_s: float = 0.0
    interval_s: float = 30.0
    software: str = ""
    serving: str = ""
    assignment: int = 0
    outcome: DeviceOutcome = DeviceOutcome.PENDING
    message: str = ""
    ring: int = 0
    epoch: str = ""
    former_epochs: tuple[str, ...] = ()
    twin_at: float | None = None
    waiting_records: int = 0
    waiting_bytes: int = 0
    traffic: Traffic = Traffic()
    predictions: int = 0
    dropped: int = 0
    refused: int = 0
    kept_bytes: int = 0
    forgotten: int = 0
    note: str = ""
    noted_at: float | None = None


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device and how it is.

    Attributes:
        serving, wanted: ``model:number`` of what it serves and should serve; empty for nothing.
        message, next_action: what is not as it should be, and what to do.
    """

    device: Device
    state: DeviceState
    serving: str = ""
    wanted: str = ""
    report: DeviceReport | None = None
    message: str = ""
    next_action: str = ""


class EnrolledDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device with its join code, which is shown this once."""

    device: Device
    code: str
    expires_at: float


class DevicePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that was made on a device.

    Attributes:
        at: by the cloud's clock, as far as the device's is known to differ.
        version: id of the model version that made it.
    """

    prediction_id: str
    device: Device
    version: str
    at: float
    predicted: Predicted


class KeyRing(Record, frozen=True, kw_only=True):
    """A ring as it is kept; see `RingNotice`. ``drops_at``: when the next ring leaves out all keys but the first."""

    number: int
    keys: tuple[RingKey, ...]
    signed_by: str
    signature: str
    drops_at: float | None = None

    @property
    def notice(self) -> RingNotice:
        """What devices are told of it."""
        return RingNotice(
            project=self.project,
            number=self.number,
            keys=self.keys,
            signed_by=self.signed_by,
            signature=self.signature,
        )


class SealedKey(Record, frozen=True, kw_only=True):
    """A key that signs, its private half sealed with the master key of the cloud."""

    public: str
    sealed: bytes
    created_at: float


class DeviceRun(Record, frozen=True, kw_only=True):
    """One process that served on a device: which version, and what it saw. Its id is part of the ids of its predictions.

    Attributes:
        next_nth, next_sample: its predictions and samples before these have come. They come in order, so what is below came twice.
        touched_at: when something of it came last, by the cloud's clock, or when it was last found to be a silent device's newest.
    """

    device: str
    model_version: str
    began_at: float
    traffic: Traffic = Traffic()
    next_nth: int = 0
    next_sample: int = 0
    touched_at: float = 0.0


class DeviceChunk(Record, frozen=True, kw_only=True):
    """Records of one run that came together. Its id is the run's and the number of the first one, so that any is found at once.

    Attributes:
        lines: JSON list of ``count`` `Predicted`, or `Sampled`.
        model: of the version that was asked.
        gathered: of samples, the draft of the dataset that they went into; empty while they are in none.
    """

    run: str
    device: str
    skew_s: float
    received_at: float
    count: int = 0
    model: str = ""
    gathered: str = ""
    lines: bytes


class DeviceFleet(Record, frozen=True, kw_only=True):
    """A model and the labels of the devices that it was rolled out to; monitoring watches it under its name.

    Attributes:
        model_version: id of the version that is watched; empty when these devices serve another model now.
        before: what was watched before the latest roll-out.
    """

    model: str
    labels: dict[str, str]
    name: str
    model_version: str = ""
    before: str = ""


class FleetTraffic(Record, frozen=True, kw_only=True):
    """All that the devices of a fleet saw with one model version. The numbers only grow.

    Attributes:
        profile: digest of the version's profile; ``bins`` are the lengths of the histograms that follow it.
    """

    fleet: str
    profile: str
    bins: tuple[int, ...] = ()
    traffic: Traffic = Traffic()


class OutboxPosition(Record, frozen=True, kw_only=True):
    """Where one lane of one outbox stands: the next record that is expected, the mark of the one before, and how many will never come."""

    next: int = 0
    mark: str = ""
    skipped: int = 0


class SampleBatch(Record, frozen=True, kw_only=True):
    """Samples written out as a file, on their way into a dataset. Its id is the project and the dataset's name.

    Attributes:
        model, labels: whose samples were asked for.
    """

    model: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    digest: str
    chunks: tuple[str, ...]
    num_rows: int
    unreadable: int
    more: bool


class GatheredSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Samples that become a dataset.

    Attributes:
        unreadable: samples that are left out because their inputs are no table.
        more: there are others, for another dataset.
    """

    draft: DraftStatus
    num_rows: int
    unreadable: int = 0
    more: bool = False


class SampledInputs(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs that came together. ``version`` is the id of the model version that was asked with them."""

    run: str
    version: str
    received_at: float
    samples: tuple[Sampled, ...]


@operation("devices.enrol", Right.ADMIN, "POST /devices")
class EnrolDevice(Operation[EnrolledDevice], frozen=True, kw_only=True):
    """Let a device in: makes it, with a code that is good once and not for long. Again for one that is there: it may join anew.

    Attributes:
        labels: what rollouts choose it by; None keeps those it has.
        ttl_s: how long the code is good.
    """

    name: Name
    labels: Labels | None = None
    ttl_s: Annotated[float, Meta(gt=0, le=86_400)] = 900.0


@operation("devices.list", Right.READ, "GET /devices")
class ListDevices(Operation[Page[DeviceStatus]], frozen=True, kw_only=True):
    """List devices, newest first.

    Attributes:
        label: only devices with this one, as ``name=value``; empty for all.
        state: only devices that are in it now.
    """

    label: Annotated[str, Meta(max_length=161, pattern=r"^([^=\n]+=[^=\n]+)?$(?!\n)")] = ""
    state: DeviceState | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


@operation("devices.get", Right.READ, "GET /devices/{name}")
class GetDevice(Operation[DeviceStatus], frozen=True, kw_only=True):
    """Show one device by its name or id."""

    name: Id


@operation("devices.retire", Right.ADMIN, "POST /devices/{name}/retire")
class RetireDevice(Operation[DeviceStatus], frozen=True, kw_only=True):
    """Make a device's token useless from its next call on: for one that was lost or stolen. What it serves it goes on serving."""

    name: Id


@operation("devices.rotate_key", Right.ADMIN, "POST /devices/keys")
class RotateDeviceKey(Operation[RingNotice], frozen=True, kw_only=True):
    """Sign with a new key from now on. Devices learn it when they call; the old one is good until the overlap is over."""

    overlap_s: Annotated[float, Meta(ge=0, le=365 * 86_400)] = 7 * 86_400.0


@operation("devices.samples", Right.READ, "GET /devices/{name}/samples")
class ListSamples(Operation[Page[SampledInputs]], frozen=True, kw_only=True):
    """List inputs that a device sampled, newest first; a device samples only when its owner says how much."""

    name: Id
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    cursor: Cursor | None = None


@operation("devices.gather", Right.RUN, "POST /devices/samples/gather")
class GatherSamples(Operation[GatheredSamples], frozen=True, kw_only=True):
    """Make a dataset of the inputs that devices sampled for one model and that are in no dataset yet. Each sample goes into one.

    Attributes:
        dataset: name of the dataset to make.
        labels: only of devices with all of these.
    """

    dataset: Name
    model: Name
    labels: Labels = msgspec.field(default_factory=dict)


DEVICE_OPERATIONS = (
    EnrolDevice,
    JoinDevice,
    ListDevices,
    GetDevice,
    RetireDevice,
    RotateDeviceKey,
    SyncDevice,
    UploadOutbox,
    ListSamples,
    GatherSamples,
)
