"""Tells the control plane every second that this replica lives and what it saw. An outage loses nothing: the numbers are totals."""

import asyncio
import secrets
import time
from collections.abc import Callable

from skyloom.core.errors import SkyloomError
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.gpu import GpuReader
from skyloom.inference.telling import Teller
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.monitoring.windows import merge_traffic
from skyloom.rooms.serving.model import ReportTraffic
from skyloom.rooms.serving.pack import GuestTraffic
from skyloom.settings import TaskEnvironment

_PERIOD_S = 1.0
_QUIET_S = 60.0  # a guest that sees nothing is told of so often; monitoring forgets who is silent for long
_TIMEOUT_S = 2.0  # a control plane that hangs must not hold up the end of a replica


class Reporter:
    """Sends `ReportTraffic` with the task's own token.

    Args:
        gpu: reads the replica's GPUs, where it has some.
        stop: called when the control plane says that this replica is not wanted any more.
    """

    def __init__(
        self,
        plane: DataPlane,
        task: TaskEnvironment,
        ports: tuple[int, int],
        stop: Callable[[], None],
        gpu: GpuReader | None = None,
    ) -> None:
        self._plane = plane
        self._ports = ports
        self._stop = stop
        self._gpu = gpu
        self._teller = Teller(task, _TIMEOUT_S)
        self._told: dict[tuple[str, str], tuple[int, float]] = {}  # guest → its requests as told last, and when

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self.send()
            await asyncio.sleep(_PERIOD_S)

    async def send(self) -> None:
        """Report once; nobody there is no error, the next report says it all again."""
        self._plane.look_again()
        try:
            busy = None if self._gpu is None else await asyncio.to_thread(self._gpu.utilisation)
            report = self._report(busy)
            answer = await asyncio.to_thread(self._teller.send, report, secrets.token_hex(16))
        except SkyloomError:
            return
        now = time.monotonic()
        self._told |= {(one.model, one.version): (one.traffic.requests, now) for one in report.guest_traffic}
        if answer.stop:
            self._stop()

    def close(self) -> None:
        """Let go of the connection."""
        self._teller.close()

    def _report(self, busy: float | None) -> ReportTraffic:
        plan = self._plane.plan
        return ReportTraffic(
            name=plan.endpoint,
            replica=plan.replica,
            revision=plan.revision,
            ready=self._plane.ready,
            rest_port=self._ports[0],
            grpc_port=self._ports[1],
            traffic=self._traffic(),
            gpu=busy,
            guests=self._plane.guests.reports() if self._plane.guests is not None else (),
            guest_traffic=self._guest_traffic(),
        )

    def _guest_traffic(self) -> tuple[GuestTraffic, ...]:
        """Of those that saw something since they were told of: many guests sleep, and histograms are large."""
        guests = self._plane.guests
        if guests is None:
            return ()
        seen, quiet_since = guests.seen(), time.monotonic() - _QUIET_S
        named = {(one.model, one.version) for one in seen}
        self._told = {name: told for name, told in self._told.items() if name in named}
        return tuple(one for one in seen if self._is_news(one, quiet_since))

    def _is_news(self, one: GuestTraffic, quiet_since: float) -> bool:
        requests, at = self._told.get((one.model, one.version), (-1, 0.0))
        return one.traffic.requests != requests or at <= quiet_since

    def _traffic(self) -> Traffic:
        """What all models of the replica answered. Only its own model's rows are compared with those of training."""
        own, guests = self._plane.traffic.snapshot(), self._plane.guests
        return own if guests is None else merge_traffic(own, guests.traffic())
