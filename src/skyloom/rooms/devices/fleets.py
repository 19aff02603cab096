"""What all devices of a roll-out's labels saw together, watched as an endpoint is: the same windows, rules and alerts.

A fleet is a model and labels. Its sums are kept in the transaction that takes a device's counters in, so nothing is counted twice, and
in one record for each model version, so that ten thousand devices cost monitoring no more memory than one.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.labels import matches
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.devices import rules
from skyloom.rooms.devices.model import Device, DeviceFleet, DeviceRun, FleetTraffic
from skyloom.rooms.devices.ports import FLEET_TRAFFIC, FLEETS
from skyloom.rooms.devices.rollout import Rollout, RolloutState
from skyloom.rooms.monitoring.model import Profile, Traffic
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.bundle import PROFILE_FILE
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.registry.ports import VERSIONS

_LOOK_S, _IDLE_S = 5.0, 60.0
_NAME_CHARS = 100
_CACHED = 100


class Fleets:
    """Fleets of all projects."""

    def __init__(self, store: Store, clock: Clock, blobs: Blobs, monitoring: Monitoring) -> None:
        self._store = store
        self._clock = clock
        self._blobs = blobs
        self._monitoring = monitoring
        self._bins: dict[str, tuple[int, ...]] = {}

    def read_profile(self, version: ModelVersion) -> None:
        """Learn in which bins a version's devices count, before the transaction that begins to watch them."""
        digest = profile_of(version)
        if digest and digest not in self._bins:
            try:
                profile = msgspec.json.decode(self._blobs.get(digest), type=Profile)
            except (SkyloomError, msgspec.MsgspecError):
                return  # then its devices are watched without drift
            if len(self._bins) >= _CACHED:
                self._bins.clear()
            self._bins[digest] = tuple(len(feature.edges) + 1 for feature in profile.features)

    def watch(self, tx: Transaction, rollout: Rollout, version: ModelVersion) -> None:
        """Watch what a roll-out brings, from its first device on."""
        identifier = _fleet_id(rollout.project, rollout.model, rollout.labels)
        known = tx.get(FLEETS, identifier)
        fleet = known or tx.insert(
            FLEETS,
            DeviceFleet(
                id=identifier,
                project=rollout.project,
                model=rollout.model,
                labels=rollout.labels,
                name=fleet_name(rollout.model, rollout.labels),
            ),
        )
        before = fleet.model_version if fleet.model_version != version.id else fleet.before
        tx.update(FLEETS, changed(fleet, {"model_version": version.id, "before": before}))
        self._look_at(tx, fleet, version)
        traffic_id = _traffic_id(fleet, version.id)
        if tx.get(FLEET_TRAFFIC, traffic_id) is None:
            bins = self._bins.get(profile_of(version), ())
            sums = FleetTraffic(
                id=traffic_id, project=fleet.project, fleet=fleet.id, profile=profile_of(version), bins=bins
            )
            tx.insert(FLEET_TRAFFIC, sums)

    def ended(self, tx: Transaction, rollout: Rollout) -> None:
        """Look at what these devices serve now that a roll-out is over: what it brought, or what was there before it."""
        fleet = tx.get(FLEETS, _fleet_id(rollout.project, rollout.model, rollout.labels))
        if fleet is None:
            return
        if rollout.state is RolloutState.ROLLED_BACK:
            back = tx.get(VERSIONS, fleet.before) if fleet.before else None
            fleet = tx.update(FLEETS, changed(fleet, {"model_version": fleet.before, "before": ""}))
            if back is None:
                self._monitoring.unwatch(tx, fleet.id)
            else:
                self._look_at(tx, fleet, back)
            return
        for other in tx.select(FLEETS, {"project": rollout.project}):
            if other.id != fleet.id and other.labels == fleet.labels and other.model_version:
                tx.update(FLEETS, changed(other, {"model_version": "", "before": ""}))
                self._monitoring.unwatch(tx, other.id)

    def _look_at(self, tx: Transaction, fleet: DeviceFleet, version: ModelVersion) -> None:
        self._monitoring.watch(tx, fleet.project, fleet.id, fleet.name, profile_of(version))

    def count(self, tx: Transaction, device: Device, run: DeviceRun, added: Traffic) -> None:
        """Add what a run saw since it last said so to the fleets that its device belongs to."""
        for fleet in tx.select(FLEETS, {"project": device.project}):
            if matches(device.labels, fleet.labels):
                sums = tx.get(FLEET_TRAFFIC, _traffic_id(fleet, run.model_version))
                if sums is not None:
                    tx.update(FLEET_TRAFFIC, changed(sums, {"traffic": rules.summed(sums.traffic, added, sums.bins)}))

    def tick(self) -> float:
        """Tell monitoring what the fleets saw. Returns the seconds until it is time again."""

        def work(view: Snapshot) -> list[FleetTraffic]:
            found = (
                view.get(FLEET_TRAFFIC, _traffic_id(fleet, version))
                for fleet in view.select(FLEETS)
                for version in {fleet.model_version, fleet.before} - {""}
            )
            return [sums for sums in found if sums is not None]

        watched = self._store.read(work)
        for sums in watched:
            self._monitoring.observe(sums.fleet, sums.id, sums.traffic, profile=sums.profile)
        return _LOOK_S if watched else _IDLE_S


def profile_of(version: ModelVersion) -> str:
    """Digest of a version's profile; empty when it has none."""
    return next((file.digest for file in version.manifest.files if file.path == PROFILE_FILE), "")


def fleet_name(model: str, labels: Mapping[str, str]) -> str:
    """What people call a fleet, and find its alerts by: ``fleet:digits:site.a``."""
    name = ":".join(["fleet", model, *(f"{key}.{value}" for key, value in sorted(labels.items()))])
    return (
        name
        if len(name) <= _NAME_CHARS
        else f"{name[: _NAME_CHARS - 9]}:{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )


def _fleet_id(project: str, model: str, labels: Mapping[str, str]) -> str:
    told = msgspec.json.encode([project, model, sorted(labels.items())])
    return f"fleet_{hashlib.sha256(told).hexdigest()[:32]}"


def _traffic_id(fleet: DeviceFleet, version: str) -> str:
    return f"{fleet.id}/{version}"
