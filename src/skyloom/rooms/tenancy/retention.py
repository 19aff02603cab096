"""How long the log of events and the audit log are kept. What everything cost is kept for ever, and is no part of this.

The oldest go first, some at a time, so that no caller waits behind a long transaction. The hash of the last audit entry that went stays, so
what is left can still be shown to follow it.
"""

from collections.abc import Sequence
from typing import TypeVar

from skyloom.core.events import Event
from skyloom.ports.clock import Clock
from skyloom.ports.door import EVENTS
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.tenancy.model import AuditEntry
from skyloom.rooms.tenancy.ports import AUDIT, AUDIT_STARTS, AuditStart

_SOME = 500
_BUSY_S, _IDLE_S = 1.0, 3_600.0
_START = "audit"
_Entry = TypeVar("_Entry", Event, AuditEntry)


class Retention:
    """Forgets what is older than it is kept; of each log the newest entry stays, however old.

    Args:
        keep_events_s: whoever is told of events later than that (a paused trigger, a webhook that nobody answers) is not told of them.
    """

    def __init__(self, store: Store, clock: Clock, keep_events_s: float, keep_audit_s: float) -> None:
        self._store = store
        self._clock = clock
        self._keep_events_s = keep_events_s
        self._keep_audit_s = keep_audit_s

    def tick(self) -> float:
        """Forget some of each. Returns the seconds until it is time to look again."""
        events = self._store.write(self._forget_events)
        audit = self._store.write(self._forget_audit)
        return _BUSY_S if max(events, audit) == _SOME else _IDLE_S

    def _forget_events(self, tx: Transaction) -> int:
        old = _old(tx.entries(EVENTS, limit=_SOME + 1), self._clock.now() - self._keep_events_s)
        return tx.trim(EVENTS, through=old[-1][0], limit=_SOME) if old else 0

    def _forget_audit(self, tx: Transaction) -> int:
        old = _old(tx.entries(AUDIT, limit=_SOME + 1), self._clock.now() - self._keep_audit_s)
        if not old:
            return 0
        number, last = old[-1]
        start = tx.get(AUDIT_STARTS, _START)
        if start is None:
            tx.insert(AUDIT_STARTS, AuditStart(id=_START, project="", number=number, hash=last.hash))
        else:
            tx.update(AUDIT_STARTS, changed(start, {"number": number, "hash": last.hash}))
        return tx.trim(AUDIT, through=number, limit=_SOME)


def _old(entries: Sequence[tuple[int, _Entry]], horizon: float) -> list[tuple[int, _Entry]]:
    """Those at the beginning that are too old, and not the last of all."""
    found: list[tuple[int, _Entry]] = []
    for number, entry in entries[:-1]:
        if entry.at >= horizon:
            break
        found.append((number, entry))
    return found
