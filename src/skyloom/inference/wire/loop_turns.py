"""Whose turn it is to read and to write, of the connections that share an event loop."""

import asyncio
import select
from collections import deque
from typing import Protocol

_SLOW_S = 0.04  # seldom, and then a good piece: to wake up costs more than what is done in a turn
_MAX_SLOW = 4
_GONE = getattr(select, "POLLRDHUP", 0)  # Linux alone tells of an end that stands behind what was not read yet


class TakesTurns(Protocol):
    """A connection that does a bounded piece of work when it is called.

    Attributes:
        has_left: its client is gone, so what it sent matters to nobody.
        harm: how much worse it is than others that are read slowly.
    """

    @property
    def has_left(self) -> bool: ...

    @property
    def harm(self) -> int: ...

    def read_on(self) -> None:
        """Take some more of what came."""
        ...

    def flush(self) -> None:
        """Hand what was written to the system."""
        ...

    def give_up(self) -> None:
        """Cut the connection."""
        ...

    def send_away(self) -> None:
        """End the connection, and say that it was too much."""
        ...


class LoopTurns:
    """What is left to be read goes on one connection a turn of the loop; what was written in one turn leaves together at its end."""

    def __init__(self) -> None:
        self._written: list[TakesTurns] = []
        self._behind: deque[TakesTurns] = deque()
        self._slow: deque[TakesTurns] = deque()

    def flush_soon(self, connection: TakesTurns, loop: asyncio.AbstractEventLoop) -> None:
        """Send what a connection has written when this turn of the loop is over."""
        self._written.append(connection)
        if len(self._written) == 1:
            loop.call_soon(self._flush)

    def read_later(self, connection: TakesTurns, loop: asyncio.AbstractEventLoop, *, slowly: bool) -> None:
        """Go on with what a connection has sent too much of for one turn: one connection in each turn of the loop.

        Those that are read slowly share a turn every forty milliseconds: their harm has a bound however many they are. What they have sent
        waits in memory, so of more than four the worst is sent away.
        """
        line = self._slow if slowly else self._behind
        if slowly and len(line) >= _MAX_SLOW:
            worst = max(line, key=lambda one: one.harm)
            line.remove(worst)
            worst.send_away()
        line.append(connection)
        if len(line) == 1:
            self._schedule(loop, slowly)

    def _flush(self) -> None:
        written, self._written = self._written, []
        for connection in written:
            connection.flush()

    def _schedule(self, loop: asyncio.AbstractEventLoop, slowly: bool) -> None:
        if slowly:
            loop.call_later(_SLOW_S, self._read_slow, loop)
        else:
            loop.call_soon(self._read_one, loop)

    def _read_one(self, loop: asyncio.AbstractEventLoop) -> None:
        connection = self._behind.popleft()
        if self._behind:
            self._schedule(loop, slowly=False)
        connection.read_on()

    def _read_slow(self, loop: asyncio.AbstractEventLoop) -> None:
        line = self._slow
        while line and line[0].has_left:
            line.popleft().give_up()
        if line:
            connection = line.popleft()
            if line:
                self._schedule(loop, slowly=True)
            connection.read_on()


def is_left(transport: asyncio.BaseTransport) -> bool:
    """True when the other side of a connection is known to be closed or lost, also while nothing is read from it."""
    if transport.is_closing():
        return True
    link = transport.get_extra_info("socket")
    if link is None:
        return False
    poll = select.poll()
    poll.register(link, _GONE)
    return bool(poll.poll(0))
