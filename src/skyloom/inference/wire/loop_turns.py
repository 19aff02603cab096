"""Whose turn it is to read and to write, of the connections that share an event loop."""

import asyncio
from collections import deque
from typing import Protocol

_SLOW_S = 0.01


class TakesTurns(Protocol):
    """A connection that does a bounded piece of work when it is called."""

    def read_on(self) -> None:
        """Take some more of what came."""
        ...

    def flush(self) -> None:
        """Hand what was written to the system."""
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

        Those that are read slowly share a turn every ten milliseconds: their harm has a bound however many they are.
        """
        line = self._slow if slowly else self._behind
        line.append(connection)
        if len(line) == 1:
            self._schedule(loop, slowly)

    def _flush(self) -> None:
        written, self._written = self._written, []
        for connection in written:
            connection.flush()

    def _schedule(self, loop: asyncio.AbstractEventLoop, slowly: bool) -> None:
        if slowly:
            loop.call_later(_SLOW_S, self._read_one, loop, True)
        else:
            loop.call_soon(self._read_one, loop, False)

    def _read_one(self, loop: asyncio.AbstractEventLoop, slowly: bool) -> None:
        line = self._slow if slowly else self._behind
        connection = line.popleft()
        if line:
            self._schedule(loop, slowly)
        connection.read_on()
