"""The service of devices: lets them in, tells them what to serve, hears how they are."""

from collections.abc import Iterator
from itertools import islice

import msgspec

from skyloom.core import digests
from skyloom.core.ids import Ids
from skyloom.core.labels import matches
from skyloom.core.operation import Caller, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed, named, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.devices import messages, model, rules
from skyloom.rooms.devices.board import FleetBoard
from skyloom.rooms.devices.fleets import Fleets
from skyloom.rooms.devices.intake import Intake, samples_of
from skyloom.rooms.devices.keeping import Keeping
from skyloom.rooms.devices.keys import DeviceKeys
from skyloom.rooms.devices.messages import Assignment, DeviceIdentity, DeviceOrders, DeviceOutcome, Lane
from skyloom.rooms.devices.model import Device, DeviceReport, DeviceState, DeviceStatus, EnrolledDevice, JoinCode
from skyloom.rooms.devices.ports import DEVICE_REPORTS, DEVICE_RUNS, DEVICES, JOIN_CODES, ROLLOUTS, SAMPLE_CHUNKS
from skyloom.rooms.devices.rollout import RolloutState
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.tenancy.service import Tenancy

_SKEW_TOLD_S = 120.0
_SOME = 200
_TWIN_TOLD_S = 86_400.0


class Devices:
    """Devices of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        tenancy: Tenancy,
        keys: DeviceKeys,
        board: FleetBoard,
        keeping: Keeping,
        fleets: Fleets,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._tenancy = tenancy
        self._keys = keys
        self._board = board
        self._intake = Intake(clock, keeping, fleets)

    def handlers(self) -> Handlers:
        return {
            model.EnrolDevice: Change(self.enrol, kept=_without_code, shown=self._with_code),
            messages.JoinDevice: Change(self.join, kept=_without_token, shown=self._with_token),
            model.ListDevices: Query(self.list),
            model.GetDevice: Query(self.get),
            model.RetireDevice: Change(self.retire),
            model.RotateDeviceKey: Change(lambda tx, ask, by: self._keys.rotate(tx, by.project, ask.overlap_s)),
            messages.SyncDevice: Change(self.sync),
            messages.UploadOutbox: Change(self.upload),
            model.ListSamples: Query(self.samples),
        }

    # Letting in

    def enrol(self, tx: Transaction, ask: model.EnrolDevice, by: Caller) -> EnrolledDevice:
        self._keys.install(tx, by.project)
        device = named(tx, DEVICES, ask.name, by.project)
        now = self._clock.now()
        if device is not None:
            labels = device.labels if ask.labels is None else ask.labels
            facts = {"enrolment": device.enrolment + 1, "labels": labels}
            if device.retired_at is not None:  # whoever has its old token stays outside
                facts |= {"retired_at": None, "joined_at": None, "generation": device.generation + 1}
            device = tx.update(DEVICES, changed(device, facts))
        else:
            device = tx.insert(
                DEVICES,
                Device(
                    id=self._ids.new("dev"),
                    project=by.project,
                    name=ask.name,
                    labels=ask.labels or {},
                    created_at=now,
                    created_by=by.principal,
                ),
            )
        self._board.mark(device)
        code = self._tenancy.join_code(device.project, device.id, device.enrolment)
        tx.delete(JOIN_CODES, device.id)
        expires_at = now + ask.ttl_s
        digest = digests.of_bytes(code.encode())
        tx.insert(JOIN_CODES, JoinCode(id=device.id, project=by.project, digest=digest, expires_at=expires_at))
        return EnrolledDevice(device=device, code=code, expires_at=expires_at)

    def join(self, tx: Transaction, ask: messages.JoinDevice, by: Caller) -> DeviceIdentity:
        device = self._own(tx, ask.device, by)
        code = tx.get(JOIN_CODES, device.id)
        if code is None:  # the door has looked at it, and the device was retired since
            raise model.JoinCodeUsed(
                f"The join code of {device.name} is good no more.",
                next_action=f"Ask for a new one: skyloom device enrol {device.name}.",
            )
        nonce = digests.of_bytes(ask.nonce.encode())
        if not code.nonce:
            tx.update(JOIN_CODES, changed(code, {"nonce": nonce}))
            facts: dict[str, object] = {"joined_at": self._clock.now(), "generation": device.generation + 1}
            device = tx.update(DEVICES, changed(device, facts | self._first_orders(tx, device)))
            self._board.mark(device)
        elif code.nonce != nonce:
            raise model.JoinCodeUsed(
                f"The join code of {device.name} was used already.",
                next_action=f"Ask for a new one: skyloom device enrol {device.name}. If it was not you who used it, do so at once: "
                "the new join makes the other one's token useless.",
            )
        return self._identity(tx, device)

    def _first_orders(self, view: Snapshot, device: Device) -> dict[str, object]:
        """What a device that joins for the first time should serve: what the newest roll-out brought to devices like it."""
        if device.wanted:
            return {}
        done = view.select(ROLLOUTS, {"project": device.project, "state": RolloutState.DONE}, newest_first=True)
        fitting = next((rollout for rollout in done if matches(device.labels, rollout.labels)), None)
        if fitting is None:
            return {}
        told = {"wanted": fitting.model_version, "rollout": fitting.id, "probation_s": fitting.probation_s}
        return {**told, "assignment": device.assignment + 1}

    def _identity(self, view: Snapshot, device: Device) -> DeviceIdentity:
        return DeviceIdentity(
            project=device.project,
            device=device.id,
            name=device.name,
            token=self._tenancy.device_secret(device.id, device.generation),
            rings=(self._keys.newest(view, device.project).notice,),
        )

    def retire(self, tx: Transaction, ask: model.RetireDevice, by: Caller) -> DeviceStatus:
        device = self.find(tx, ask.name, by.project)
        if device.retired_at is None:
            device = tx.update(DEVICES, changed(device, {"retired_at": self._clock.now()}))
            self._board.mark(device)
            tx.delete(JOIN_CODES, device.id)
        return self.status(tx, device)

    # For the door, before there is a caller

    def project_of_device(self, device_id: str, generation: int) -> str | None:
        """The project of a device whose token of that generation is good."""
        device = self._store.read(lambda view: view.get(DEVICES, device_id))
        is_good = device is not None and device.retired_at is None and device.generation == generation > 0
        return device.project if device and is_good else None

    def project_of_code(self, device_id: str, digest: str) -> str | None:
        """The project of a device whose join code has that digest and still is good."""
        code = self._store.read(lambda view: view.get(JOIN_CODES, device_id))
        is_good = code is not None and code.digest == digest and code.expires_at > self._clock.now()
        return code.project if code and is_good else None

    # Devices speak

    def sync(self, tx: Transaction, ask: messages.SyncDevice, by: Caller) -> DeviceOrders:
        device = self._own(tx, ask.device, by)
        # This database is older than the device: a backup was brought back.
        if device.assignment < ask.assignment < 2**52:
            device = tx.update(DEVICES, changed(device, {"assignment": ask.assignment + 1}))
        now = self._clock.now()
        before = tx.get(DEVICE_REPORTS, device.id) or DeviceReport(
            id=device.id, project=device.project, seen_at=device.joined_at or now
        )
        said = ("interval_s", "software", "serving", "assignment", "outcome", "message", "ring")
        facts = {name: getattr(ask, name) for name in (*said, "waiting_records", "waiting_bytes")}
        back = {"back_at": now} if rules.is_back(before, now) else {}
        told = changed(before, {**facts, "seen_at": now, "skew_s": ask.now - now, **back})
        report = self._intake.speaks(tx, told, ask.epoch)
        self._board.mark(device, (tx.update if before.version else tx.insert)(DEVICE_REPORTS, report))
        facts_at, samples_at = (self._intake.position(tx, device, ask.epoch, lane) for lane in Lane)
        return DeviceOrders(
            now=now,
            interval_s=ask.interval_s,
            assignment=self._assignment(tx, device),
            rings=self._keys.rings(tx, device.project, after=ask.ring),
            facts=facts_at.next,
            samples=samples_at.next,
            facts_mark=facts_at.mark,
            samples_mark=samples_at.mark,
        )

    def _assignment(self, view: Snapshot, device: Device) -> Assignment:
        version = view.get(VERSIONS, device.wanted) if device.wanted else None
        told = Assignment(number=device.assignment, rollout=device.rollout, probation_s=device.probation_s)
        if version is not None:
            told = Assignment(
                number=device.assignment,
                rollout=device.rollout,
                probation_s=device.probation_s,
                version=version.id,
                model=version.model,
                label=str(version.number),
                manifest=manifest_digest(version),
            )
        return self._keys.sign(view, device.project, device.id, told)

    def upload(self, tx: Transaction, ask: messages.UploadOutbox, by: Caller) -> messages.OutboxTaken:
        return self._intake.take(tx, self._own(tx, ask.device, by), ask)

    def check_file(self, by: Caller, device_id: str, digest: str) -> None:
        """Raise `FileNotAssigned` unless a file is part of what the device that asks should serve, or would go back to."""

        def work(view: Snapshot) -> bool:
            device = self._own(view, device_id, by)
            return any(digest in _files(view, version) for version in (device.wanted, device.fallback) if version)

        if not self._store.read(work):
            raise model.FileNotAssigned(
                f"The file {digest[:80]} is none that this device should serve.",
                next_action="Sync first: what should be served may have changed.",
            )

    def _own(self, view: Snapshot, device_id: str, by: Caller) -> Device:
        """The device that speaks. Raises `DeviceMissing` for one of another project, `NotThisDevice` for any other."""
        device = self.find(view, device_id, by.project)
        if by.device_id != device.id:
            raise model.NotThisDevice(
                f"{by.principal} is not device {device_id}.", next_action="Only a device speaks for itself."
            )
        return device

    # Looking

    def find(self, view: Snapshot, name: str, project: str) -> Device:
        """A device by its name or id. Raises `DeviceMissing`, for somebody else's just the same."""
        device = owned(view, DEVICES, name, project) or named(view, DEVICES, name, project)
        if device is None:
            raise model.DeviceMissing(f"There is no device {name}.", next_action="List them: skyloom device list.")
        return device

    def get(self, ask: model.GetDevice, by: Caller) -> DeviceStatus:
        return self._store.read(lambda view: self.status(view, self.find(view, ask.name, by.project)))

    def list(self, ask: model.ListDevices, by: Caller) -> Page[DeviceStatus]:
        def work(view: Snapshot) -> Page[DeviceStatus]:
            found = list(islice(self._asked_for(view, ask, by.project), ask.limit + 1))
            items = tuple(found[: ask.limit])
            return Page(items=items, next_cursor=items[-1].device.id if len(found) > ask.limit else None)

        return self._store.read(work)

    def _asked_for(self, view: Snapshot, ask: model.ListDevices, project: str) -> Iterator[DeviceStatus]:
        name, _, value = ask.label.partition("=")
        after = ask.cursor
        while found := view.select(DEVICES, {"project": project}, newest_first=True, after=after, limit=_SOME):
            for device in found:
                if not name or device.labels.get(name) == value:
                    status = self.status(view, device)
                    if ask.state in (None, status.state):
                        yield status
            after = found[-1].id

    def samples(self, ask: model.ListSamples, by: Caller) -> Page[model.SampledInputs]:
        def work(view: Snapshot) -> Page[model.SampledInputs]:
            device = self.find(view, ask.name, by.project)
            part = listed(view, SAMPLE_CHUNKS, {"device": device.id}, ask)
            return Page(items=tuple(self._told_samples(view, part.items)), next_cursor=part.next_cursor)

        return self._store.read(work)

    def _told_samples(self, view: Snapshot, chunks: tuple[model.DeviceChunk, ...]) -> Iterator[model.SampledInputs]:
        for chunk, samples in samples_of(chunks):
            run = view.get(DEVICE_RUNS, chunk.run)
            version = run.model_version if run else ""
            yield model.SampledInputs(run=chunk.run, version=version, received_at=chunk.received_at, samples=samples)

    def find_prediction(self, prediction_id: str, project: str) -> model.DevicePrediction | None:
        """A prediction that a device of the project brought; None when none did. Raises `PredictionIdUnreadable`."""
        return self._store.read(lambda view: self._intake.find(view, prediction_id, project))

    def status(self, view: Snapshot, device: Device) -> DeviceStatus:
        """A device and how it is."""
        report = view.get(DEVICE_REPORTS, device.id)
        state = rules.state_of(device, report, self._clock.now())
        message, action = _said(device, report, state)
        return DeviceStatus(
            device=device,
            state=state,
            serving=_named(view, report.serving if report else "", device.project),
            wanted=_named(view, device.wanted, device.project),
            report=report,
            message=message,
            next_action=action,
        )

    def _with_code(self, made: EnrolledDevice) -> EnrolledDevice:
        code = self._tenancy.join_code(made.device.project, made.device.id, made.device.enrolment)
        return EnrolledDevice(device=made.device, code=code, expires_at=made.expires_at)

    def _with_token(self, made: DeviceIdentity) -> DeviceIdentity:
        """A repeated join gets the token that is good now."""
        device = self._store.read(lambda view: view.get(DEVICES, made.device))
        generation = device.generation if device else 0
        return DeviceIdentity(
            project=made.project,
            device=made.device,
            name=made.name,
            token=self._tenancy.device_secret(made.device, generation),
            rings=made.rings,
        )


