"""Tells the control plane what the gateway sees: every second, and soon when somebody begins to wait where no replica is."""

import asyncio
import secrets
import sys
from collections.abc import Callable, Sequence

from skyloom.core.errors import SkyloomError
from skyloom.inference.telling import Teller, Untold
from skyloom.rooms.serving.model import Reported, ReportRoutes
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.settings import TaskEnvironment

_PERIOD_S = 1.0
_EAGER_S = 0.1  # when somebody waits for a replica that is not there, a second is a long time
_TIMEOUT_S = 2.0


class RouteReporter:
    """Sends `ReportRoutes` with the task's own token. An outage loses nothing: the numbers are totals.

    Args:
        look: what is seen now; its means begin anew.
        ready: the gateway takes requests.
        stop: called when the control plane says that this gateway is not wanted any more.
    """

    def __init__(
        self,
        gateway: str,
        task: TaskEnvironment,
        look: Callable[[], Sequence[RouteTraffic]],
        ready: Callable[[], bool],
        stop: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._teller = Teller(task, _TIMEOUT_S)
        self._look = look
        self._ready = ready
        self._stop = stop
        self._hurry = asyncio.Event()
        self._sending: asyncio.Future[Reported] | None = None
        self._complaint = ""

    def hurry(self) -> None:
        """Report soon, not in a second."""
        self._hurry.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(_EAGER_S)
            try:
                async with asyncio.timeout(_PERIOD_S - _EAGER_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()

    async def send(self) -> None:
        """Report once; nobody there is no error, the next report says it all again."""
        if self._sending is not None:  # its thread goes on when `run` is cancelled, and the line is for one at a time
            await asyncio.wait((self._sending,))
        ask = ReportRoutes(gateway=self._gateway, ready=self._ready(), routes=tuple(self._look()))
        self._sending = asyncio.ensure_future(asyncio.to_thread(self._teller.send, ask, secrets.token_hex(16)))
        try:
            answer = await asyncio.shield(self._sending)
        except Untold:
            return
        except SkyloomError as error:
            self._complain(str(error))
            return
        self._complaint = ""
        if answer.stop:
            self._stop()

    def close(self) -> None:
        """Let go of the connection."""
        self._teller.close()

    def _complain(self, what: str) -> None:
        """Say once why reports are refused."""
        if what != self._complaint:
            print(f"the control plane refuses a report: {what}", file=sys.stderr, flush=True)
        self._complaint = what
