"""How rooms look a project's records up: by id, by name, and a page at a time."""

from typing import Protocol

from skyloom.core.operation import Page
from skyloom.ports.store import Collection, N, Snapshot, Where


class PageRequest(Protocol):
    """What every request for a list says: how many, and after which."""

    @property
    def limit(self) -> int: ...

    @property
    def cursor(self) -> str | None: ...


def owned(view: Snapshot, collection: Collection[N], identifier: str, project: str) -> N | None:
    """The record of a project with this id; somebody else's looks absent."""
    found = view.get(collection, identifier)
    return found if found is not None and found.project == project else None


def named(view: Snapshot, collection: Collection[N], name: str, project: str) -> N | None:
    """The record of a project with this name, if there is one. Only for collections whose ``unique`` is the name."""
    found = view.select(collection, {"project": project, "name": name}, limit=1)
    return found[0] if found else None


def listed(
    view: Snapshot, collection: Collection[N], where: Where, ask: PageRequest, *, newest_first: bool = True
) -> Page[N]:
    """The part of a list that was asked for, in the order of ids."""
    found = view.select(collection, where, newest_first=newest_first, after=ask.cursor, limit=ask.limit + 1)
    items = tuple(found[: ask.limit])
    return Page(items=items, next_cursor=items[-1].id if len(found) > ask.limit else None)
