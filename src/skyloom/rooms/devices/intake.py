"""Taking in what devices wrote down while they were alone: the position of the outbox moves in the transaction that keeps the records."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, Transaction, changed
from skyloom.rooms.devices import rules
from skyloom.rooms.devices.fleets import Fleets
from skyloom.rooms.devices.keeping import Keeping
from skyloom.rooms.devices.messages import (
    Counted,
    Dropped,
    Happened,
    Lane,
    OutboxRecord,
    OutboxTaken,
    Predicted,
    RunBegan,
    Sampled,
    UploadOutbox,
)
from skyloom.rooms.devices.model import Device, DeviceChunk, DevicePrediction, DeviceReport, DeviceRun, OutboxPosition
from skyloom.rooms.devices.ports import DEVICE_CHUNKS, DEVICE_REPORTS, DEVICE_RUNS, DEVICES, POSITIONS, SAMPLE_CHUNKS
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.serving.predictions import locate

_RUN_PREFIX = "rep_"
_EPOCHS = 4


class Intake:
    """Keeps what comes out of outboxes, and finds predictions in it."""

    def __init__(self, clock: Clock, keeping: Keeping, fleets: Fleets) -> None:
        self._clock = clock
        self._fleets = fleets
        self._keeping = keeping

    def speaks(self, tx: Transaction, report: DeviceReport, epoch: str) -> DeviceReport:
        """The report of a device whose outbox of that epoch speaks; positions of outboxes long replaced are forgotten.

        One that was replaced and speaks again belongs to a second machine with the same folder.
        """
        if epoch == report.epoch:
            return report
        earlier = (*(name for name in report.former_epochs if name != epoch), *([report.epoch] if report.epoch else ()))
        for gone in earlier[:-_EPOCHS]:
            for lane in Lane:
                tx.delete(POSITIONS, _position_id(report.id, gone, lane))
        twin_at = self._clock.now() if epoch in report.former_epochs else report.twin_at
        return changed(report, {"epoch": epoch, "former_epochs": earlier[-_EPOCHS:], "twin_at": twin_at})

    def position(self, view: Snapshot, device: Device, epoch: str, lane: Lane) -> OutboxPosition:
        """Where a lane of an outbox stands; one that is new stands at 0."""
        identifier = _position_id(device.id, epoch, lane)
        return view.get(POSITIONS, identifier) or OutboxPosition(id=identifier, project=device.project)

    def take(self, tx: Transaction, device: Device, ask: UploadOutbox) -> OutboxTaken:
        """Keep what is new of a chunk, and how far the lane is now."""
        identifier = _position_id(device.id, ask.epoch, ask.lane)
        known = tx.get(POSITIONS, identifier)
        position = known or tx.insert(POSITIONS, OutboxPosition(id=identifier, project=device.project, next=ask.base))
        plan = rules.intake(position.next, ask.oldest, ask.first, len(ask.records))
        if plan.next == position.next:
            return OutboxTaken(next=position.next)
        skipped = position.skipped + plan.skipped
        mark = ask.mark if plan.next == ask.first + len(ask.records) else ""
        tx.update(POSITIONS, changed(position, {"next": plan.next, "mark": mark, "skipped": skipped}))
        self._keep(tx, device, ask, ask.records[plan.start :], plan.skipped)
        return OutboxTaken(next=plan.next)

    def _keep(
        self, tx: Transaction, device: Device, ask: UploadOutbox, records: Sequence[OutboxRecord], skipped: int
    ) -> None:
        now = self._clock.now()
        skew_s = ask.now - now
        before = tx.get(DEVICE_REPORTS, device.id) or DeviceReport(id=device.id, project=device.project, seen_at=now)
        tally = _Tally(self.speaks(tx, before, ask.epoch))
        tally.dropped += skipped
        for kind, some in groupby(_latest(records), key=_bundling):
            batch = list(some)
            if kind is not None and ask.lane is _LANES[kind[0]]:
                named = [record for record in batch if isinstance(record, Predicted | Sampled)]
                self._keep_chunk(tx, device, kind[0], kind[1], named, skew_s, tally)
            elif ask.lane is Lane.FACTS:
                for record in batch:
                    self._note(tx, device, record, tally)
            else:
                tally.refused += len(batch)
        report = self._keeping.make_room(tx, tally.told())
        if report != before or not report.version:
            (tx.update if report.version else tx.insert)(DEVICE_REPORTS, report)

    def _keep_chunk(
        self,
        tx: Transaction,
        device: Device,
        kind: type[OutboxRecord],
        run_id: str,
        batch: Sequence[Predicted | Sampled],
        skew_s: float,
        tally: "_Tally",
    ) -> None:
        run = tx.get(DEVICE_RUNS, run_id)
        if run is None or run.device != device.id:
            tally.refused += len(batch)
            return
        place, name = (DEVICE_CHUNKS, "next_nth") if kind is Predicted else (SAMPLE_CHUNKS, "next_sample")
        new = [record for record in batch if record.nth >= getattr(run, name)]
        if not new:
            return
        now, lines = self._clock.now(), msgspec.json.encode(new)
        version = tx.get(VERSIONS, run.model_version)
        tx.update(DEVICE_RUNS, changed(run, {name: max(record.nth for record in new) + 1, "touched_at": now}))
        tally.kept_bytes += len(lines)
        identifier = _chunk_id(run_id, new[0].nth)
        tally.predictions += len(new) if kind is Predicted else 0
        chunk = DeviceChunk(
            id=identifier,
            project=device.project,
            run=run_id,
            device=device.id,
            skew_s=skew_s,
            received_at=now,
            count=len(new),
            model=version.model if version and version.project == device.project else "",  # a device may say any id
            lines=lines,
        )
        tx.insert(place, chunk)

    def _note(self, tx: Transaction, device: Device, record: OutboxRecord, tally: "_Tally") -> None:
        """Take in a record that is kept as what it means and not as it came."""
        if isinstance(record, Dropped):
            tally.note = (
                f"Its outbox was full: {record.end - record.first} records of {record.lane.value} were given up."
            )
            tally.noted_at = record.at
        elif isinstance(record, Happened):
            tally.note, tally.noted_at = record.message, record.at
        elif isinstance(record, RunBegan) and record.run.startswith(_RUN_PREFIX):
            if tx.get(DEVICE_RUNS, record.run) is None:
                tally.take_over(self._keeping.make_room_for_run(tx, tally.told()))
                began = DeviceRun(
                    id=record.run,
                    project=device.project,
                    device=device.id,
                    model_version=record.version,
                    began_at=record.at,
                    touched_at=self._clock.now(),
                )
                tx.insert(DEVICE_RUNS, began)
        elif isinstance(record, Counted):
            run = tx.get(DEVICE_RUNS, record.run)
            if run is None or run.device != device.id:
                tally.refused += 1
                return
            added = rules.grown(run.traffic, record.traffic)
            tally.traffic = rules.together(tally.traffic, added)
            self._fleets.count(tx, device, run, added)
            tx.update(DEVICE_RUNS, changed(run, {"traffic": record.traffic, "touched_at": self._clock.now()}))
        else:
            tally.refused += 1

    def find(self, view: Snapshot, prediction_id: str, project: str) -> DevicePrediction | None:
        """A prediction that came from a device of a project. Raises `PredictionIdUnreadable`."""
        run_id, nth = locate(prediction_id)
        run = view.get(DEVICE_RUNS, run_id)
        device = view.get(DEVICES, run.device) if run else None
        if run is None or device is None or run.project != project:
            return None
        # The newest chunk that begins at the prediction's number or before it.
        after = _chunk_id(run_id, nth + 1)
        found = view.select(DEVICE_CHUNKS, {"run": run_id}, newest_first=True, after=after, limit=1)
        for chunk in found:
            for predicted in msgspec.json.decode(chunk.lines, type=list[Predicted]):
                if predicted.nth == nth:
                    return DevicePrediction(
                        prediction_id=prediction_id,
                        device=device,
                        version=run.model_version,
                        at=predicted.at - chunk.skew_s,
                        predicted=predicted,
                    )
        return None


class _Tally:
    """What a chunk adds to the report of its device."""

    def __init__(self, before: DeviceReport) -> None:
        self.before = before
        self.traffic: Traffic = before.traffic
        self.predictions, self.dropped, self.refused = before.predictions, before.dropped, before.refused
        self.note, self.noted_at = before.note, before.noted_at
        self.take_over(before)

    def take_over(self, report: DeviceReport) -> None:
        """What is kept after some was forgotten."""
        self.kept_bytes, self.forgotten = report.kept_bytes, report.forgotten

    def told(self) -> DeviceReport:
        """The report with it."""
        names = ("traffic", "predictions", "dropped", "refused", "note", "noted_at", "kept_bytes", "forgotten")
        return changed(self.before, {name: getattr(self, name) for name in names})


_LANES: dict[type[OutboxRecord], Lane] = {Predicted: Lane.FACTS, Sampled: Lane.SAMPLES}


def _latest(records: Sequence[OutboxRecord]) -> Iterable[OutboxRecord]:
    """Without counters of which newer ones of the same run are here too: they are totals."""
    newest = {record.run: record for record in records if isinstance(record, Counted)}
    return (record for record in records if not isinstance(record, Counted) or newest[record.run] is record)


def _bundling(record: OutboxRecord) -> tuple[type[OutboxRecord], str] | None:
    """What records are kept together: those of one kind and run; None for those that are kept one by one."""
    return (type(record), record.run) if isinstance(record, Predicted | Sampled) else None


def _position_id(device: str, epoch: str, lane: Lane) -> str:
    return f"{device}/{epoch}/{lane.value}"


def _chunk_id(run_id: str, nth: int) -> str:
    return f"{run_id}.{nth:016d}"


def samples_of(chunks: Iterable[DeviceChunk]) -> Iterable[tuple[DeviceChunk, tuple[Sampled, ...]]]:
    """Chunks with their samples."""
    return ((chunk, tuple(msgspec.json.decode(chunk.lines, type=list[Sampled]))) for chunk in chunks)
