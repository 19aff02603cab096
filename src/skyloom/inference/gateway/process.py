"""The gateway as a process: read the table, keep the doors as it says, report, drain. The only place that puts its parts together."""

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.durable import write_private
from skyloom.inference.access import AccessList
from skyloom.inference.gateway.doors import Doors
from skyloom.inference.gateway.report import RouteReporter
from skyloom.inference.gateway.table import RoutingFile
from skyloom.inference.plan_files import read_plan_file
from skyloom.rooms.serving.plan import Listening
from skyloom.rooms.serving.routes import EndpointRoute, GatewayPlan, RouteTraffic, RoutingTable
from skyloom.settings import TaskEnvironment

_LOOK_S = 0.05  # how late somebody may hear that nobody came
_LOOKS_PER_TABLE = 4
_LOOKS_PER_SWEEP = 20


class GatewayPlanRefused(InvalidInput):
    """The plan file cannot be read, or asks for what is not allowed."""


class GatewayProcess:
    """The running gateway. Make it on the event loop that it will live on."""

    def __init__(self, plan: GatewayPlan, folder: Path, task: TaskEnvironment) -> None:
        self._plan = plan
        self._folder = folder
        self._table = RoutingFile(folder / plan.routing_file)
        self._doors: dict[str, Doors] = {}
        self._leaving: list[tuple[float, Doors]] = []
        self._access: dict[str, AccessList] = {}
        self._stopping = asyncio.Event()
        self._is_draining = False
        self._reporter: RouteReporter | None = None
        if task.url:
            self._reporter = RouteReporter(plan.gateway, task, self._look, self._is_ready, self._stopping.set)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        _allow_many_files()
        await self._read_table()
        work: list[asyncio.Task[None]] = [asyncio.create_task(self._tick())]
        if self._reporter is not None:
            work.append(asyncio.create_task(self._reporter.run()))
        self._say_ready()
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopped, *work), return_when=asyncio.FIRST_COMPLETED)
            for item in work:
                if item.done():
                    item.result()  # neither ends by itself; a defect must not be slept through
        finally:
            await self._drain()
            for each in (stopped, *work):
                each.cancel()
            await asyncio.gather(stopped, *work, return_exceptions=True)
            if self._reporter is not None:
                await self._reporter.send()
                self._reporter.close()

    # -- the table ----------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(_LOOK_S)
            count += 1
            for doors in self._all():
                if doors.desk.num_held:
                    doors.look()
                doors.desk.look()
            # Who waits should not wait for us too.
            is_due = count % _LOOKS_PER_TABLE == 0 or any(doors.desk.num_held for doors in self._doors.values())
            if is_due and not self._is_draining:
                await self._read_table()
            if count % _LOOKS_PER_SWEEP == 0:
                await self._sweep()

    async def _read_table(self) -> None:
        table = self._table.read()
        if table is not None:
            await self._apply(table)

    async def _apply(self, table: RoutingTable) -> None:
        wanted = {route.endpoint: route for route in table.routes}
        for endpoint in self._doors.keys() - wanted.keys():
            gone = self._doors.pop(endpoint)
            gone.drain()
            gone.desk.close()
            self._leaving.append((asyncio.get_running_loop().time() + self._plan.limits.drain_s, gone))
        lists = {route.access_file for route in table.routes}
        self._access = {path: self._access.get(path) or AccessList(self._folder / path) for path in lists}
        for endpoint, route in wanted.items():
            known = self._doors.get(endpoint)
            if known is not None and known.desk.route != route:
                known.update(route, self._access[route.access_file])
            elif known is None:
                self._doors[endpoint] = self._made(route)
        await self._adjust()

    def _made(self, route: EndpointRoute) -> Doors:
        plan = self._plan
        claims = self._folder / plan.port_folder
        wake = self._reporter.hurry if self._reporter is not None else lambda: None
        return Doors(route, plan.host, claims, plan.limits, self._access[route.access_file], wake)

    async def _adjust(self) -> None:
        # All that close go first: a port may pass from one endpoint to another.
        for doors in self._doors.values():
            doors.shut()
        for doors in self._doors.values():
            await doors.open()

    async def _sweep(self) -> None:
        for access in self._access.values():
            access.refresh()
        for doors in self._all():
            doors.sweep()
        now = asyncio.get_running_loop().time()
        for end, doors in self._leaving:
            if now >= end:
                doors.cut()
        self._leaving = [(end, doors) for end, doors in self._leaving if now < end and not doors.is_idle]
        if not self._is_draining:
            await self._adjust()

    def _all(self) -> Iterable[Doors]:
        return [*self._doors.values(), *(doors for _, doors in self._leaving)]

    # -- what is told -------------------------------------------------------------------------------------------------------

    def _look(self) -> list[RouteTraffic]:
        return [doors.desk.traffic(closes=True) for doors in self._doors.values() if doors.is_open]

    def _is_ready(self) -> bool:
        return not self._is_draining

    def _say_ready(self) -> None:
        print(f"gateway {self._plan.gateway} stands before {len(self._doors)} endpoints", flush=True)
        if self._plan.ready_file:
            told = Listening(pid=os.getpid(), rest_port=0, grpc_port=0)
            write_private(self._folder / self._plan.ready_file, msgspec.json.encode(told))

    async def _drain(self) -> None:
        """Take nothing new, finish what is there, within the plan's time."""
        await asyncio.sleep(0)  # connections that already stand in the accept queue still come in
        self._is_draining = True
        for doors in self._doors.values():
            doors.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.limits.drain_s):
                while not all(doors.is_idle for doors in self._all()):
                    await asyncio.sleep(0.02)
                    for doors in self._all():
                        doors.sweep()
        for doors in self._all():
            doors.desk.close()
        await asyncio.sleep(0)  # the last answers go out


def _allow_many_files() -> None:
    """Every request in flight holds two connections, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_plan(path: Path) -> GatewayPlan:
    """Read and check a plan. Raises `GatewayPlanRefused`."""
    plan, loopback = read_plan_file(path, GatewayPlan, _refused)
    if not loopback:
        raise _refused(f"host {plan.host} is not a loopback address, and there is no TLS yet")
    return plan


def _refused(reason: str) -> GatewayPlanRefused:
    return GatewayPlanRefused(
        f"The plan cannot be used: {reason}.", next_action="See rooms/serving/routes.py for what it holds."
    )
