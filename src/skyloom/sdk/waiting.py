"""Waiting for something far away: look, pause a little longer each time, look again."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_FIRST_RETRY_S = 0.05


def pauses() -> Iterator[None]:
    """Yield after ever longer pauses, of at most half a second."""
    pause_s = _FIRST_PAUSE_S
    while True:
        time.sleep(pause_s)
        yield
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)


def retries(patience_s: float) -> Iterator[None]:
    """Yield for each try: once at once, then after growing pauses, for as long as the patience lasts.

    The pauses differ by chance, so that those who were turned away together do not come back together.
    """
    deadline, pause_s = time.monotonic() + patience_s, _FIRST_RETRY_S
    while True:
        yield
        wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        if time.monotonic() + wait_s > deadline:
            return
        time.sleep(wait_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def say(line: str) -> None:
    """Tell who waits, on stderr."""
    print(line, file=sys.stderr, flush=True)


def wait_until(
    is_over: Callable[[T], bool], look: Callable[[], T], timeout_s: float | None, still: Callable[[T], str]
) -> T:
    """Look until it is over, and return what was seen then. Raises ``TimeoutError``, which says what is ``still`` so."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    waiting = pauses()
    while not is_over(seen := look()):
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{still(seen)} after {timeout_s} s")
        next(waiting)
    return seen
