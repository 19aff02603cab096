"""Who carries out what takes long on a pool: one thread for each pool that has something to do, so that no pool waits for another."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

_LAST_S = 10.0  # that an end of the control plane waits for what is being done


class Hands(Protocol):
    """Does the work of each pool in the order that it is given."""

    def give(self, pool: str, work: Callable[[], None]) -> None:
        """Have some work done for a pool, soon. The work raises nothing."""
        ...

    def close(self) -> None:
        """Begin nothing more, and wait some seconds for what is being done."""
        ...


class OwnHands:
    """Hands that do their work at once, themselves."""

    def give(self, pool: str, work: Callable[[], None]) -> None:
        work()

    def close(self) -> None:
        """There is nothing to end."""


class PoolHands:
    """A thread for each pool, from its first work until nothing is left to do there. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[str, deque[Callable[[], None]]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closed = False

    def give(self, pool: str, work: Callable[[], None]) -> None:
        with self._lock:
            if pool not in self._threads:
                thread = threading.Thread(target=self._work, args=(pool,), daemon=True, name=f"pool {pool}")
                thread.start()  # it waits for the lock
                self._threads[pool], self._given[pool] = thread, deque()
            self._given[pool].append(work)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            threads = list(self._threads.values())
        deadline = time.monotonic() + _LAST_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, pool: str) -> None:
        while (work := self._next(pool)) is not None:
            work()

    def _next(self, pool: str) -> Callable[[], None] | None:
        with self._lock:
            given = self._given[pool]
            if given and not self._closed:
                return given.popleft()
            del self._given[pool], self._threads[pool]
            return None
