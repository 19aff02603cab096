"""What training needs from elsewhere."""

from collections.abc import Callable

from skyloom.core.errors import NotFound
from skyloom.ports.store import Snapshot
from skyloom.rooms.training.model import FoundVersion

FindVersion = Callable[[Snapshot, str, str, int | None], FoundVersion]
"""Looks a ready dataset version up: (view, project, dataset, number or None for the newest). Raises `NotFound`, `Conflict`."""


def no_datasets(_view: Snapshot, _project: str, dataset: str, _number: int | None) -> FoundVersion:
    """A `FindVersion` of a cloud without a data room: nothing is ever found."""
    raise NotFound(f"There is no dataset {dataset!r}.", next_action="List yours: skyloom data list.")
