"""Reporting measurements: ``report({"train/loss": 0.3}, step=10)`` returns at once; a thread sends batches.

A batch has a source and a sequence number, so sending it again is safe; an outage or a full disk of the control plane is waited out,
up to a bounded number of points. Training never fails because a measurement could not be sent.
"""

import atexit
import collections
import sys
import threading
import time
from collections.abc import Callable, Mapping

from skyloom.core.errors import SkyloomError, StorageFull, Unavailable
from skyloom.ports.series import Point
from skyloom.runtime.context import context
from skyloom.runtime.line import measurements_sender
from skyloom.runtime.trial import trial

Send = Callable[[int, tuple[Point, ...]], None]
"""Sends the batch with this sequence number; raises `Unavailable` or `StorageFull` when it is worth trying again."""

_BATCH_POINTS = 1_000
_MAX_POINTS = 200_000
_LONGEST_WAIT_S = 5.0


class PointSender:
    """Collects points and sends them in order from one thread.

    Args:
        send: sends one batch.
        every_s: how long points are collected before a batch goes out.
        max_points: buffered during an outage; then the oldest are dropped, and that is said once.
        say: where such a line goes.
    """

    def __init__(
        self,
        send: Send,
        *,
        every_s: float = 0.5,
        max_points: int = _MAX_POINTS,
        now: Callable[[], float] = time.time,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._send = send
        self._every_s = every_s
        self._now = now
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._points: collections.deque[Point] = collections.deque(maxlen=max_points)
        self._arrived = threading.Event()
        self._hurried = threading.Event()
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._is_sending = self._is_troubled = False
        self._give_up_at: float | None = None
        self._said_dropped = False
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def report(self, values: Mapping[str, float], step: int) -> None:
        """Take some measurements of one step. Never blocks and never raises because of the network."""
        if len(self._points) + len(values) > (self._points.maxlen or 0) and not self._said_dropped:
            self._said_dropped = True
            self._say("The control plane has not taken measurements for long: the oldest ones are dropped.")
        at = self._now()
        self._points.extend(Point(name, int(step), at, float(value)) for name, value in values.items())
        self._arrived.set()

    def deliver(self, timeout_s: float) -> bool:
        """Send what was taken so far, and wait until it has arrived. False at once while the control plane does not take it, and after
        ``timeout_s``; it is sent later then."""
        self._hurried.set()
        with self._changed:
            self._changed.wait_for(lambda: self._is_troubled or not (self._points or self._is_sending), timeout_s)
            return not (self._points or self._is_sending)

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what is left; gives up on an unreachable control plane after ``timeout_s``. Safe to call twice."""
        self._give_up_at = time.monotonic() + timeout_s
        self._closing.set()
        self._hurried.set()
        self._arrived.set()
        self._thread.join()

    def _run(self) -> None:
        sequence = 0
        while not (self._closing.is_set() and not self._points):
            self._arrived.wait()
            self._arrived.clear()
            self._hurried.wait(self._every_s)
            self._hurried.clear()
            while self._points and not self._is_over():
                sequence += 1
                self._is_sending = True
                self._send_on(sequence, self._take())
                self._note(is_sending=False, is_troubled=False)
            if self._is_over() and self._points:
                self._say(f"{len(self._points)} measurements could not be sent before the end.")
                return

    def _take(self) -> tuple[Point, ...]:
        count = min(len(self._points), _BATCH_POINTS)
        return tuple(self._points.popleft() for _ in range(count))

    def _note(self, *, is_sending: bool, is_troubled: bool) -> None:
        with self._changed:
            self._is_sending, self._is_troubled = is_sending, is_troubled
            self._changed.notify_all()

    def _send_on(self, sequence: int, points: tuple[Point, ...]) -> None:
        wait_s = 0.1
        while True:
            try:
                return self._send(sequence, points)
            except (Unavailable, StorageFull) as error:
                if self._is_over():
                    return self._say(f"{len(points)} measurements could not be sent before the end: {error}")
            except SkyloomError as error:
                return self._say(f"{len(points)} measurements were refused: {error}")
            self._note(is_sending=True, is_troubled=True)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            self._wait(wait_s)

    def _wait(self, wait_s: float) -> None:
        """Wait before the next try; short once we are closing, so that the last tries fit into the time left."""
        if self._closing.is_set():
            time.sleep(min(wait_s, 0.5))
        else:
            self._closing.wait(wait_s)

    def _is_over(self) -> bool:
        return self._give_up_at is not None and time.monotonic() > self._give_up_at


_open: list[PointSender] = []
_lock = threading.Lock()


def report(values: Mapping[str, float], step: int) -> None:
    """Record measurements of one step of this run; outside of a run they go nowhere.

    Rank 0 speaks for the gang: on other ranks this does nothing, so add up over ranks first.
    """
    tried = trial()
    if tried is not None:
        tried.reported(step)
    here = context()
    if not (here.is_first and here.run):
        return
    with _lock:
        if not _open:
            _open.append(PointSender(measurements_sender(here)))
        _open[0].report(values, step)


def deliver(timeout_s: float = 2.0) -> bool:
    """Wait until what `report` took so far has arrived. To be done before a checkpoint: whoever goes on from it never reports again what
    came before. False when it has not arrived; it is sent later, and training goes on meanwhile."""
    with _lock:
        reporters = list(_open)
    return all(reporter.deliver(timeout_s) for reporter in reporters)


def flush(timeout_s: float = 10.0) -> None:
    """Send what `report` took so far, and wait for it. Done by itself when the process ends."""
    with _lock:
        reporters = list(_open)
        _open.clear()
    for reporter in reporters:
        reporter.close(timeout_s)


atexit.register(flush)
