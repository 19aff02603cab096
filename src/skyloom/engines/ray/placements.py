"""Where every task was sent, on the control plane's own disk: written before a node hears of the task, and kept until it is forgotten.

This is what makes "at most once" hold when a node is gone: its folders cannot be asked then.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from skyloom.engines.local.prepare import Place
from skyloom.engines.local.supervisor import files
from skyloom.ports.engine import Observation


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One task's node and place in its gang.

    Attributes:
        reservation: name of what Ray holds for the gang; empty for a task that was found on a node without a record here.
        node_id: Ray's name of the node; it changes when Ray is restarted there, ``machine`` does not.
        lease_s: how long its node's tasks go on without news from the head.
        end: how the task ended, once that was seen or the node was given up. It is final, whatever the node says later, or does not.
    """

    task_id: str
    reservation: str
    node_id: str
    machine: str
    place: Place
    lease_s: float
    end: Observation | None = None


class Placements:
    """All placements, one file each. Not thread-safe beyond single calls; writers hold the engine's lock. Raises ``OSError``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._by_task: dict[str, Placement] = {}
        self._by_reservation: dict[str, set[str]] = {}
        for placement in map(_read, folder.glob("*.json")):
            if placement is not None:
                self._note(placement)

    def _note(self, placement: Placement) -> None:
        self._by_task[placement.task_id] = placement
        if placement.reservation:
            self._by_reservation.setdefault(placement.reservation, set()).add(placement.task_id)

    def get(self, task_id: str) -> Placement | None:
        """One task's; None when it was never sent anywhere."""
        return self._by_task.get(task_id)

    def __iter__(self) -> Iterator[Placement]:
        return iter(list(self._by_task.values()))

    def of_reservation(self, name: str) -> list[Placement]:
        """All tasks of one gang."""
        found = (self._by_task.get(task_id) for task_id in sorted(self._by_reservation.get(name, ())))
        return [placement for placement in found if placement is not None]  # another thread may be removing one

    def write(self, placements: Sequence[Placement]) -> None:
        """Add or replace; on disk when this returns."""
        for placement in placements:
            files.write_durable(str(self._path(placement.task_id)), msgspec.to_builtins(placement))
            self._note(placement)

    def remove(self, task_id: str) -> None:
        """Forget one."""
        placement = self._by_task.pop(task_id, None)
        if placement is not None and placement.reservation:
            tasks = self._by_reservation[placement.reservation]
            tasks.discard(task_id)
            if not tasks:
                del self._by_reservation[placement.reservation]
        self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.json"


def _read(path: Path) -> Placement | None:
    """None for a file that a damaged disk left unreadable: its task is found again on its node."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Placement)
    except msgspec.MsgspecError:
        return None
