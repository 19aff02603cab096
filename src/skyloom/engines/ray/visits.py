"""Open channels into tasks of this node: the keeper's side, which moves bytes when it is asked to and never waits."""

import contextlib
import os
import threading
import time
from collections.abc import Callable

import msgspec

from skyloom.core.errors import NotFound
from skyloom.engines.ray.asks import KeeperExchange
from skyloom.ports.channel import Control, Stream, TaskChannel

MAX_MOVED_BYTES = 2**18
_FORGOTTEN_S = 30.0  # without a word from the control plane, which may have been killed
_LOOK_S = 5.0


class VisitOver(NotFound):
    """The channel into a task is not open any more."""


class KeeperHeard(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel had to say.

    Attributes:
        taken: how many of the given bytes went in; the others are to be given again.
        outputs: stream → bytes; ``ended``: streams from which nothing more comes.
        outcome: how the command ended.
    """

    taken: int = 0
    outputs: dict[int, bytes] = {}
    ended: tuple[int, ...] = ()
    outcome: Control | None = None


class Visits:
    """All of them, by id. Thread-safe. One that nobody asks about for half a minute is closed, and its command with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._open: dict[str, _Visit] = {}
        self._is_watched = False

    def open(self, visit: str, make: Callable[[], TaskChannel]) -> tuple[int, ...]:
        """Make a channel and hold it under an id, unless that is done; returns its streams. Raises what making it raises."""
        # Two questions for one channel, of which one was thought lost, must not run a command twice.
        with self._opening:
            held = self._open.get(visit) or _Visit(make())
            with self._lock:
                self._open[visit] = held
                if not self._is_watched:
                    self._is_watched = True
                    threading.Thread(target=self._watch, daemon=True, name="visits").start()
        return held.streams

    def exchange(self, ask: KeeperExchange) -> KeeperHeard:
        """Give, and take unless nobody listens, what is possible now. Raises `VisitOver`."""
        with self._lock:
            held = self._open.get(ask.visit)
        if held is None:
            raise VisitOver("The connection to the task is gone.", next_action="Connect again.")
        return held.exchange(ask)

    def close(self, visit: str) -> None:
        """Let go of one."""
        with self._lock:
            held = self._open.pop(visit, None)
        if held is not None:
            held.close()

    def _watch(self) -> None:
        """Close what was forgotten, in a thread that lives as long as any is open: there may be nobody to ask for it."""
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            with self._lock:
                forgotten = [visit for visit, held in self._open.items() if now > held.asked + _FORGOTTEN_S]
            for visit in forgotten:
                self.close(visit)
            with self._lock:
                self._is_watched = bool(self._open)
                if not self._is_watched:
                    return


class _Visit:
    def __init__(self, channel: TaskChannel) -> None:
        self.asked = time.monotonic()
        self.streams = tuple(int(kind) for kind in channel.outputs)
        self._channel = channel
        self._lock = threading.Lock()
        self._ended: set[int] = set()
        self._closed = False
        self._number = 0
        self._heard = KeeperHeard()

    def exchange(self, ask: KeeperExchange) -> KeeperHeard:
        with self._lock:
            self.asked = time.monotonic()
            if self._closed:
                return KeeperHeard(outcome=Control(message="the connection was closed"))
            if ask.number != self._number:  # else the answer was lost on its way
                self._number, self._heard = ask.number, self._move(ask)
            return self._heard

    def _move(self, ask: KeeperExchange) -> KeeperHeard:
        if ask.size is not None:
            self._channel.resize(ask.size)
        taken = self._give(ask.given)
        if ask.ends and taken == len(ask.given):
            self._channel.end_input()
        # Asked before the outputs are read: what the command wrote before its end is then among them.
        outcome = self._channel.outcome() if self._channel.over >= 0 else None
        streams = self._channel.outputs.items() if ask.listens else ()
        outputs = {int(kind): part for kind, number in streams if (part := self._take(kind, number))}
        return KeeperHeard(taken=taken, outputs=outputs, ended=tuple(self._ended), outcome=outcome)

    def _give(self, given: bytes) -> int:
        if not given or self._channel.input < 0:
            return len(given)
        try:
            return os.write(self._channel.input, given)
        except BlockingIOError:
            return 0
        except OSError:
            return len(given)  # it reads no more

    def _take(self, kind: Stream, number: int) -> bytes:
        if kind in self._ended:
            return b""
        try:
            part = os.read(number, MAX_MOVED_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            part = b""  # a terminal whose last process is gone
        if not part:
            self._ended.add(int(kind))
        return part

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._closed = True
            self._channel.close()
