"""The one door. `Cloud.do(ask, by=caller)` is the only way in.

Rights, idempotency, audit and waking the loops happen here, once, for every face.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from skyloom.core.errors import Conflict, SkyloomError, Unavailable
from skyloom.core.events import Origin
from skyloom.core.operation import Caller, Operation
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, because
from skyloom.ports.store import Collection, Log, Snapshot, Store, Transaction
from skyloom.rooms.tenancy import rules
from skyloom.rooms.tenancy.ports import REPLAYS, Replay
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.rooms.tenancy.shortened import Shortened

A = TypeVar("A")
log = logging.getLogger("skyloom")


class KeyReused(Conflict):
    """An idempotency key came back with another request."""


class NotReady(Unavailable):
    """A part of the control plane does not work."""


class LoopPace(NamedTuple):
    """How much of a core a loop may take: after a tick it rests ``rest`` times as long as the tick computed, at most ``longest_rest_s``."""

    rest: float
    longest_rest_s: float


EAGER = LoopPace(rest=2, longest_rest_s=0.25)  # what people wait for
STEADY = LoopPace(rest=9, longest_rest_s=60)  # what has to look at all that waits: a tenth of a core
CALM = LoopPace(rest=19, longest_rest_s=60)  # what may come later: a twentieth of a core, however much there is to do


class Loop:
    """Calls ``tick`` until closed: when woken, and after the pause that the last tick asked for.

    Args:
        watches: wakes when a caller's change wrote to one of these.
    """

    def __init__(
        self,
        name: str,
        tick: Callable[[], float],
        watches: Iterable[Collection[Any] | Log[Any]] = (),
        pace: LoopPace = EAGER,
    ) -> None:
        self.name = name
        self._watches = frozenset(place.name for place in watches)
        self._tick = tick
        self._pace = pace
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        """Ask for a tick soon. A hint: losing it costs a pause, nothing else."""
        self._wake.set()

    def notice(self, touched: set[str]) -> None:
        """Wake if one of these collections and logs is watched."""
        if not self._watches.isdisjoint(touched):
            self.wake()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._closing.is_set():
            began = time.thread_time()
            try:
                pause_s = self._tick()
                self._note("")
            except SkyloomError as error:
                self._note(str(error))
                pause_s = 1.0
            except Exception:
                log.exception("a tick of %s failed; it is tried again", self.name)
                pause_s = 1.0
            # However often it is woken, a loop takes no more than its share of a core. Waiting for the disk takes none.
            rest_s = min(self._pace.rest * (time.thread_time() - began), self._pace.longest_rest_s)
            self._closing.wait(rest_s)
            self._wake.wait(max(0.0, pause_s - rest_s))
            self._wake.clear()

    def _note(self, trouble: str) -> None:
        """Log a known trouble, such as a full disk, once: when it begins, changes or is over."""
        if trouble != self._trouble:
            log.warning("%s: %s", self.name, trouble or "goes on as before")
            self._trouble = trouble


class Cloud:
    """The door of a cloud, and its loops. Thread-safe. `skyloom.embedded` builds one.

    Attributes:
        cause_of: set by the composition root; which delivery of a trigger made a caller act, None for people.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        tenancy: Tenancy,
        handlers: Handlers,
        loops: Iterable[Loop],
        kinds: Mapping[str, Collection[Any]] = MappingProxyType({}),
    ) -> None:
        self._shortened = Shortened(store, kinds)
        self._store = store
        self._clock = clock
        self._handlers = handlers
        self._loops = tuple(loops)
        self.tenancy = tenancy
        self.cause_of: Callable[[Snapshot, Caller], Origin | None] = lambda _view, _by: None

    def authenticate(self, secret: str, project: str) -> Caller:
        """Who shows this token, in this project. Raises `NoToken`, `ProjectMissing`."""
        return self.tenancy.authenticate(secret, project)

    def do(self, ask: Operation[A], by: Caller, key: str | None = None) -> A:
        """Carry out one operation and return its answer.

        A change is on disk when this returns. With a ``key``, repeating the same change gives the first answer and no second effect.
        Ids may be shortened to their beginning.
        Raises what the operation raises; `RightMissing`; `KeyReused`; `AmbiguousId`. Blocks: never call it on an event loop.
        """
        handler = self._handlers[type(ask)]
        try:
            rules.permit(ask.route, by)
        except SkyloomError as refusal:
            code = refusal.code
            self._store.write(lambda tx: self.tenancy.audit(tx, ask, by, "", code))
            raise
        ask = self._shortened.written_out(ask, by)
        if not isinstance(handler, Change):
            found: A = handler.run(ask, by)
            return found
        replay_id = f"{by.project}/{by.task_id or by.token_id or by.device_id or by.principal}/{key}" if key else ""
        try:
            if handler.before:
                handler.before(ask, by)
        except SkyloomError:
            # What was done once is answered again even if it could not be done now.
            if not key or self._store.read(lambda view: view.get(REPLAYS, replay_id)) is None:
                raise
        answer: A
        answer, touched = self._store.write(lambda tx: (self._change(tx, handler, ask, by, replay_id), tx.touched))
        for loop in self._loops if ask.route.audited else ():
            loop.notice(touched)
        return answer

    def _change(self, tx: Transaction, handler: Change, ask: Operation[Any], by: Caller, replay_id: str) -> Any:
        request = self.tenancy.fingerprint(ask)
        earlier = tx.get(REPLAYS, replay_id) if replay_id else None
        if earlier is not None:
            if earlier.request != request:
                raise KeyReused(
                    f"The idempotency key {replay_id.rpartition('/')[2]!r} was used for another request.",
                    next_action="Use a new key for a new request.",
                )
            return handler.shown(msgspec.json.decode(earlier.answer, type=ask.route.answer))
        with because(self.cause_of(tx, by)):
            answer = handler.run(tx, ask, by)
        if replay_id:
            made = msgspec.json.encode(handler.kept(answer))
            tx.insert(
                REPLAYS,
                Replay(id=replay_id, project=by.project, request=request, answer=made, made_at=self._clock.now()),
            )
        if ask.route.audited:
            self.tenancy.audit(tx, ask, by, _subject(answer) or _named(ask), "done")
        return answer

    def check(self) -> None:
        """Raise `NotReady` unless the database answers and all loops run."""
        self._store.read(lambda _view: None)
        stopped = [loop.name for loop in self._loops if not loop.is_alive]
        if stopped:
            raise NotReady(
                f"Not running: {', '.join(stopped)}.",
                next_action="Start the control plane again: skyloom down, skyloom up.",
            )

    def start(self) -> None:
        """Start the loops."""
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Stop the loops. Jobs and endpoints go on running."""
        for loop in self._loops:
            loop.close()


_SUBJECTS = ("run", "job", "array", "schedule", "token", "draft", "dataset", "endpoint", "webhook")


def _subject(answer: Any) -> str:
    """The id of what a change was about."""
    for holder in (answer, *(getattr(answer, name, None) for name in _SUBJECTS)):
        if isinstance(getattr(holder, "id", None), str):
            return str(holder.id)
    return ""


def _named(ask: Operation[Any]) -> str:
    """What a change was about, where its answer does not say: the thing in its path, or its name."""
    words = (getattr(ask, name, "") for name in (*ask.route.path_fields, "name"))
    return str(next(filter(None, words), ""))
