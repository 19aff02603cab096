"""Calls to a service: who may go now, who waits, who is late. No process, no socket: messages in, messages out."""

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from skyloom.core.errors import InternalError, InvalidInput, LimitExceeded, SkyloomError, Unavailable
from skyloom.inference.services.frames import (
    Ask,
    Failed,
    Finished,
    FrameBroken,
    GiveUp,
    Lent,
    More,
    Named,
    Part,
    lend,
    take,
)
from skyloom.inference.services.lanes import FIRST_PARTS
from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceSpec

_STUCK_S = 5.0


class ServiceUnfit(InvalidInput):
    """The service cannot be set up. Nothing of it is served."""


class ServiceGone(InternalError):
    """The service's process died with the request."""


class ServiceRestarting(Unavailable):
    """The service's process is being started again."""


class ServiceFull(LimitExceeded):
    """More calls wait for this endpoint than it can take."""


class ServiceLate(Unavailable):
    """The endpoint took longer than it may."""


class ServiceFailed(InternalError):
    """The endpoint raised; the message is its own, the trace is in the replica's log."""


class ArgumentsRefused(InvalidInput):
    """The endpoint does not take these arguments. Its words are the service's own, and so may be what to do."""

    def __str__(self) -> str:
        return f"{self.message} {self.next_action}".strip()


class CallOutcome(NamedTuple):
    """What an endpoint answered: JSON, raw bytes, or arrays. The memory lives as long as it is looked at."""

    content: memoryview
    is_raw: bool = False
    arrays: tuple[tuple[str, str, tuple[int, ...], memoryview], ...] = ()


class PendingCall:
    """One call.

    Args:
        content: the body, in pieces; or ``arrays`` (name, dtype, shape, bytes).
        done: called once, with the answer or the reason why there is none. After parts, the answer is empty.
        part: called for each part of an endpoint that answers in parts.
    """

    __slots__ = (
        "arrays",
        "content",
        "deadline",
        "done",
        "given_up_at",
        "is_raw",
        "method",
        "num_bytes",
        "num_untaken",
        "number",
        "part",
    )

    def __init__(
        self,
        method: ServiceMethod,
        content: Sequence[bytes | memoryview],
        done: Callable[[CallOutcome | SkyloomError], None],
        part: Callable[[CallOutcome], None] = lambda _: None,
        *,
        is_raw: bool = False,
        arrays: Sequence[tuple[str, str, tuple[int, ...], Any]] | None = None,
    ) -> None:
        self.method = method
        self.content = content
        self.done = done
        self.part = part
        self.is_raw = is_raw
        self.arrays = arrays
        self.num_bytes = sum(len(piece) for piece in content) + sum(len(one[3]) for one in arrays or ())
        self.number = -1
        self.deadline = time.monotonic() + method.timeout_s
        self.num_untaken = 0
        self.given_up_at = 0.0


def tell(hear: Callable[[Any], None], outcome: Any) -> None:
    """Tell one caller; a defect in how it is worded must end neither the process nor the calls of others."""
    try:
        hear(outcome)
    except Exception:
        traceback.print_exc(file=sys.stderr)


class Gate:
    """The calls of one endpoint: a bounded number runs, in the order they came. Batches fill up behind those that run."""

    def __init__(self, method: ServiceMethod) -> None:
        self.max_running = method.concurrency * (2 * method.batch if method.batch else 1)
        self.waiting: deque[PendingCall] = deque()
        self.running: dict[int, PendingCall] = {}


