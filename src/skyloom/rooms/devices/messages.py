"""What a device and the cloud say to each other. The device's process imports this file and little else of the rooms.

A device only ever calls out. It says how it is (`SyncDevice`) and is told what it should serve, and it brings what it wrote down while it
was alone (`UploadOutbox`). What it is told to serve is signed; what it brings is numbered.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Digest, Id, Name, ShortText
from skyloom.core.operation import Operation, Right, operation
from skyloom.rooms.monitoring.model import Traffic

PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
SignatureHex = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]
VersionId = Annotated[str, Meta(max_length=120)]
Moment = Annotated[float, Meta(ge=0, le=1e11)]
Seconds = Annotated[float, Meta(ge=0, le=30 * 86_400)]
MAX_RECORDS = 1_000
MAX_CHUNK_BYTES = 2**20
MAX_SAMPLE_BYTES = 64 * 1024
MAX_OUTPUT_CHARS = 1_024
MAX_RINGS = 100


class Lane(enum.StrEnum):
    """The two queues of an outbox. When it is full the samples go first."""

    FACTS = "facts"  # predictions, counters, events, gaps
    SAMPLES = "samples"  # inputs, if the device's owner lets them be taken


class DeviceOutcome(enum.StrEnum):
    """What became of the newest thing that a device was told to serve."""

    PENDING = "pending"  # not fetched or not tried yet
    PROBATION = "probation"  # it serves, and has to hold for a while
    HEALTHY = "healthy"
    FAILED = "failed"  # refused or given up; the device serves what it served before


# Keys


class RingKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may sign for this project's devices; Ed25519 (RFC 8032), public half."""

    id: Id
    public: PublicKey


class RingNotice(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that devices trust from now on. Each ring is signed by a key of the one before, so that a device which was away for
    long follows them one by one; the first is signed by itself and is told at the join.

    Attributes:
        number: from 1.
        keys: the first one signs; the others are on their way out.
    """

    project: Name
    number: Annotated[int, Meta(ge=1, le=2**31)]
    keys: Annotated[tuple[RingKey, ...], Meta(min_length=1, max_length=8)]
    signed_by: Id
    signature: SignatureHex


def ring_statement(project: str, number: int, keys: tuple[RingKey, ...]) -> bytes:
    """The bytes that a ring's signature is over."""
    return msgspec.json.encode(["skyloom-ring-1", project, number, [[key.id, key.public] for key in keys]])


# What to serve


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What one device should serve, signed for it alone.

    Attributes:
        number: grows with every change, so that an older one, shown again by somebody in between, is refused.
        version: id of the model version; empty for "serve nothing".
        label: the version's number, as it stands in addresses.
        manifest: digest of the bundle's manifest, which names every file by digest.
        probation_s: how long it has to hold before it counts as healthy.
    """

    number: Count
    rollout: VersionId = ""
    version: VersionId = ""
    model: Annotated[str, Meta(max_length=80)] = ""
    label: Annotated[str, Meta(max_length=80)] = ""
    manifest: Digest | None = None
    probation_s: Seconds = 0.0
    signed_by: Annotated[str, Meta(max_length=120)] = ""
    signature: Annotated[str, Meta(max_length=128)] = ""


def assignment_statement(device: str, ask: Assignment) -> bytes:
    """The bytes that an assignment's signature is over."""
    told = ["skyloom-assignment-1", device, ask.number, ask.rollout, ask.version, ask.model, ask.label, ask.manifest]
    return msgspec.json.encode([*told, ask.probation_s])


class DeviceOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud wants of a device.

    Attributes:
        now: the cloud's clock.
        interval_s: when to call again.
        rings: those that the device does not know yet, oldest first.
        facts, samples: number of the next record that the cloud expects of each lane of the outbox that was named.
        facts_mark, samples_mark: of the record before it, as the device told it; empty when it did not.
    """

    now: float
    interval_s: float
    assignment: Assignment
    rings: tuple[RingNotice, ...] = ()
    facts: int = 0
    samples: int = 0
    facts_mark: str = ""
    samples_mark: str = ""


class DeviceIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a device keeps from its join: who it is, its token, and whose signatures it believes."""

    project: str
    device: str
    name: str
    token: str
    rings: tuple[RingNotice, ...]


@operation("devices.join", Right.JOIN, "POST /devices/{device}/join", private=True)
class JoinDevice(Operation[DeviceIdentity], frozen=True, kw_only=True):
    """Trade a join code, shown as the token, for a device's own token. The same device may ask again with its nonce until the code ends.

    Attributes:
        nonce: chosen by the device before it asks first, so that a lost answer can be asked for again and by nobody else.
    """

    device: Id
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32,64}$(?!\n)")]


