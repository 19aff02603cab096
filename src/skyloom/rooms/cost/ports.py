"""What cost needs stored, and what it needs to be told."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from skyloom.core.events import TaskEnded
from skyloom.ports.store import Collection, Log, Snapshot
from skyloom.rooms.cost.budget import Budget, Pledge, Reservation, Spender
from skyloom.rooms.cost.model import LedgerEntry, Tally
from skyloom.rooms.cost.prices import PriceList

LEDGER = Log("ledger", LedgerEntry, keys=("project", "task_id"))
TALLIES = Collection("tallies", Tally, indexes=("shelf", "subject"))
PRICES = Collection("prices", PriceList)
BUDGETS = Collection("budgets", Budget, unique=("scope", "name"))
RESERVATIONS = Collection("reservations", Reservation)
PLEDGES = Collection("pledges", Pledge)

LOGS = (LEDGER,)
COLLECTIONS = (TALLIES, PRICES, BUDGETS, RESERVATIONS, PLEDGES)


class Unfinished(Protocol):
    """Tells which tasks of a project have started and not ended; the jobs room does, wired by the composition root."""

    def __call__(self, view: Snapshot, project: str, now: float, /) -> Iterable[TaskEnded]:
        """Return each such task as if it ended at ``now``. Reads ``view`` and nothing else, so that no task is missed or
        seen twice beside the ledger of the same snapshot."""
        ...


class Spenders(Protocol):
    """Tells which jobs hold resources now; the jobs room does, wired by the composition root."""

    def __call__(self, view: Snapshot, projects: Iterable[str] | None, now: float, /) -> Iterable[Spender]:
        """Return every job of these projects (None: of all) with a task that has been started and has not ended, its running tasks
        as if they ended at ``now``. Reads ``view`` and nothing else."""
        ...


class Titles(Protocol):
    """Tells what jobs, or endpoints, are called; their rooms do, wired by the composition root."""

    def __call__(self, view: Snapshot, ids: Iterable[str], /) -> Mapping[str, str]:
        """Return id → its name, for those that are known. Reads ``view`` and nothing else."""
        ...


class PoolNames(Protocol):
    """Tells which pools there are; the pools room does, wired by the composition root."""

    def __call__(self, view: Snapshot, /) -> Iterable[str]:
        """Return the names of all pools, this machine's first. Reads ``view`` and nothing else."""
        ...


class ModelsOfRuns(Protocol):
    """Tells which models came of runs; the registry knows it by the provenance of its versions."""

    def __call__(self, view: Snapshot, project: str, runs: Iterable[str], /) -> Mapping[str, str]:
        """Return run id → name of the model that its newest version was registered under, for those runs that have one."""
        ...