class Queueing:
    """All calls of one service."""

    def __init__(self, spec: ServiceSpec, max_waiting: int, max_waiting_bytes: int) -> None:
        self._gates = {method.name: Gate(method) for method in spec.methods}
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = self._waiting_bytes = 0
        self._running: dict[int, PendingCall] = {}
        self._last = 0

    @property
    def num_open(self) -> int:
        """Calls that wait or run, those included that nobody waits for and that have not come back."""
        return self._waiting + len(self._running)

    def add(self, call: PendingCall) -> None:
        """Queue a call. Raises `ServiceFull`."""
        full = self._waiting and self._waiting_bytes + call.num_bytes > self._max_waiting_bytes
        if full or self._waiting >= self._max_waiting:
            raise ServiceFull(
                f"{self._waiting} calls wait for this replica already.",
                next_action="Send again in a moment, or deploy more replicas.",
            )
        self._gates[call.method.name].waiting.append(call)
        self._waiting += 1
        self._waiting_bytes += call.num_bytes

    def next(self, lent: set[int]) -> Iterator[Ask]:
        """The calls whose turn it is, as messages."""
        for gate in self._gates.values():
            while gate.waiting and len(gate.running) < gate.max_running:
                call = gate.waiting.popleft()
                self._left(call)
                self._last += 1
                call.number = self._last
                try:
                    asked = _asked(call, lent)
                except OSError as error:  # no memory, or no descriptor, for what it brings
                    call.given_up_at = time.monotonic()
                    full = f"The replica has no room for this call: {error.strerror}."
                    tell(call.done, ServiceFull(full, next_action="Send again in a moment."))
                    continue
                gate.running[call.number] = self._running[call.number] = call
                yield asked

    def heard(self, message: Part | Finished | Failed, pid: int) -> tuple[PendingCall | None, Any, list[int]]:
        """Whom an answer is for (None when nobody waits), what it is, and the files that were lent to us with it."""
        borrowed = _borrowed(message)
        call = self._running.get(message.call)
        if call is None:
            return None, None, borrowed
        if isinstance(message, Part):
            call.num_untaken += 1
            call.deadline = time.monotonic() + call.method.timeout_s
        else:
            self._running.pop(message.call)
            self._gates[call.method.name].running.pop(message.call)
        if call.given_up_at:
            return None, None, borrowed
        return call, _outcome(message, pid), borrowed

    def give_up(self, call: PendingCall) -> GiveUp | None:
        """Nobody waits for a call any more; what to tell the process, if it knows of it."""
        if call.given_up_at:
            return None
        call.given_up_at = time.monotonic()
        if call.number in self._running:
            return GiveUp(call.number)
        waiting = self._gates[call.method.name].waiting
        if call in waiting:  # its place in the queue is for somebody who waits
            waiting.remove(call)
            self._left(call)
        return None

    def took(self, call: PendingCall, num_parts: int) -> More:
        """The client has taken parts."""
        call.num_untaken -= num_parts
        call.deadline = time.monotonic() + call.method.timeout_s
        return More(call.number, num_parts)

    def late(self, now: float) -> tuple[list[tuple[PendingCall, ServiceLate]], PendingCall | None]:
        """Who waited too long; and a call that was given up and keeps its place for so long that only a new process helps."""
        late: list[tuple[PendingCall, ServiceLate]] = []
        stuck = None
        for gate in self._gates.values():
            for call in [*gate.waiting, *gate.running.values()]:
                if call.given_up_at:
                    patience_s = max(_STUCK_S, call.method.timeout_s)
                    if call.number in gate.running and now - call.given_up_at > patience_s:
                        stuck = call
                elif now > call.deadline and call.num_untaken < FIRST_PARTS:
                    late.append((call, _late(call, has_begun=call.number in gate.running)))
        return late, stuck

    def drop_all(self) -> tuple[list[PendingCall], list[PendingCall]]:
        """Forget every call; returns those that somebody waits for: the begun ones, and those that were not."""
        begun = [call for gate in self._gates.values() for call in gate.running.values()]
        waiting = [call for gate in self._gates.values() for call in gate.waiting]
        for gate in self._gates.values():
            gate.running.clear()
            gate.waiting.clear()
        self._running.clear()
        self._waiting = self._waiting_bytes = 0
        return [call for call in begun if not call.given_up_at], [call for call in waiting if not call.given_up_at]

    def _left(self, call: PendingCall) -> None:
        self._waiting -= 1
        self._waiting_bytes -= call.num_bytes


def _asked(call: PendingCall, lent: set[int]) -> Ask:
    arrays = None
    if call.arrays is not None:
        arrays = tuple(Named(name, dtype, shape, lend([content], lent)) for name, dtype, shape, content in call.arrays)
    content = lend(call.content, lent) if call.content else b""
    call.content, call.arrays = (), None  # it has been handed over
    return Ask(call.number, call.method.name, content, call.is_raw, arrays)


def _outcome(message: Part | Finished | Failed, pid: int) -> CallOutcome | SkyloomError:
    try:
        if isinstance(message, Part):
            return CallOutcome(take(message.content, pid))
        if isinstance(message, Finished):
            arrays = [(one.name, one.dtype, one.shape, take(one.content, pid)) for one in message.arrays or ()]
            return CallOutcome(take(message.content, pid), message.is_raw, tuple(arrays))
    except FrameBroken as error:
        return ServiceGone(f"The service's answer was lost: {error}.", next_action="Send again.")
    if message.is_callers:
        return ArgumentsRefused(message.message, next_action=message.next_action)
    words = message.message if message.message.endswith((".", "!", "?")) else f"{message.message}."
    return ServiceFailed(words, next_action="Ask the operator to look at the replica's output.")


def _borrowed(message: Part | Finished | Failed) -> list[int]:
    if isinstance(message, Failed):
        return []
    contents = [message.content]
    if isinstance(message, Finished):
        contents += [one.content for one in message.arrays or ()]
    return [one.file for one in contents if isinstance(one, Lent)]


def _late(call: PendingCall, *, has_begun: bool) -> ServiceLate:
    what = "gave no part" if call.method.answering is Answering.PARTS else "gave no answer"
    if not has_begun:
        what = "was busy with earlier calls and did not begin this one"
    return ServiceLate(
        f"{call.method.name} {what} within {call.method.timeout_s:g} s.",
        next_action="Send less, or raise its timeout_s, or deploy more replicas.",
    )
