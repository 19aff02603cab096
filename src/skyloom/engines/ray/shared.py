"""The pool's shared folder: is it really one storage on all nodes? Asked for real: one node writes, the others read."""

import secrets
import time
from collections.abc import Sequence

from skyloom.core.errors import InvalidInput
from skyloom.engines.ray.asks import LeaveMark, RemoveMark, SeesMark
from skyloom.engines.ray.keepers import Keepers

_PATIENCE_S = 4.0  # network file systems remember for some seconds that a file was not there
_AGAIN_S = 0.2


class NotShared(InvalidInput):
    """The pool's shared folder is not one storage on all nodes of a gang."""


class SharedFolder:
    """Remembers which nodes share with each other. What it cannot know: whether they still do; a check is made once for the same
    nodes.

    Args:
        path: the folder on every node; empty for a pool without one.
    """

    def __init__(self, path: str, keepers: Keepers) -> None:
        self.path = path
        self._keepers = keepers
        self._groups: list[frozenset[str]] = []  # no node is in two of them

    def check(self, node_ids: Sequence[str]) -> None:
        """Raises `NotShared` unless all these nodes see what one of them writes; `Unavailable` when one is silent."""
        asked = frozenset(node_ids)
        if len(asked) < 2 or any(asked <= group for group in self._groups):
            return
        if not self.path:
            raise NotShared(
                "The pool has no shared folder, so a gang cannot span several of its nodes.",
                next_action="Give the pool a folder that is the same storage on all nodes (--shared-folder), or fewer workers.",
            )
        writer = node_ids[0]
        word = secrets.token_hex(16)
        self._keepers.ask(writer, LeaveMark(folder=self.path, word=word), None)
        try:
            self._look(writer, word, [node_id for node_id in dict.fromkeys(node_ids) if node_id != writer])
        finally:
            self._keepers.ask(writer, RemoveMark(folder=self.path, word=word), None)
        joined = [group for group in self._groups if group & asked]
        self._groups = [group for group in self._groups if not group & asked] + [asked.union(*joined)]

    def _look(self, writer: str, word: str, readers: list[str]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while readers:
            readers = [
                node_id
                for node_id in readers
                if not self._keepers.ask(node_id, SeesMark(folder=self.path, word=word), bool)
            ]
            if readers and time.monotonic() > deadline:
                blind = ", ".join(self._keepers.name(node_id) for node_id in readers)
                raise NotShared(
                    f"The folder {self.path} is not shared: {blind} does not see what {self._keepers.name(writer)} wrote there.",
                    next_action="Mount the same storage there on all nodes, or let gangs stay on one node.",
                )
            if readers:
                time.sleep(_AGAIN_S)
