"""What is kept of what devices brought: for so many days, and so many bytes a device. Sums are kept for ever and stay true."""

from collections.abc import Sequence

from skyloom.ports.clock import Clock
from skyloom.ports.store import Collection, Store, Transaction, changed
from skyloom.rooms.devices.model import DeviceChunk, DeviceReport, DeviceRun
from skyloom.rooms.devices.ports import DEVICE_CHUNKS, DEVICE_REPORTS, DEVICE_RUNS, SAMPLE_CHUNKS

KEEP_S = 90 * 86_400.0
KEEP_BYTES = 256 * 2**20
KEEP_RUNS = 1_000
_SOME, _ROUNDS = 100, 20
_BUSY_S, _IDLE_S = 1.0, 3_600.0
Lost = tuple[Collection[DeviceChunk], DeviceChunk]


class Keeping:
    """Forgets, oldest first. Samples go before predictions where a device has brought too much.

    Args:
        keep_s: predictions and samples that came longer ago are forgotten, and runs of which nothing came since.
        keep_bytes: of predictions and samples together, a device.
        keep_runs: runs of a device.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        keep_s: float = KEEP_S,
        keep_bytes: int = KEEP_BYTES,
        keep_runs: int = KEEP_RUNS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._keep_s = keep_s
        self._keep_bytes = keep_bytes
        self._keep_runs = keep_runs

    def make_room(self, tx: Transaction, report: DeviceReport) -> DeviceReport:
        """Forget what one device brought too much; returns its report as it is to be kept."""
        for place in (SAMPLE_CHUNKS, DEVICE_CHUNKS):
            while report.kept_bytes > self._keep_bytes:
                oldest = tx.select(place, {"device": report.id}, order="received_at", limit=_SOME)
                for chunk in oldest:
                    if report.kept_bytes > self._keep_bytes:
                        tx.delete(place, chunk.id)
                        report = _without(report, place, chunk)
                if not oldest:
                    break
        return report

    def make_room_for_run(self, tx: Transaction, report: DeviceReport) -> DeviceReport:
        """Forget the run of a device of which nothing came for longest, when there are too many; returns its report as it is to be kept."""
        if tx.count(DEVICE_RUNS, {"device": report.id}) >= self._keep_runs:
            for run in tx.select(DEVICE_RUNS, {"device": report.id}, order="touched_at", limit=1):
                for place, chunk in self._drop_run(tx, run):
                    report = _without(report, place, chunk)
        return report

    def tick(self) -> float:
        """Forget what is older than it is kept. Returns the seconds until it is time to look again."""
        for _ in range(_ROUNDS):
            if not self._store.write(self._forget_old):
                return _IDLE_S
        return _BUSY_S

    def _forget_old(self, tx: Transaction) -> bool:
        """Some of it; False when nothing is left to forget."""
        horizon = self._clock.now() - self._keep_s
        found = False
        for place in (SAMPLE_CHUNKS, DEVICE_CHUNKS):
            old = [chunk for chunk in tx.select(place, order="received_at", limit=_SOME) if chunk.received_at < horizon]
            self._drop(tx, [(place, chunk) for chunk in old])
            found = found or bool(old)
        runs = [run for run in tx.select(DEVICE_RUNS, order="touched_at", limit=_SOME) if run.touched_at < horizon]
        for run in runs:
            if self._is_newest(tx, run):
                # It is not in the way of others.
                tx.update(DEVICE_RUNS, changed(run, {"touched_at": self._clock.now()}))
            else:
                self._drop(tx, self._drop_run(tx, run))
        return found or bool(runs)

    def _is_newest(self, tx: Transaction, run: DeviceRun) -> bool:
        """A device that is asked once a year still serves in the same run."""
        newest = tx.select(DEVICE_RUNS, {"device": run.device}, order="touched_at", newest_first=True, limit=1)
        return newest[0].id == run.id

    def _drop_run(self, tx: Transaction, run: DeviceRun) -> list[Lost]:
        """Forget a run and what is left of it, which is returned: it is still to be taken out of the sums of its device."""
        lost = [
            (place, chunk) for place in (SAMPLE_CHUNKS, DEVICE_CHUNKS) for chunk in tx.select(place, {"run": run.id})
        ]
        for place, chunk in lost:
            tx.delete(place, chunk.id)
        tx.delete(DEVICE_RUNS, run.id)
        return lost

    def _drop(self, tx: Transaction, lost: Sequence[Lost]) -> None:
        for place, chunk in lost:
            tx.delete(place, chunk.id)
            report = tx.get(DEVICE_REPORTS, chunk.device)
            if report is not None:
                tx.update(DEVICE_REPORTS, _without(report, place, chunk))


def _without(report: DeviceReport, place: Collection[DeviceChunk], chunk: DeviceChunk) -> DeviceReport:
    facts: dict[str, object] = {"kept_bytes": max(0, report.kept_bytes - len(chunk.lines))}
    if place is DEVICE_CHUNKS:
        facts["forgotten"] = report.forgotten + chunk.count
    return changed(report, facts)
