"""What the loop says to pools and hears from them, so that one that is slow to answer holds up no other.

Each pool but this machine is asked one thing at a time by hands of its own. A round waits a moment for the answers; what comes later is
heard in a later round. A late answer is as good as a quick one: what is true of a task changes by itself in one direction only, but for
a launch, and nothing is launched that a question under way asks about. For a gang is launched when its start is written down, and was
asked about never before; or again when an answer said that it is absent, and a pool is asked the next thing after its answer only.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from skyloom.core.errors import SkyloomError, StorageFull, Unavailable
from skyloom.ports.engine import Observation
from skyloom.rooms.jobs.hands import Hands, OwnHands
from skyloom.rooms.jobs.model import Task
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import LOCAL, PoolDown

log = logging.getLogger("skyloom.jobs")
_PATIENCE_S = 0.5


@dataclass(eq=False)
class PoolAnswer:
    """What a pool said, once it is ``over``."""

    over: threading.Event = field(default_factory=threading.Event)
    seen: Mapping[str, Observation] = field(default_factory=dict)
    trouble: Exception | None = None

    def ask(self, question: Callable[[], Mapping[str, Observation]]) -> None:
        """Ask, in whatever thread; raises nothing."""
        try:
            self.seen = question()
        except Exception as trouble:
            self.trouble = trouble
        finally:
            self.over.set()


class Contact:
    """Looks at tasks and stops them, on all pools. Used by the loop's thread only.

    Args:
        patience_s: so long a round waits for the answers to what it asks.
    """

    def __init__(self, fleet: Fleet, hands: Hands, patience_s: float = _PATIENCE_S) -> None:
        self._fleet = fleet
        self._hands = hands
        self._patience_s = patience_s
        self._looks: dict[str, PoolAnswer] = {}
        self._stops: dict[str, PoolAnswer] = {}

    def observe(self, tasks: Iterable[Task]) -> dict[str, Observation]:
        """What the engines see; nothing about tasks of a pool that is down or has not answered yet: they stay as they are."""
        begun = [self._ask(self._looks, pool, partial(self._look, pool, ids)) for pool, ids in _by_pool(tasks).items()]
        deadline = time.monotonic() + self._patience_s
        for look in begun:
            if look is not None:
                look.over.wait(max(0.0, deadline - time.monotonic()))
        self._hear(self._stops)
        return self._hear(self._looks)

    def stop(self, tasks: Iterable[Task]) -> None:
        """Ask politely. It is asked again every round, until a pool is reached."""
        for pool, ids in _by_pool(tasks).items():
            self._ask(self._stops, pool, partial(self._tell_to_stop, pool, ids))
        self._hear(self._stops)

    def is_prompt(self, pool: str) -> bool:
        """Whether a pool is up and has answered all questions: it may be worth asking again soon."""
        return pool not in self._looks and self._fleet.is_up(pool)

    def distrust(self, pool: str, trouble: Exception) -> None:
        """A pool that fails, in whatever way, counts as down and holds up no other; what fails on this machine is told as it is."""
        if isinstance(trouble, StorageFull) or (pool == LOCAL and not isinstance(trouble, Unavailable)):
            raise trouble
        if not isinstance(trouble, SkyloomError):
            log.error("pool %s fails", pool, exc_info=trouble)
            trouble = PoolDown(f"Asking pool {pool} failed.", next_action="Read the control plane's log.")
        self._fleet.suspect(pool, trouble)

    def _look(self, pool: str, ids: Sequence[str]) -> Mapping[str, Observation]:
        return self._fleet.engine(pool).observe(ids)

    def _tell_to_stop(self, pool: str, ids: Sequence[str]) -> Mapping[str, Observation]:
        self._fleet.engine(pool).stop(ids)
        return {}

    def _ask(
        self, asked: dict[str, PoolAnswer], pool: str, question: Callable[[], Mapping[str, Observation]]
    ) -> PoolAnswer | None:
        """Ask a pool, unless it is down or has not answered the last question yet. This machine is asked at once."""
        if pool in asked or not self._fleet.is_up(pool):
            return None
        answer = PoolAnswer()
        hands = _HERE if pool == LOCAL else self._hands
        hands.give(pool, partial(answer.ask, question))
        asked[pool] = answer
        return answer

    def _hear(self, asked: dict[str, PoolAnswer]) -> dict[str, Observation]:
        """Take in the answers that are there."""
        seen: dict[str, Observation] = {}
        for pool in [pool for pool, answer in asked.items() if answer.over.is_set()]:
            answer = asked.pop(pool)
            if answer.trouble is not None:
                self.distrust(pool, answer.trouble)
            seen.update(answer.seen)
        return seen


_HERE = OwnHands()


def _by_pool(tasks: Iterable[Task]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        found[task.pool or LOCAL].append(task.id)
    return found
