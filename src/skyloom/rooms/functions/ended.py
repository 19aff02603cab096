"""What ended calls hold: their arguments and answers, a bounded number of bytes for each project.

When a project's room is full, the oldest answers make way for new ones, and where there is none left the oldest dead letters. The call
itself stays as long as it would have: its state, its key and the reason can be seen, and its key still makes no second call.
"""

from skyloom.ports.store import Transaction, changed
from skyloom.rooms.functions import rules
from skyloom.rooms.functions.model import ENDED, Invocation
from skyloom.rooms.functions.ports import ANSWER_ROOMS, INVOCATIONS, AnswerRoom

_AT_ONCE = 100


class EndedCalls:
    """Ended calls of all projects.

    Args:
        keep_bytes: of a project's arguments and answers together. When it was made smaller, each call that ends lets a hundred go.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes

    def update(self, tx: Transaction, one: Invocation) -> Invocation:
        """Write down a call that has ended, or that is queued again after it had; what holds too much makes way."""
        before = tx.get(INVOCATIONS, one.id)
        one = changed(one, {"room": rules.room_of(one) if one.state in ENDED else ""})
        kept = tx.update(INVOCATIONS, one)
        held_bytes = self._count(tx, one.project, _held_bytes(one) - (_held_bytes(before) if before else 0))
        if held_bytes <= self._keep_bytes:
            return kept
        for room in rules.rooms_of(one.project):
            held_bytes = self._make_way(tx, room, one.project, held_bytes)
        return tx.get(INVOCATIONS, one.id) or kept

    def forget(self, tx: Transaction, invocation_id: str) -> None:
        """Forget one; does nothing when it is gone."""
        found = tx.get(INVOCATIONS, invocation_id)
        if found is not None:
            tx.delete(INVOCATIONS, found.id)
            self._count(tx, found.project, -_held_bytes(found))

    def _make_way(self, tx: Transaction, room: str, project: str, held_bytes: int) -> int:
        """Let the oldest of a room go until what the project holds is little enough; returns what that is then."""
        if held_bytes <= self._keep_bytes:
            return held_bytes
        freed_bytes = 0
        for old in tx.select(INVOCATIONS, {"room": room}, order="ended_at", limit=_AT_ONCE):
            if held_bytes - freed_bytes <= self._keep_bytes:
                break
            tx.update(INVOCATIONS, rules.emptied(old, self._keep_bytes))
            freed_bytes += _held_bytes(old)
        return self._count(tx, project, -freed_bytes)

    def _count(self, tx: Transaction, project: str, more_bytes: int) -> int:
        """Count bytes of a project; returns what it holds then."""
        found = tx.get(ANSWER_ROOMS, project)
        if found is None:
            found = tx.insert(ANSWER_ROOMS, AnswerRoom(id=project, project=project, num_bytes=more_bytes))
        elif more_bytes:
            found = tx.update(ANSWER_ROOMS, changed(found, {"num_bytes": found.num_bytes + more_bytes}))
        return found.num_bytes


def _held_bytes(one: Invocation) -> int:
    """What it takes of its project's room; a call that waits takes nothing of it."""
    return len(one.arguments.encode()) + len(one.answer.encode()) if one.room else 0
