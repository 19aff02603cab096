"""Devices and their reports in memory, for as long as roll-outs look at them: only what changed is read again.

The database stays the truth: whatever a roll-out decides on a board is decided again in the transaction that does it. So a board that
is late costs a moment, and nothing else.
"""

import threading

from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, changed
from skyloom.rooms.devices.model import Device, DeviceReport
from skyloom.rooms.devices.ports import DEVICE_REPORTS, DEVICES
from skyloom.rooms.monitoring.model import Traffic

_PATIENCE_S = 10.0  # a change that has not come by then was rolled back
_SETTLED_S, _ANEW_S = 2.0, 300.0
Place = tuple[Device, DeviceReport | None]


class FleetBoard:
    """Devices of projects with live roll-outs. `mark` may be called from any thread, the others from one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._marks: dict[str, dict[str, tuple[tuple[int, int], float]]] = {}
        self._boards: dict[str, tuple[float, dict[str, Place]]] = {}
        self.reads = 0

    def mark(self, device: Device, report: DeviceReport | None = None) -> None:
        """Say, before a transaction ends, what of a device is new if it does: read no earlier than these versions."""
        with self._lock:
            if device.project in self._marks:
                versions = (device.version, report.version if report else 0)
                self._marks[device.project][device.id] = (versions, self._clock.monotonic() + _PATIENCE_S)

    def look(self, view: Snapshot, project: str) -> tuple[bool, dict[str, Place]]:
        """Whether anything was new since the last look, and all devices of a project."""
        began = self._clock.monotonic()
        with self._lock:
            marks = dict(self._marks.setdefault(project, {}))
        good_until, places = self._boards.get(project, (0.0, {}))
        if not good_until or began > good_until:
            # What was being written when the first marks were taken is read with the second look.
            return True, self._read_all(view, project, began + (_ANEW_S if good_until else _SETTLED_S))
        for device_id, (versions, until) in marks.items():
            place = self._read(view, places, device_id)
            if place is None or began > until or _is_as_new(place, versions):
                self._done(project, device_id, versions)
        return bool(marks), places

    def keep_only(self, projects: set[str]) -> None:
        """Forget the boards of projects where no roll-out lives."""
        with self._lock:
            self._marks = {name: kept for name, kept in self._marks.items() if name in projects}
        self._boards = {name: kept for name, kept in self._boards.items() if name in projects}

    def _read_all(self, view: Snapshot, project: str, good_until: float) -> dict[str, Place]:
        places = read_places(view, project)
        self.reads += len(places)
        self._boards[project] = (good_until, places)
        return places

    def _read(self, view: Snapshot, places: dict[str, Place], device_id: str) -> Place | None:
        device = view.get(DEVICES, device_id)
        self.reads += 1
        if device is None:
            return None
        places[device_id] = (device, slim(view.get(DEVICE_REPORTS, device_id)))
        return places[device_id]

    def _done(self, project: str, device_id: str, versions: tuple[int, int]) -> None:
        with self._lock:
            marks = self._marks.get(project, {})
            if marks.get(device_id, (None, 0.0))[0] == versions:
                del marks[device_id]


def _is_as_new(place: Place, versions: tuple[int, int]) -> bool:
    device, report = place
    return device.version >= versions[0] and (report.version if report else 0) >= versions[1]


def read_places(view: Snapshot, project: str) -> dict[str, Place]:
    """All devices of a project with their reports, from the database."""
    reports = {report.id: slim(report) for report in view.select(DEVICE_REPORTS, {"project": project})}
    return {device.id: (device, reports.get(device.id)) for device in view.select(DEVICES, {"project": project})}


def slim(report: DeviceReport | None) -> DeviceReport | None:
    """A report without what a roll-out does not look at."""
    return report and changed(report, {"traffic": Traffic(), "note": "", "former_epochs": ()})
