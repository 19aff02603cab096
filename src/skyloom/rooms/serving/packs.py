"""The service of packs: takes in which models an endpoint serves beside its own, and tells its replicas."""

from collections.abc import Iterable, Sequence

import msgspec

from skyloom.core import digests
from skyloom.core.events import Noted
from skyloom.core.operation import Caller
from skyloom.ports.blobs import Blobs
from skyloom.ports.door import Outbox
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.bundle import MANIFEST_FILE, PROFILE_FILE, RuntimeName
from skyloom.rooms.registry.model import NEWEST, ModelVersion
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.serving.model import Endpoint, PackModels, Replica
from skyloom.rooms.serving.outlook import newest_revision
from skyloom.rooms.serving.pack import (
    MAX_PACKED,
    GuestTraffic,
    Pack,
    PackedModel,
    PackEntry,
    PackTable,
    PackUnclear,
)
from skyloom.rooms.serving.ports import ENDPOINTS, ReplicaFiles

_RUNTIMES = (RuntimeName.ONNX, RuntimeName.LITERT)  # what runs in the replica's own process


class Packs:
    """Packs of all endpoints. Each guest is watched as an endpoint is, by the name ENDPOINT:MODEL."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        outbox: Outbox,
        blobs: Blobs,
        files: ReplicaFiles,
        monitoring: Monitoring,
    ) -> None:
        self._monitoring = monitoring
        self._store = store
        self._registry = registry
        self._outbox = outbox
        self._blobs = blobs
        self._files = files
        # Endpoint → pack, and the revision whose memory it is a part of.
        self._published: dict[str, tuple[Pack, int]] = {}

    # Taking in

    def pack(self, tx: Transaction, endpoint: Endpoint, ask: PackModels, by: Caller) -> Endpoint:
        """Change an endpoint's pack. Raises `ModelMissing`, `ModelVersionMissing`, `PackUnclear`."""
        before = endpoint.pack or Pack()
        known = {packed.model: packed for packed in before.models if packed.model not in ask.remove}
        for reference in ask.add:
            version = self._version(tx, reference, by.project)
            _check(endpoint, version)
            known[version.model] = PackedModel(model=version.model, version=version.id, label=str(version.number))
        if len(known) > MAX_PACKED:
            raise PackUnclear(
                f"A pack holds at most {MAX_PACKED} models.", next_action="Remove some, or deploy another."
            )
        pack = Pack(
            models=tuple(known[name] for name in sorted(known)),
            memory_bytes=before.memory_bytes if ask.memory_bytes is None else ask.memory_bytes,
            max_loaded=before.max_loaded if ask.max_loaded is None else ask.max_loaded,
        )
        self._check_memory(tx, endpoint, pack)
        if pack == endpoint.pack:
            return endpoint
        names = ", ".join(f"{packed.model}:{packed.label}" for packed in pack.models) or "nothing"
        said = f"{by.principal} packs {names}."
        self._outbox.publish(tx, endpoint.project, endpoint.id, Noted(message=said[:600]))
        packed = tx.update(ENDPOINTS, changed(endpoint, {"pack": pack}))
        for gone in set(before.models) - set(pack.models):
            self._monitoring.unwatch(tx, _watch_id(endpoint.id, gone))
        if not endpoint.stopped_by:
            self.watch(tx, packed, before.models)
        return packed

    def check(self, ask: PackModels, by: Caller) -> None:
        """Bring the manifests to the blobs: they are part of what lies in a bundle's folder."""
        versions = self._store.read(lambda view: [self._version(view, name, by.project) for name in ask.add])
        for version in versions:
            self._blobs.put([_manifest(version)])

    def _version(self, view: Snapshot, reference: str, project: str) -> ModelVersion:
        name, _, version = reference.partition(":")
        return self._registry.version(view, name, version or NEWEST, project)

    def _check_memory(self, view: Snapshot, endpoint: Endpoint, pack: Pack) -> None:
        latest = newest_revision(view, endpoint)
        most = latest.resources.memory_bytes if latest else 0
        if most and pack.memory_bytes > most:
            raise PackUnclear(
                f"A replica of {endpoint.name} has {most} bytes; its pack cannot have {pack.memory_bytes}.",
                next_action="Deploy with more (--memory), or ask for less.",
            )

    # Watching

    def watch(self, tx: Transaction, endpoint: Endpoint, before: Iterable[PackedModel] = ()) -> None:
        """Watch the guests of an endpoint that serves; safe to repeat. Another version of one that was there ``before`` keeps its rules."""
        replaced = {packed.model: packed for packed in before}
        for packed in _guests_of(endpoint):
            old = replaced.get(packed.model, packed)
            like = _watch_id(endpoint.id, old) if old != packed else ""
            name, profile = f"{endpoint.name}:{packed.model}", _profile_of(tx, packed)
            self._monitoring.watch(tx, endpoint.project, _watch_id(endpoint.id, packed), name, profile, like=like)

    def unwatch(self, tx: Transaction, endpoint: Endpoint) -> None:
        """The endpoint was stopped, and its guests with it."""
        for packed in _guests_of(endpoint):
            self._monitoring.unwatch(tx, _watch_id(endpoint.id, packed))

    def observe(self, replica: Replica, seen: Sequence[GuestTraffic]) -> None:
        """Take in what a replica says of its guests; of those that are no part of the pack any more, nothing."""

        def work(view: Snapshot) -> list[tuple[str, str, Traffic]]:
            endpoint = view.get(ENDPOINTS, replica.endpoint_id)
            guests = _guests_of(endpoint) if endpoint is not None else ()
            known = {(packed.model, packed.label): packed for packed in guests}
            named = [(known[one.model, one.version], one) for one in seen if (one.model, one.version) in known]
            return [
                (_watch_id(replica.endpoint_id, packed), _profile_of(view, packed), one.traffic)
                for packed, one in named
            ]

        for watch, profile, traffic in self._store.read(work):
            self._monitoring.observe(watch, replica.id, traffic, profile=profile, started_at=replica.created_at)

    # Telling

    def publish(self, endpoint: Endpoint) -> None:
        """Tell the replicas of one endpoint, if that is news. Plain endpoints cost nothing."""
        pack = endpoint.pack
        if pack is None or endpoint.stopped_by or self._published.get(endpoint.id) == (pack, endpoint.revision):
            return
        latest, versions = self._store.read(
            lambda view: (
                newest_revision(view, endpoint),
                [view.get(VERSIONS, packed.version) for packed in pack.models if packed.model != endpoint.model],
            )
        )
        table = PackTable(
            entries=tuple(self._entry(version) for version in versions if version is not None),
            memory_bytes=pack.memory_bytes or (latest.resources.memory_bytes // 2 if latest else 0),
            max_loaded=pack.max_loaded,
        )
        self._files.publish_pack(endpoint.id, table)
        self._published[endpoint.id] = (pack, endpoint.revision)

    def _entry(self, version: ModelVersion) -> PackEntry:
        manifest = digests.of_bytes(_manifest(version))
        files = {file.path: file.digest for file in version.manifest.files}
        return PackEntry(
            model=version.model,
            version=version.id,
            label=str(version.number),
            folder=self._files.lay_out(manifest, {**files, MANIFEST_FILE: manifest}),
            manifest=manifest,
            size_bytes=sum(file.size_bytes for file in version.manifest.files),
        )


def _check(endpoint: Endpoint, version: ModelVersion) -> None:
    if version.model == endpoint.model:
        raise PackUnclear(
            f"{endpoint.name} serves {version.model!r} itself.",
            next_action="Deploy another version of it: skyloom deploy.",
        )
    if version.manifest.runtime not in _RUNTIMES:
        raise PackUnclear(
            f"{version.model} version {version.number} needs a process of its own ({version.manifest.runtime.value}).",
            next_action="Give it an endpoint: skyloom deploy. A pack holds ONNX and LiteRT models.",
        )


def _guests_of(endpoint: Endpoint) -> Sequence[PackedModel]:
    return [packed for packed in endpoint.pack.models if packed.model != endpoint.model] if endpoint.pack else ()


def _watch_id(endpoint_id: str, packed: PackedModel) -> str:
    return f"{endpoint_id}:{packed.version}"


def _profile_of(view: Snapshot, packed: PackedModel) -> str:
    """Digest of what its training's rows looked like; "" where nothing says so."""
    version = view.get(VERSIONS, packed.version)
    files = version.manifest.files if version is not None else ()
    return next((file.digest for file in files if file.path == PROFILE_FILE), "")


def _manifest(version: ModelVersion) -> bytes:
    return msgspec.json.encode(version.manifest)
