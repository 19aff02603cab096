"""What cost needs stored, and what it needs to be told."""

from collections.abc import Iterable
from typing import Protocol

from skyloom.core.events import TaskEnded
from skyloom.ports.store import Log, Snapshot
from skyloom.rooms.cost.model import LedgerEntry

LEDGER = Log("ledger", LedgerEntry, keys=("project", "task_id"))

LOGS = (LEDGER,)


class Unfinished(Protocol):
    """Tells which tasks of a project have started and not ended; the jobs room does, wired by the composition root."""

    def __call__(self, view: Snapshot, project: str, now: float) -> Iterable[TaskEnded]:
        """Return each such task as if it ended at ``now``. Reads ``view`` and nothing else, so that no task is missed or
        seen twice beside the ledger of the same snapshot."""
        ...
