"""A channel into a task on another machine: the control plane's side. A thread moves bytes between descriptors here and there."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence

from skyloom.core.errors import SkyloomError
from skyloom.engines.ray.asks import KeeperExchange, LeaveTask
from skyloom.engines.ray.keepers import Keepers
from skyloom.engines.ray.visits import MAX_MOVED_BYTES, KeeperHeard
from skyloom.ports.channel import Control, Size, Stream

_LEAST_PAUSE_S = 0.01
_MOST_PAUSE_S = 0.2


class RemoteChannel:
    """A channel as the port describes it.

    Args:
        keepers: where the other side is, on the node ``home`` under the name ``visit``.
        streams: what comes from it.
        has_outcome: it is a command, and not a port.
    """

    def __init__(
        self,
        keepers: Keepers,
        home: str,
        visit: str,
        streams: Sequence[int],
        *,
        terminal: bool,
        has_outcome: bool,
    ) -> None:
        self._keepers = keepers
        self._home = home
        self._visit = visit
        self._terminal = terminal
        self._given, self.input = os.pipe()
        pipes = {Stream(kind): os.pipe() for kind in streams}
        self.outputs: Mapping[Stream, int] = {kind: pair[0] for kind, pair in pipes.items()}
        self._sinks = {int(kind): pair[1] for kind, pair in pipes.items()}
        self.over, self._end = os.pipe() if has_outcome else (-1, -1)
        for number in (self.input, self._given, *self.outputs.values(), *self._sinks.values()):
            os.set_blocking(number, False)
        self._outcome: Control | None = None
        self._size: Size | None = None
        self._ends_asked = False
        self._input_open, self._input_ended = True, False
        self._pending = b""
        self._backlog = dict.fromkeys(self._sinks, b"")
        self._num_exchanges = 0
        self._pause_s = _LEAST_PAUSE_S
        self._closed = threading.Event()
        self._own = {number for number in (self.input, self.over, *self.outputs.values()) if number >= 0}
        threading.Thread(target=self._move, daemon=True, name="task-channel").start()

    # --- the port --------------------------------------------------------------------------------------------------------------

    def outcome(self) -> Control | None:
        return self._outcome

    def end_input(self) -> None:
        self._ends_asked = True
        if not self._terminal and self.input >= 0:
            self._own.discard(self.input)
            os.close(self.input)
            self.input = -1

    def resize(self, size: Size) -> None:
        self._size = size

    def close(self) -> None:
        self._closed.set()
        for number in self._own:
            os.close(number)
        self._own = set()

    # --- the thread ------------------------------------------------------------------------------------------------------------

    def _move(self) -> None:
        try:
            while self._is_wanted():
                self._step()
        except SkyloomError as error:
            self._outcome = self._outcome or Control(message=str(error)[:1_000])
        except OSError:
            pass  # nobody reads here any more
        finally:
            for number in (self._given, self._end, *self._sinks.values()):
                if number >= 0:
                    os.close(number)
            with contextlib.suppress(SkyloomError):
                self._keepers.ask(self._home, LeaveTask(visit=self._visit), None)

    def _is_wanted(self) -> bool:
        return not self._closed.is_set() and bool(self._sinks or (self.over >= 0 and self._outcome is None))

    def _step(self) -> None:
        """One exchange; then a pause, which is longer the longer nothing happens."""
        self._read_input()
        given = self._pending[:MAX_MOVED_BYTES]
        is_end = (self._terminal and self._ends_asked) or not self._input_open
        ends = is_end and not self._input_ended and len(given) == len(self._pending)
        size, self._size = self._size, None
        listens = not any(self._backlog.values())
        self._num_exchanges += 1
        ask = KeeperExchange(
            visit=self._visit,
            number=self._num_exchanges,
            given=given,
            ends=ends,
            size=size,
            listens=listens,
        )
        heard: KeeperHeard = self._keepers.ask(self._home, ask, KeeperHeard)
        self._pending = self._pending[heard.taken :]
        if ends and heard.taken == len(given):
            self._ends_asked, self._input_ended = False, not self._terminal  # a terminal's input may go on
        moved = self._show(heard) or heard.taken > 0
        self._pause_s = _LEAST_PAUSE_S if moved else min(2 * self._pause_s, _MOST_PAUSE_S)
        if not moved:
            self._rest()

    def _read_input(self) -> None:
        if not self._input_open or len(self._pending) >= MAX_MOVED_BYTES:
            return
        try:
            part = os.read(self._given, MAX_MOVED_BYTES)
        except BlockingIOError:
            return
        self._pending += part
        self._input_open = bool(part)

    def _show(self, heard: KeeperHeard) -> bool:
        """Pass on what came; True when something moved. Who reads slowly here makes the other side wait, and nothing else."""
        moved = False
        for kind, part in heard.outputs.items():
            self._backlog[kind] += part
        for kind, sink in tuple(self._sinks.items()):
            with contextlib.suppress(BlockingIOError):
                while self._backlog[kind]:
                    self._backlog[kind] = self._backlog[kind][os.write(sink, self._backlog[kind]) :]
                    moved = True
            if kind in heard.ended and not self._backlog[kind]:
                os.close(self._sinks.pop(kind))
        if heard.outcome is not None and self._outcome is None:
            self._outcome = heard.outcome
            os.write(self._end, b".")
        return moved

    def _rest(self) -> None:
        """Wait a moment, or until there is something to send."""
        if self._input_open and not self._pending:
            waiting = select.poll()
            waiting.register(self._given, select.POLLIN)
            waiting.poll(self._pause_s * 1_000)
        else:
            time.sleep(self._pause_s)
