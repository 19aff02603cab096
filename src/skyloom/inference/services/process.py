"""A service's process as the data plane sees it: started, asked, watched, and started again when it dies. Lives on one event loop.

Calls that were on their way when it dies fail with the reason; the data plane lives. It comes back after a pause that doubles up to ten
seconds, and until then every call is told so at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

from skyloom.core.errors import SkyloomError
from skyloom.inference.services.calls import (
    CallOutcome,
    PendingCall,
    Queueing,
    ServiceGone,
    ServiceRestarting,
    ServiceUnfit,
    tell,
)
from skyloom.inference.services.frames import (
    Failed,
    Finished,
    FrameBroken,
    Frames,
    FromWorker,
    Part,
    SetUp,
    Taken,
    Unfit,
    let_go,
    write,
)
from skyloom.rooms.registry.services import ServiceSpec
from skyloom.settings import tokenless_environment

_MODULE = "skyloom.inference.services.worker"
_SETUP_S = 600.0
_FIRST_PAUSE_S, _LAST_PAUSE_S, _HEALTHY_S = 0.1, 10.0, 30.0
_TICK_S = 0.1
_STOP_S = 2.0
_LAST_WORDS_S = 1.0


class Line(asyncio.Protocol):
    """The data plane's side of one process's socket.

    Attributes:
        lent: memory files that this process of ours lends, until they are taken.
        ended: set when all that was said has been heard.
    """

    def __init__(self, heard: Callable[["Line", object], None], lost: Callable[[str], None]) -> None:
        self._frames = Frames(FromWorker, lambda message: heard(self, message))
        self._lost = lost
        self._transport: asyncio.Transport
        self._trouble = ""
        self.lent: set[int] = set()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._frames.feed(data)
        except FrameBroken as error:
            self._trouble = f"it does not speak the protocol ({error})"
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()
        self._lost(self._trouble)

    def say(self, message: object) -> None:
        """Send a message, unless nobody is there."""
        if not self._transport.is_closing():
            self._transport.write(write(message))

    def close(self) -> None:
        """Let go of the socket and of what was lent."""
        self._transport.abort()
        for file in list(self.lent):
            let_go(file, self.lent)


class ServiceProcess:
    """One service.

    Args:
        folder: the bundle, verified.
        python: the interpreter of the service's environment.
        threads, gpus: for the models that lie beside the service, or for the one that it is.
        max_waiting, max_waiting_bytes: calls that may wait for their turn, and what their bodies may hold.
    """

    def __init__(
        self,
        folder: Path,
        spec: ServiceSpec,
        *,
        python: str = sys.executable,
        threads: int = 1,
        gpus: int = 0,
        max_waiting: int = 1_000,
        max_waiting_bytes: int = 64 * 2**20,
    ) -> None:
        self.spec = spec
        self._argv = (python, "-u", "-m", _MODULE, str(folder.absolute()))
        self._share = (str(threads), str(gpus))
        self._queueing = Queueing(spec, max_waiting, max_waiting_bytes)
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._line: Line | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._up = self._closing = self._ticking = False
        self._why = "it has not been set up yet"
        self._killed_for = ""  # why we ended the process that runs now, or ran last
        self.num_restarts = 0

    @property
    def ready(self) -> bool:
        """True while it takes calls."""
        return self._up

    @property
    def pid(self) -> int:
        """Of the process that runs now, or 0."""
        return self._process.pid if self._process is not None else 0

    @property
    def num_open(self) -> int:
        """Calls that wait or run."""
        return self._queueing.num_open

    async def start(self) -> None:
        """Start it and wait until it is set up. Raises `ServiceUnfit`, with the service's own words."""
        self._keeping = self._loop.create_task(self._keep())
        try:
            await asyncio.wait_for(asyncio.shield(self._first), _SETUP_S)
        except TimeoutError:
            await self.close()
            raise ServiceUnfit(
                f"The service was not set up within {_SETUP_S:g} s.", next_action="Make setup() shorter."
            ) from None
        except ServiceUnfit:
            await self.close()
            raise

    def ask(self, call: PendingCall) -> None:
        """Make a call; its `done` is called later, on the loop. Raises `ServiceRestarting` and `ServiceFull` at once."""
        if not self._up:
            raise self._restarting()
        self._queueing.add(call)
        self._send()
        self._watch()

    def give_up(self, call: PendingCall) -> None:
        """Nobody waits for a call any more."""
        message = self._queueing.give_up(call)
        if message is not None and self._line is not None:
            self._line.say(message)

    def took(self, call: PendingCall, num_parts: int) -> None:
        """The client has taken parts of a call: so many more may be made."""
        if self._line is not None:
            self._line.say(self._queueing.took(call, num_parts))

    async def close(self) -> None:
        """End the process; calls that are open fail."""
        self._closing, self._up = True, False
        if self._line is not None:
            self._line.close()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            self._kill()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._process is not None:
            await self._process.wait()
        if not self._first.done():
            self._first.cancel()
        self._ended("it was stopped")

    # -- the process --------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._closing:
            began = time.monotonic()
            try:
                process = await self._spawn()
                impatience = self._loop.call_later(_SETUP_S, self._kill_unless_up)
                try:
                    code = await process.wait()
                finally:
                    impatience.cancel()
                await self._hear_the_last()
            except OSError as error:
                self._ended(f"it cannot be started: {error.strerror}")
            except Exception as error:  # a defect of ours; without this nobody would ever start it again
                traceback.print_exc(file=sys.stderr)
                self._ended(f"it cannot be started: {type(error).__name__}")
            else:
                self._ended(self._killed_for or _worded(code))
            pause_s = _FIRST_PAUSE_S if time.monotonic() - began > _HEALTHY_S else min(2 * pause_s, _LAST_PAUSE_S)
            await asyncio.sleep(pause_s)
            self.num_restarts += 1

    async def _spawn(self) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        line = Line(self._heard, self._kill)
        self._killed_for = ""
        await self._loop.create_unix_connection(lambda: line, sock=ours)
        self._line = line
        with theirs:
            argv = (*self._argv, str(theirs.fileno()), *self._share)
            self._process = process = await asyncio.create_subprocess_exec(
                *argv, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, env=tokenless_environment()
            )
        return process

    async def _hear_the_last(self) -> None:
        """What a process said just before it died is still in the socket; a child of its may hold that open."""
        self._up = False
        if self._line is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._line.ended.wait(), _LAST_WORDS_S)

    def _kill_unless_up(self) -> None:
        if not self._up:
            self._kill(f"it was not set up within {_SETUP_S:g} s")

    def _kill(self, why: str = "") -> None:
        """End the process. It is asked for a second time when its line closes, so the first reason stands."""
        if why and not self._killed_for:
            self._killed_for = why
            print(f"the service's process is ended: {why}", file=sys.stderr, flush=True)
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)  # send_signal would reap it, and its exit code were lost

    def _ended(self, why: str) -> None:
        self._up = False
        if self._line is not None:
            self._line.close()
            self._line = None
        self._why = why
        gone = ServiceGone(f"The service's process ended while it worked on this: {why}.", next_action="See its log.")
        begun, waiting = self._queueing.drop_all()
        for call in begun:
            tell(call.done, gone)
        for call in waiting:
            tell(call.done, self._restarting())
        if not self._first.done():
            self._first.set_exception(ServiceUnfit(f"The service cannot be set up: {why}.", next_action="See its log."))
        elif not self._closing:
            print(f"the service's process is started again: {why}", file=sys.stderr, flush=True)

    # -- its words ----------------------------------------------------------------------------------------------------------

    def _restarting(self) -> ServiceRestarting:
        return ServiceRestarting(
            f"The service is being started again: {self._why}.", next_action="Send again in a moment."
        )

    def _heard(self, line: Line, message: object) -> None:
        if isinstance(message, Taken):
            let_go(message.file, line.lent)
        elif isinstance(message, SetUp):
            self._up = True
            if not self._first.done():
                self._first.set_result(None)
        elif isinstance(message, Unfit):
            self._why = message.message
            if not self._first.done():
                self._first.set_exception(ServiceUnfit(message.message, next_action="Mend it, then deploy again."))
        elif isinstance(message, Part | Finished | Failed):
            self._answered(line, message)

    def _answered(self, line: Line, message: Part | Finished | Failed) -> None:
        outcome: CallOutcome | SkyloomError
        call, outcome, borrowed = self._queueing.heard(message, self.pid)
        for file in borrowed:
            line.say(Taken(file))
        if call is not None:
            if isinstance(message, Part) and isinstance(outcome, CallOutcome):
                tell(call.part, outcome)
            else:
                tell(call.done, outcome)
        if not isinstance(message, Part):
            self._send()

    def _send(self) -> None:
        if self._line is not None:
            for message in self._queueing.next(self._line.lent):
                self._line.say(message)

    def _watch(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Answer who waited too long; end a process whose endpoint does not come back. One timer for all calls."""
        self._ticking = False
        late, stuck = self._queueing.late(time.monotonic())
        for call, error in late:
            self.give_up(call)
            tell(call.done, error)
        if stuck is not None:
            self._kill(f"a call of {stuck.method.name} hung: it did not come back after it was given up")
        self._send()
        if self._queueing.num_open:
            self._watch()


def _worded(code: int) -> str:
    if code >= 0:
        return f"it exited with code {code}"
    name = signal.Signals(-code).name
    return f"it was ended by {name}" + (", as the system does when memory runs out" if code == -signal.SIGKILL else "")