@operation("devices.sync", Right.DEVICE, "POST /devices/{device}/sync", audited=False)
class SyncDevice(Operation[DeviceOrders], frozen=True, kw_only=True):
    """Told by a device about itself; answers with what it should serve and where its outbox stands.

    Attributes:
        now: the device's clock, which may be wrong.
        interval_s: how often it means to call.
        serving: id of the model version that it serves.
        assignment: number of the newest one that it has dealt with, and what became of it.
        ring: number of the newest ring that it knows.
        epoch: which outbox it writes; a new one begins at 0.
        waiting_records, waiting_bytes: in the outbox, not yet taken by the cloud.
    """

    device: Id
    now: Moment
    interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    software: Annotated[str, Meta(max_length=80)] = ""
    serving: VersionId = ""
    assignment: Count = 0
    outcome: DeviceOutcome = DeviceOutcome.PENDING
    message: ShortText = ""
    ring: Count = 0
    epoch: Id
    waiting_records: Count = 0
    waiting_bytes: Count = 0


# What it brings


class RunBegan(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """A process began to serve. ``run`` is part of the ids of its predictions."""

    run: Id
    version: VersionId
    at: Moment


class Predicted(msgspec.Struct, frozen=True, kw_only=True, tag="predicted", omit_defaults=True):
    """One prediction: the ``nth`` of its run. ``outputs`` is JSON as in the Open Inference Protocol, empty when it was too long to keep."""

    run: Id
    nth: Count
    at: Moment
    rows: Count
    latency_us: Count
    status: Annotated[int, Meta(ge=100, le=599)] = 200
    client_id: Annotated[str, Meta(max_length=200)] = ""
    outputs: Annotated[str, Meta(max_length=MAX_OUTPUT_CHARS)] = ""


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """All that a run saw so far. The numbers only grow."""

    run: Id
    at: Moment
    traffic: Traffic


class Happened(msgspec.Struct, frozen=True, kw_only=True, tag="happened"):
    """Something on the device that somebody may want to know."""

    at: Moment
    message: ShortText


class Dropped(msgspec.Struct, frozen=True, kw_only=True, tag="dropped"):
    """A gap: the outbox was full, and these records of a lane (``first`` to before ``end``) were given up."""

    lane: Lane
    first: Count
    end: Count
    at: Moment


class Sampled(msgspec.Struct, frozen=True, kw_only=True, tag="sampled"):
    """The inputs of one prediction, as JSON."""

    run: Id
    nth: Count
    at: Moment
    inputs: Annotated[str, Meta(max_length=MAX_SAMPLE_BYTES)]


OutboxRecord = RunBegan | Predicted | Counted | Happened | Dropped | Sampled


class OutboxTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Everything before ``next`` is with the cloud, on disk."""

    next: int


@operation("devices.upload", Right.DEVICE, "POST /devices/{device}/outbox", audited=False)
class UploadOutbox(Operation[OutboxTaken], frozen=True, kw_only=True):
    """Bring records of one lane. Those that the cloud has are passed over; a chunk that leaves out some is not taken.

    Attributes:
        base: number that the outbox began with.
        oldest: records before it that have not come never will: the device has given them up.
        first: number of the first record here; the others follow without a gap.
        mark: what the device recognises the last record by; the cloud says it again with the position.
    """

    device: Id
    epoch: Id
    lane: Lane
    base: Count = 0
    oldest: Count
    first: Count
    now: Moment
    mark: Annotated[str, Meta(max_length=16)] = ""
    records: Annotated[tuple[OutboxRecord, ...], Meta(max_length=MAX_RECORDS)]
