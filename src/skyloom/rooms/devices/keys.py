"""The keys that sign what devices serve: one ring after another, each signed by the one before. Private halves are kept sealed."""

from functools import partial

import msgspec

from skyloom.core.ids import Ids
from skyloom.ports.clock import Clock
from skyloom.ports.sealing import Sealer
from skyloom.ports.signing import Signer
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.devices import model
from skyloom.rooms.devices.messages import (
    MAX_RINGS,
    Assignment,
    RingKey,
    RingNotice,
    assignment_statement,
    ring_statement,
)
from skyloom.rooms.devices.model import KeyRing, SealedKey
from skyloom.rooms.devices.ports import KEY_RINGS, SEALED_KEYS

_LOOK_S = 60.0


class DeviceKeys:
    """The rings of all projects. Each project has its own, so that no project can sign for another's devices.

    Args:
        master_key: the cloud's; it seals the private halves.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids, sealer: Sealer, signer: Signer, master_key: bytes) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._sealer = sealer
        self._signer = signer
        self._master_key = master_key

    def rings(self, view: Snapshot, project: str, after: int = 0) -> tuple[RingNotice, ...]:
        """The rings beyond one that is known, oldest first."""
        found = view.select(KEY_RINGS, {"project": project}, after=_ring_id(project, after), limit=MAX_RINGS)
        return tuple(ring.notice for ring in found)

    def newest(self, view: Snapshot, project: str) -> KeyRing:
        """The ring that counts now; a project has one from its first device on."""
        return view.select(KEY_RINGS, {"project": project}, newest_first=True, limit=1)[0]

    def install(self, tx: Transaction, project: str) -> None:
        """Make the first ring of a project, unless it has one."""
        if not tx.count(KEY_RINGS, {"project": project}):
            key = self._new_key(tx, project)
            self._add(tx, project, 1, (key,), signed_by=key)

    def rotate(self, tx: Transaction, project: str, overlap_s: float) -> RingNotice:
        """Put a new key in front. Raises `RotationUnderWay`."""
        self.install(tx, project)
        newest = self.newest(tx, project)
        if newest.drops_at is not None:
            raise model.RotationUnderWay(
                f"The newest key of {project} is on its way to the devices.",
                next_action="Wait until the overlap of the last change is over.",
            )
        old = newest.keys[0]
        keys = (self._new_key(tx, project), old)
        drops_at = self._clock.now() + overlap_s
        return self._add(tx, project, newest.number + 1, keys, signed_by=old, drops_at=drops_at).notice

    def sign(self, view: Snapshot, project: str, device: str, ask: Assignment) -> Assignment:
        """An assignment with its signature by the newest key."""
        key = self.newest(view, project).keys[0]
        ask = msgspec.structs.replace(ask, signed_by=key.id)
        return msgspec.structs.replace(ask, signature=self._sign(view, key, assignment_statement(device, ask)))

    def tick(self) -> float:
        """Leave out old keys whose overlap is over. Returns the seconds until it is time to look again."""
        now = self._clock.now()

        def work(view: Snapshot) -> list[KeyRing]:
            return [ring for ring in view.select(KEY_RINGS) if ring.drops_at is not None and ring.drops_at <= now]

        for ring in self._store.read(work):
            self._store.write(partial(self._drop, ring_id=ring.id))
        return _LOOK_S

    def _drop(self, tx: Transaction, ring_id: str) -> None:
        ring = tx.get(KEY_RINGS, ring_id)
        if ring is None or ring.drops_at is None:
            return
        tx.update(KEY_RINGS, changed(ring, {"drops_at": None}))
        self._add(tx, ring.project, ring.number + 1, ring.keys[:1], signed_by=ring.keys[0])
        for key in ring.keys[1:]:
            tx.delete(SEALED_KEYS, key.id)

    def _new_key(self, tx: Transaction, project: str) -> RingKey:
        private, public = self._signer.new_key()
        key = RingKey(id=self._ids.new("key"), public=public.hex())
        sealed = self._sealer.seal(self._master_key, private, _place(project, key.id))
        now = self._clock.now()
        tx.insert(SEALED_KEYS, SealedKey(id=key.id, project=project, public=key.public, sealed=sealed, created_at=now))
        return key

    def _add(
        self,
        tx: Transaction,
        project: str,
        number: int,
        keys: tuple[RingKey, ...],
        *,
        signed_by: RingKey,
        drops_at: float | None = None,
    ) -> KeyRing:
        signature = self._sign(tx, signed_by, ring_statement(project, number, keys))
        ring = KeyRing(
            id=_ring_id(project, number),
            project=project,
            number=number,
            keys=keys,
            signed_by=signed_by.id,
            signature=signature,
            drops_at=drops_at,
        )
        return tx.insert(KEY_RINGS, ring)

    def _sign(self, view: Snapshot, key: RingKey, content: bytes) -> str:
        kept = view.get(SEALED_KEYS, key.id)
        assert kept is not None, "a key that signs is there"
        private = self._sealer.open(self._master_key, kept.sealed, _place(kept.project, kept.id))
        return self._signer.sign(private, content).hex()


def _ring_id(project: str, number: int) -> str:
    return f"{project}/{number:010d}"


def _place(project: str, key_id: str) -> str:
    return f"skyloom-device-key/{project}/{key_id}"
