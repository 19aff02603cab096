"""How long a keeper stays: Ray's autoscaler takes a node away only when no process of anybody's runs there, a keeper's included."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_GOING_S = 10.0  # for the end to come; questions wait meanwhile, and whoever asked them asks the next keeper


class Stay:
    """Leaves after a time without questions in which nothing was needed. Thread-safe.

    Args:
        idle_s: that time; 0 to stay for ever.
        is_needed: whether something goes on here even if nobody asks.
        leave: ends this process, soon after it returns. What it raises is told, and it is tried again after ``idle_s``.
    """

    def __init__(self, idle_s: float, is_needed: Callable[[], bool], leave: Callable[[], None]) -> None:
        self._idle_s = idle_s
        self._is_needed = is_needed
        self._leave = leave
        self._turn = threading.Condition()
        self._num_open = 0
        self._asked = time.monotonic()
        self._leaving = False
        self._closed = threading.Event()
        if idle_s:
            threading.Thread(target=self._watch, daemon=True, name="stay").start()

    @contextmanager
    def question(self) -> Iterator[None]:
        """Nobody leaves while a question is answered; one that comes while somebody leaves waits."""
        with self._turn:
            self._turn.wait_for(lambda: not self._leaving)
            self._num_open += 1
        try:
            yield
        finally:
            with self._turn:
                self._num_open -= 1
                self._asked = time.monotonic()

    def close(self) -> None:
        """Stay, whatever happens."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._idle_s / 4):
            with self._turn:
                if self._num_open or time.monotonic() < self._asked + self._idle_s:
                    continue
                self._leaving = True
            try:
                if not self._is_needed():
                    self._leave()
                    self._closed.wait(_GOING_S)
            except Exception as error:  # the head, or Ray in this process
                print(f"the keeper stays: {type(error).__name__}: {error}", flush=True)
            with self._turn:
                self._leaving, self._asked = False, time.monotonic()
                self._turn.notify_all()
