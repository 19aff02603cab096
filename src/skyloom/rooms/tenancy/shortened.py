"""Ids that were written short: the beginning of one stands for the whole where nothing else of the project begins with it."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.core.operation import Caller, Operation
from skyloom.ports.store import Collection, Snapshot, Store

A = TypeVar("A")
_MOST_NAMED = 5
_SHORT = re.compile(r"([a-z]+)_[0-9a-z]{1,25}")  # a whole id has 26 characters after its prefix, see `core.ids`


class AmbiguousId(InvalidInput):
    """More than one thing of the project has an id that begins so."""


class Shortened:
    """Writes out the ids of what operations are about.

    Args:
        kinds: prefix of an id (``job``) → where such things are stored.
    """

    def __init__(self, store: Store, kinds: Mapping[str, Collection[Any]]) -> None:
        self._store = store
        self._kinds = dict(kinds)

    def written_out(self, ask: Operation[A], by: Caller) -> Operation[A]:
        """The request with whole ids. One that nothing of the project begins with stays, for its room to refuse.

        Raises `AmbiguousId`.
        """
        if by.task_id:  # a program knows whole ids, and is shown no others
            return ask
        short = {name: found for name in ask.route.path_fields if (found := self._kind(name, getattr(ask, name)))}
        if not short:
            return ask
        whole = self._store.read(
            lambda view: {name: _whole(view, kind, getattr(ask, name), by.project) for name, kind in short.items()}
        )
        return msgspec.structs.replace(ask, **whole)

    def _kind(self, field: str, text: object) -> Collection[Any] | None:
        if not isinstance(text, str) or not (field == "subject" or field.endswith("_id")):
            return None
        match = _SHORT.fullmatch(text)
        return self._kinds.get(match[1]) if match else None


def _whole(view: Snapshot, kind: Collection[Any], text: str, project: str) -> str:
    if view.get(kind, text) is not None:
        return text
    # Only what is the project's own is looked at: nobody learns of others' ids.
    following = view.select(kind, {"project": project}, after=text, limit=_MOST_NAMED + 1)
    found = [record.id for record in following if record.id.startswith(text)]
    if len(found) > 1:
        more = ", …" if len(found) > _MOST_NAMED else ""
        raise AmbiguousId(
            f"{text} could be {', '.join(found[:_MOST_NAMED])}{more}.",
            next_action="Write more characters of the one meant.",
        )
    return found[0] if found else text
