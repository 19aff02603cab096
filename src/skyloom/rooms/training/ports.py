"""What training needs from elsewhere."""

from collections.abc import Callable
from typing import Protocol

from skyloom.ports.store import Snapshot
from skyloom.rooms.data.contents import ColumnRole
from skyloom.rooms.data.model import Dataset, DatasetVersion
from skyloom.rooms.training.model import FoundVersion

FindVersion = Callable[[Snapshot, str, str, str], FoundVersion]
"""Looks a dataset version up: (view, project, dataset, reference). Raises `NotFound`."""


class Versions(Protocol):
    """The data room, as training sees it."""

    def version(self, view: Snapshot, dataset: str, reference: str, project: str) -> tuple[Dataset, DatasetVersion]:
        """A dataset and one of its versions, by number, tag or `NEWEST`. Raises `NotFound`."""
        ...


def found_in(data: Versions) -> FindVersion:
    """The `FindVersion` that asks the data room."""

    def find(view: Snapshot, project: str, dataset: str, reference: str) -> FoundVersion:
        holder, version = data.version(view, dataset, reference, project)
        columns = version.contents.columns
        return FoundVersion(
            dataset=holder.name,
            number=version.number,
            table=holder.table,
            columns=tuple(column.name for column in columns),
            identifiers=tuple(column.name for column in columns if column.role is ColumnRole.IDENTIFIER),
        )

    return find
