"""What training needs from elsewhere."""

from collections.abc import Callable

from skyloom.ports.store import Snapshot
from skyloom.rooms.training.model import FoundVersion

FindVersion = Callable[[Snapshot, str, str, int | None], FoundVersion]
"""Looks a ready dataset version up: (view, project, dataset, number or None for the newest). Raises `NotFound`, `Conflict`."""
