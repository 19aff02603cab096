"""What training needs from elsewhere."""

from collections.abc import Callable

from skyloom.ports.store import Snapshot
from skyloom.rooms.data.model import NEWEST
from skyloom.rooms.data.service import Data
from skyloom.rooms.training.model import FoundVersion

FindVersion = Callable[[Snapshot, str, str, int | None], FoundVersion]
"""Looks a ready dataset version up: (view, project, dataset, number or None for the newest). Raises `NotFound`, `Conflict`."""


def found_in(data: Data) -> FindVersion:
    """The `FindVersion` that asks the data room."""

    def find(view: Snapshot, project: str, name: str, number: int | None) -> FoundVersion:
        dataset, version = data.version(view, name, NEWEST if number is None else str(number), project)
        return FoundVersion(
            dataset=dataset.name,
            number=version.number,
            table=dataset.table,
            table_version=version.number,
            columns=tuple(column.name for column in version.contents.columns),
        )

    return find
