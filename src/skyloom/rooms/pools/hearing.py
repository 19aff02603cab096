"""When pools were last heard of: what was used of a pool that is gone for good is settled up to that moment.

Kept in memory, and in the store once a minute and whenever a pool falls silent, since a control plane may be started again after it.
"""

from collections.abc import Mapping

from skyloom.ports.clock import Clock
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.pools.fleet import PoolLink
from skyloom.rooms.pools.model import LOCAL, PoolHeard
from skyloom.rooms.pools.ports import HEARD, POOLS
from skyloom.rooms.tenancy.rules import ALL_PROJECTS

_WRITTEN_EVERY_S = 60.0


class Hearing:
    """Told of every look at the pools; answers from any thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}

    def greet(self, pool: str) -> None:
        """A pool was added just now: whatever was known of an earlier one of its name is forgotten."""
        self._written.pop(pool, None)
        self._silent_since.pop(pool, None)
        self._heard[pool] = self._clock.now()

    def note(self, links: Mapping[str, PoolLink], asked_at: float) -> None:
        """Take in what a round of asking, begun at ``asked_at``, has shown; writes down what has to outlive this process."""
        due: dict[str, float] = {}
        for name, link in links.items():
            if name == LOCAL:
                continue
            if link.is_up:
                self._heard[name] = asked_at
                self._silent_since.pop(name, None)
            else:
                self._silent_since.setdefault(name, self._clock.monotonic())
            at, pause_s = self._heard.get(name), _WRITTEN_EVERY_S if link.is_up else 0.0
            if at is not None and at > self._written.get(name, float("-inf")) + pause_s:
                due[name] = at
        if due:
            self._store.write(lambda tx: _keep(tx, due))
            self._written.update(due)
        for known in (self._heard, self._written, self._silent_since):
            for name in known.keys() - links.keys():
                known.pop(name, None)  # or it was added meanwhile: heard of again in the next round

    def silent_s(self, pool: str) -> float:
        """For how long a pool was asked in vain by this process; 0 for one that answered the last time."""
        since = self._silent_since.get(pool)
        return 0.0 if since is None else self._clock.monotonic() - since

    def at(self, pool: str, stored: PoolHeard | None) -> float | None:
        """When a pool was last heard of; ``stored`` is what the store says."""
        return self._heard.get(pool, stored.at if stored else None)


def _keep(tx: Transaction, heard: Mapping[str, float]) -> None:
    for pool, at in heard.items():
        before = tx.get(HEARD, pool)
        if before is not None:
            tx.update(HEARD, changed(before, {"at": at}))
        elif tx.get(POOLS, pool) is not None:  # else it was removed meanwhile
            tx.insert(HEARD, PoolHeard(id=pool, project=ALL_PROJECTS, at=at))
