"""Requests that wait for a replica, in the order they came. Knows no replica and no clock."""

from collections import OrderedDict
from collections.abc import Iterator

from skyloom.inference.gateway.passage import Passage


class HeldRequests:
    """A line for each revision, bounded together.

    Attributes:
        max_held: requests in all lines.
        num_bytes: what their bodies hold.
    """

    def __init__(self, max_held: int, max_bytes: int) -> None:
        self.max_held = max_held
        self._max_bytes = max_bytes
        self._lines: dict[str, OrderedDict[Passage, None]] = {}
        self._count = self.num_bytes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Passage]:
        for line in self._lines.values():
            yield from line

    def waits(self, revision: str) -> bool:
        """True when somebody waits for this revision: who comes now stands behind."""
        return revision in self._lines

    def has_room(self, size_bytes: int) -> bool:
        """True when one more may wait."""
        return self._count < self.max_held and (not self._count or self.num_bytes + size_bytes <= self._max_bytes)

    def add(self, passage: Passage, *, first: bool = False) -> None:
        """Let it wait; ``first``: it was sent before and comes back. It always has its place: it was counted when it came."""
        line = self._lines.setdefault(passage.revision, OrderedDict())
        line[passage] = None
        if first:
            line.move_to_end(passage, last=False)
        self._count += 1
        self.num_bytes += passage.size_bytes

    def first(self, revision: str) -> Passage | None:
        """Who waits longest for a revision."""
        line = self._lines.get(revision)
        return next(iter(line)) if line else None

    def revisions(self) -> list[str]:
        """For whom somebody waits."""
        return list(self._lines)

    def remove(self, passage: Passage) -> bool:
        """Take it out; False when it did not wait."""
        line = self._lines.get(passage.revision)
        if line is None or passage not in line:
            return False
        del line[passage]
        if not line:
            del self._lines[passage.revision]
        self._count -= 1
        self.num_bytes -= passage.size_bytes
        return True

    def take_all(self) -> list[Passage]:
        """Empty the queue; the longest waiting first."""
        found = sorted(self, key=lambda passage: passage.arrived_at)
        self._lines.clear()
        self._count = self.num_bytes = 0
        return found
