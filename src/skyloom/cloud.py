"""The one door, and the composition root: every concrete class is named here and nowhere else.

`Cloud.do(ask, by=caller)` is the only way in. Rights, idempotency, audit and waking the loops happen there, once, for every face.
"""

import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skyloom import __version__
from skyloom.blobs.local import LocalBlobs
from skyloom.core import digests
from skyloom.core.errors import Conflict, SkyloomError
from skyloom.core.ids import RandomIds
from skyloom.core.operation import Caller, Operation
from skyloom.core.resources import Resources, parse_bytes
from skyloom.engines.local import LocalEngine
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock, SystemClock
from skyloom.ports.door import EVENTS, Change, Handlers, Outbox, Subscriber
from skyloom.ports.engine import Engine
from skyloom.ports.store import Store, Transaction
from skyloom.rooms.cost import ports as cost_ports
from skyloom.rooms.cost.model import PriceBook
from skyloom.rooms.cost.service import Cost
from skyloom.rooms.data import ports as data_ports
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs import ports as jobs_ports
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.monitoring import ports as monitoring_ports
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.overview import explainers
from skyloom.rooms.overview.service import Overview
from skyloom.rooms.tenancy import ports as tenancy_ports
from skyloom.rooms.tenancy import rules
from skyloom.rooms.tenancy.ports import REPLAYS, Replay
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.settings import Settings
from skyloom.stores.folder_lock import FolderLock
from skyloom.stores.sqlite import SqliteStore
from skyloom.tables.lance import LanceTables

A = TypeVar("A")
log = logging.getLogger("skyloom")
_LONGEST_REST_S = 0.25

COLLECTIONS = (
    *tenancy_ports.COLLECTIONS,
    *monitoring_ports.COLLECTIONS,
    *jobs_ports.COLLECTIONS,
    *data_ports.COLLECTIONS,
)
LOGS = (EVENTS, *tenancy_ports.LOGS, *cost_ports.LOGS)


class KeyReused(Conflict):
    """An idempotency key came back with another request."""