def manifest_content(version: ModelVersion) -> bytes:
    """A bundle's manifest as the file that devices fetch."""
    return msgspec.json.encode(version.manifest)


def manifest_digest(version: ModelVersion) -> str:
    """Digest of that file."""
    return digests.of_bytes(manifest_content(version))


def _files(view: Snapshot, version_id: str) -> set[str]:
    version = view.get(VERSIONS, version_id)
    if version is None:
        return set()
    return {manifest_digest(version), *(file.digest for file in version.manifest.files)}


def _named(view: Snapshot, version_id: str, project: str) -> str:
    """A version in words. A device may say any id: another project's is as if there were none."""
    version = view.get(VERSIONS, version_id) if version_id else None
    return f"{version.model}:{version.number}" if version and version.project == project else version_id


def _said(device: Device, report: DeviceReport | None, state: DeviceState) -> tuple[str, str]:
    """What is not as it should be, and what to do about it."""
    if state is DeviceState.ENROLLED:
        return "It has not joined yet.", "Run on it: skyloom edge join CODE --url ADDRESS."
    if state is DeviceState.RETIRED or report is None:
        return "", ""
    if report.assignment == device.assignment and report.outcome is DeviceOutcome.FAILED:
        return f"It gave up what it should serve: {report.message}", "Mend the model and roll out another version."
    if report.twin_at is not None and report.seen_at - report.twin_at < _TWIN_TOLD_S:
        return (
            "Two machines speak as it: its folder was copied.",
            f"Join each by itself: skyloom device enrol {device.name} ends both tokens when one of them joins with the new code.",
        )
    if abs(report.skew_s) > _SKEW_TOLD_S:
        return (
            f"Its clock is {abs(report.skew_s):.0f} s {'ahead' if report.skew_s > 0 else 'behind'}.",
            "Set its clock.",
        )
    if report.dropped:
        return f"It had to give up {report.dropped} records: its outbox was full.", "Give it more room: --outbox."
    return "", ""


def _without_code(made: EnrolledDevice) -> EnrolledDevice:
    return EnrolledDevice(device=made.device, code="", expires_at=made.expires_at)


def _without_token(made: DeviceIdentity) -> DeviceIdentity:
    return DeviceIdentity(project=made.project, device=made.device, name=made.name, token="", rings=made.rings)
