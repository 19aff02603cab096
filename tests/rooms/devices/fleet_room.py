"""The rooms of devices over a store in memory, with signatures that are real, and devices that are imagined."""

import msgspec

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core import digests
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Operation, Right
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Change, Outbox
from skyloom.rooms.devices.board import FleetBoard
from skyloom.rooms.devices.fleets import Fleets
from skyloom.rooms.devices.keeping import Keeping
from skyloom.rooms.devices.keys import DeviceKeys
from skyloom.rooms.devices.messages import DeviceOrders, DeviceOutcome, JoinDevice, SyncDevice
from skyloom.rooms.devices.model import EnrolDevice
from skyloom.rooms.devices.rollout import CreateRollout, GetRollout, RolloutStatus
from skyloom.rooms.devices.rollouts import Rollouts
from skyloom.rooms.devices.service import Devices
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.model import ModelVersion, Provenance, RegisterModelVersion
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.stores.memory import MemoryStore
from skyloom.stores.sealing import AesGcmSealer
from skyloom.stores.signing import Ed25519Signer
from tests.rooms.workshop import manifest

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset(Right) - {Right.DEVICE, Right.JOIN})


class FleetRoom:
    """Devices and roll-outs of project p, and model "digits" with versions 1 and 2."""

    def __init__(self, store=None) -> None:
        self.store, self.clock, self.ids = store or MemoryStore(), MemoryClock(1_000.0), CountingIds()
        self.blobs = MemoryBlobs()
        self.tenancy = Tenancy(self.store, self.clock, self.ids, b"k" * 32)
        self.tenancy.install()
        self.keys = DeviceKeys(self.store, self.clock, self.ids, AesGcmSealer(), Ed25519Signer(), b"m" * 32)
        self.board = FleetBoard(self.clock)
        self.keeping = Keeping(self.store, self.clock)
        outbox = Outbox(self.clock)
        self.monitoring = Monitoring(self.store, self.clock, self.ids, outbox, self.blobs)
        self.fleets = Fleets(self.store, self.clock, self.blobs, self.monitoring)
        self.devices = Devices(
            self.store, self.clock, self.ids, self.tenancy, self.keys, self.board, self.keeping, self.fleets
        )
        self.tenancy.project_of_device = self.devices.project_of_device
        self.tenancy.project_of_code = self.devices.project_of_code
        self.registry = Registry(self.store, self.clock, self.ids, outbox, self.blobs)
        self.rollouts = Rollouts(
            self.store, self.clock, self.ids, outbox, self.registry, self.blobs, self.board, self.fleets
        )
        self.handlers = {
            **self.devices.handlers(),
            **self.rollouts.handlers(),
            **self.registry.handlers(),
            **self.monitoring.handlers(),
        }
        self.versions = [self.register(weights) for weights in (b"one", b"two")]
        self.said: dict[str, tuple[int, DeviceOutcome, str]] = {}

    def register(self, weights: bytes) -> ModelVersion:
        ask = RegisterModelVersion(
            model="digits",
            manifest=manifest(self.blobs, weights),
            provenance=Provenance(code_digest=digests.of_bytes(weights)),
        )
        return self.do(ask)

    def do(self, ask: Operation, by: Caller = ANN):
        handler = self.handlers[type(ask)]
        if not isinstance(handler, Change):
            return handler.run(ask, by)
        if handler.before:
            handler.before(ask, by)
        return self.store.write(lambda tx: handler.run(tx, ask, by))

    def enrol(self, name: str, **labels: str):
        return self.do(EnrolDevice(name=name, labels=labels))

    def caller(self, secret: str) -> Caller:
        return msgspec.structs.replace(self.tenancy.authenticate(secret, ""), project="p")

    def join(self, name: str, **labels: str) -> Caller:
        """Enrol and join a device; returns who it is from then on."""
        made = self.enrol(name, **labels)
        identity = self.do(JoinDevice(device=made.device.id, nonce="0" * 32), self.caller(made.code))
        return self.caller(identity.token)

    def sync(self, device: Caller, **changes) -> DeviceOrders:
        number, outcome, serving = self.said.get(device.device_id, (0, DeviceOutcome.PENDING, ""))
        told = {"assignment": number, "outcome": outcome, "serving": serving, **changes}
        return self.do(SyncDevice(device=device.device_id, now=self.clock.now(), epoch="e1", **told), device)

    def obey(self, device: Caller, outcome: DeviceOutcome = DeviceOutcome.HEALTHY) -> None:
        """Sync; serve what is ordered, and say how it went."""
        ordered = self.sync(device).assignment
        before = self.said.get(device.device_id, (0, outcome, ""))[2]
        serving = before if outcome is DeviceOutcome.FAILED else ordered.version
        self.said[device.device_id] = (ordered.number, outcome, serving)
        self.sync(device)

    def roll_out(self, version: str = "1", **changes) -> RolloutStatus:
        return self.do(CreateRollout(model="digits", version=version, **{"pause_s": 60.0, **changes}))

    def look(self, rollout_id: str) -> RolloutStatus:
        return self.do(GetRollout(rollout_id=rollout_id))