class Loop:
    """Calls ``tick`` until closed: when woken, and after the pause that the last tick asked for."""

    def __init__(self, name: str, tick: Callable[[], float]) -> None:
        self._tick = tick
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Ask for a tick soon. A hint: losing it costs a pause, nothing else."""
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._closing:
            began = time.monotonic()
            try:
                pause_s = self._tick()
            except Exception:
                log.exception("a tick of %s failed; it is tried again", self._thread.name)
                pause_s = 1.0
            # However often it is woken, a loop takes at most a third of one core's time.
            rest_s = min(2 * (time.monotonic() - began), _LONGEST_REST_S)
            time.sleep(rest_s)
            self._wake.wait(max(0.0, pause_s - rest_s))
            self._wake.clear()


class Cloud:
    """An embedded cloud over its parts. Thread-safe. Build it with `embedded`."""

    def __init__(
        self, store: Store, clock: Clock, tenancy: Tenancy, handlers: Handlers, loops: dict[str, Loop]
    ) -> None:
        self._store = store
        self._clock = clock
        self._handlers = handlers
        self._loops = loops
        self.tenancy = tenancy
        self._closers: list[Callable[[], None]] = []

    def authenticate(self, secret: str, project: str) -> Caller:
        """Who shows this token, in this project. Raises `NoToken`, `ProjectMissing`."""
        return self.tenancy.authenticate(secret, project)

    def do(self, ask: Operation[A], by: Caller, key: str | None = None) -> A:
        """Carry out one operation and return its answer.

        A change is on disk when this returns. With a ``key``, repeating the same change gives the first answer and no second effect.
        Raises what the operation raises; `RightMissing`; `KeyReused`. Blocks: never call it on an event loop.
        """
        handler = self._handlers[type(ask)]
        try:
            rules.permit(ask.route, by)
        except SkyloomError as refusal:
            code = refusal.code
            self._store.write(lambda tx: self.tenancy.audit(tx, ask, by, "", code))
            raise
        if not isinstance(handler, Change):
            return handler.run(ask, by)  # type: ignore[no-any-return]
        if handler.before:
            handler.before(ask, by)
        answer = self._store.write(lambda tx: self._change(tx, handler, ask, by, key))
        for loop in self._loops.values() if ask.route.audited else ():
            loop.wake()
        return answer  # type: ignore[no-any-return]

    def _change(self, tx: Transaction, handler: Change, ask: Operation[Any], by: Caller, key: str | None) -> Any:
        replay_id = f"{by.project}/{by.principal}/{key}"
        request = digests.of_bytes(msgspec.json.encode([ask.route.name, ask]))
        earlier = tx.get(REPLAYS, replay_id) if key else None
        if earlier is not None:
            if earlier.request != request:
                raise KeyReused(
                    f"The idempotency key {key!r} was used for another request.",
                    next_action="Use a new key for a new request.",
                )
            return msgspec.json.decode(earlier.answer, type=ask.route.answer)
        answer = handler.run(tx, ask, by)
        if key:
            made = msgspec.json.encode(answer)
            tx.insert(
                REPLAYS,
                Replay(id=replay_id, project=by.project, request=request, answer=made, made_at=self._clock.now()),
            )
        if ask.route.audited:
            self.tenancy.audit(tx, ask, by, _subject(answer), "done")
        return answer

    def start(self) -> None:
        """Start the loops."""
        for loop in self._loops.values():
            loop.start()

    def close(self) -> None:
        """Stop the loops and let go of everything. Jobs and endpoints go on running."""
        for loop in self._loops.values():
            loop.close()
        for closer in reversed(self._closers):
            closer()


def _subject(answer: Any) -> str:
    """The id of what a change was about."""
    for holder in (answer, *(getattr(answer, name, None) for name in ("job", "token"))):
        if isinstance(getattr(holder, "id", None), str):
            return str(holder.id)
    return ""


class Embedded:
    """Everything of a cloud on one machine, in one folder. The composition root.

    Raises `FolderInUse`, `NotPermitted`, `StorageFull`, `Unavailable` when it cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        home: Path = settings.home
        self.url = ""
        self.settings = settings
        self.lock = FolderLock(home)
        for name in ("blobs", "tables", "series", "engine", "shared", "requests"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
        clock, ids = SystemClock(), RandomIds()
        self.store: Store = SqliteStore(home / "skyloom.db", COLLECTIONS, LOGS, _crash_hook(settings.crash_at))
        self.blobs: Blobs = LocalBlobs(home / "blobs")
        self.engine: Engine = LocalEngine(
            home / "engine", python=sys.executable, capacity=_capacity(settings), warm=settings.warm_pool
        )
        subscribers: list[Subscriber] = []
        outbox = Outbox(clock, subscribers)
        tenancy = Tenancy(self.store, clock, ids, _secret_key(home / "secret"))
        plans = Plans(self.blobs, str(home / "shared"), tenancy.task_secret, lambda: self.url)
        jobs = Jobs(self.store, clock, ids, outbox, self.engine, self.blobs, plans)
        tables = home / "tables"
        data = Datasets(self.store, clock, ids, outbox, self.blobs, LanceTables(tables), str(tables), jobs)
        tenancy.project_of_live_task = jobs.project_of_live_task
        cost = Cost(self.store, clock, _prices(settings), jobs.unfinished)
        subscribers.append(cost.on_task_ended)
        monitoring = Monitoring(self.store, clock, ids, outbox, self.blobs)
        overview = Overview(
            self.store,
            clock,
            self.engine.capacity(),
            about=lambda: (__version__, self.url, shutil.disk_usage(home).free),
            explainers={"job": explainers.of_jobs(jobs), "dataset": explainers.of_datasets(data)},
            counts={"jobs": explainers.count_jobs},
        )
        services = (overview, tenancy, monitoring, cost, jobs, data)
        handlers = {kind: handler for service in services for kind, handler in service.handlers().items()}
        loops = {"jobs": Loop("jobs", jobs.tick), "monitoring": Loop("monitoring", monitoring.tick)}
        self.token_file = home / "token"
        if not self.token_file.exists():
            write_private(self.token_file, tenancy.install().encode())
        jobs.adopt()
        self.cloud = Cloud(self.store, clock, tenancy, handlers, loops)

    def close(self) -> None:
        """Close everything in order; jobs go on running."""
        self.cloud.close()
        self.engine.close()
        self.store.close()
        self.lock.close()


def _capacity(settings: Settings) -> Resources | None:
    """What the operator lets the engine hand out, or None for all of this machine."""
    if not settings.cpus and not settings.memory:
        return None
    memory_bytes = parse_bytes(settings.memory) if settings.memory else 0
    return Resources(cpus=settings.cpus, memory_bytes=memory_bytes)


def _prices(settings: Settings) -> PriceBook:
    return PriceBook(
        cpu_usd_per_hour=settings.price_cpu_usd_per_hour,
        gpu_usd_per_hour=settings.price_gpu_usd_per_hour,
        memory_gib_usd_per_hour=settings.price_memory_gib_usd_per_hour,
    )


def _secret_key(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, whole or not at all, on disk when this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _crash_hook(crash_at: str) -> Callable[[str, int], None] | None:
    """Tests only: kill this process around its K-th commit (``before:3``)."""
    if not crash_at:
        return None
    wanted_phase, _, wanted = crash_at.partition(":")

    def hook(phase: str, count: int) -> None:
        if (phase, str(count)) == (wanted_phase, wanted):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
