"""What devices need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.devices.model import (
    Device,
    DeviceChunk,
    DeviceFleet,
    DeviceReport,
    DeviceRun,
    FleetTraffic,
    JoinCode,
    KeyRing,
    OutboxPosition,
    SampleBatch,
    SealedKey,
)
from skyloom.rooms.devices.rollout import Rollout

DEVICES = Collection("devices", Device, indexes=("rollout",), unique=("name",))
JOIN_CODES = Collection("join_codes", JoinCode)
DEVICE_REPORTS = Collection("device_reports", DeviceReport)
DEVICE_RUNS = Collection("device_runs", DeviceRun, indexes=("device", "model_version", "touched_at"))
DEVICE_CHUNKS = Collection("device_chunks", DeviceChunk, indexes=("run", "device", "received_at"))
SAMPLE_CHUNKS = Collection("sample_chunks", DeviceChunk, indexes=("run", "device", "received_at", "model", "gathered"))
SAMPLE_BATCHES = Collection("sample_batches", SampleBatch)
POSITIONS = Collection("outbox_positions", OutboxPosition)
FLEETS = Collection("fleets", DeviceFleet)
FLEET_TRAFFIC = Collection("fleet_traffic", FleetTraffic, indexes=("fleet",))
KEY_RINGS = Collection("key_rings", KeyRing, indexes=("number", "drops_at"))
SEALED_KEYS = Collection("sealed_keys", SealedKey)
ROLLOUTS = Collection("rollouts", Rollout, indexes=("state",))

COLLECTIONS = (
    DEVICES,
    JOIN_CODES,
    DEVICE_REPORTS,
    DEVICE_RUNS,
    DEVICE_CHUNKS,
    SAMPLE_CHUNKS,
    SAMPLE_BATCHES,
    POSITIONS,
    FLEETS,
    FLEET_TRAFFIC,
    KEY_RINGS,
    SEALED_KEYS,
    ROLLOUTS,
)
