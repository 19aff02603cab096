"""The ports of one endpoint: opened, closed and changed with the table. Old replicas that had them may still share them for a while."""

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path

from skyloom.inference.access import AccessList
from skyloom.inference.gateway.desk import RouteDesk
from skyloom.inference.gateway.sites import GateCalls, GateRest, RouteGate
from skyloom.inference.ports import PortClaim, PortTaken, listen
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.http2 import Http2Connections
from skyloom.rooms.serving.plan import Limits
from skyloom.rooms.serving.routes import EndpointRoute


class Door:
    """One port that is listened on."""

    def __init__(self, server: asyncio.AbstractServer, claim: PortClaim) -> None:
        self._server = server
        self._claim = claim

    def close(self) -> None:
        """Listen no more. Connections that stand go on."""
        self._server.close()
        self._claim.release()


class Doors:
    """One endpoint behind the gateway: its desk, its guards and its two ports.

    Args:
        host: address to listen on.
        claims: folder of the port locks.
    """

    def __init__(
        self,
        route: EndpointRoute,
        host: str,
        claims: Path,
        limits: Limits,
        access: AccessList,
        on_wake: Callable[[], None],
    ) -> None:
        self._host = host
        self._claims = claims
        self.desk = RouteDesk(route, limits, random.Random(), on_wake)  # noqa: S311  # chance shares traffic, it keeps no secret
        self._gate = RouteGate(self.desk, access)
        self._calls = GateCalls(self._gate, limits.max_body_bytes)
        self._connections = Connections(GateRest(self._gate), limits)
        self._call_connections = Http2Connections(self._calls, limits)
        self._open: dict[tuple[int, bool], Door] = {}  # by port, and whether it speaks REST
        self._complained: set[int] = set()

    @property
    def is_open(self) -> bool:
        """True when it listens wherever its route says."""
        return self._wanted() == self._open.keys()

    @property
    def is_idle(self) -> bool:
        """True when no client is connected and nobody waits."""
        return self.desk.is_idle and not self._connections.open and not self._call_connections.open

    def update(self, route: EndpointRoute, access: AccessList) -> None:
        """Take over a new table."""
        self.desk.update(route)
        self._gate.update(access)

    def shut(self) -> None:
        """Close the ports that the route has no more."""
        for place in self._open.keys() - self._wanted():
            self._open.pop(place).close()

    async def open(self) -> None:
        """Open the ports that the route has. One that a stranger has is said once, and tried again at the next call."""
        for port, is_rest in self._wanted() - self._open.keys():
            try:
                self._open[port, is_rest] = await self._listen(port, is_rest)
                self._complained.discard(port)
            except (PortTaken, OSError) as error:
                if port not in self._complained:
                    self._complained.add(port)
                    print(f"endpoint {self.desk.route.endpoint}: {error}", file=sys.stderr, flush=True)

    async def _listen(self, port: int, is_rest: bool) -> Door:
        claim = PortClaim(self._claims, self.desk.route.endpoint, self._host, port)
        try:
            listener = listen(self._host, port)
        except BaseException:
            claim.release()
            raise
        accept: Callable[[], asyncio.Protocol] = self._connections.accept if is_rest else self._call_connections.accept
        server = await asyncio.get_running_loop().create_server(accept, sock=listener)
        return Door(server, claim)

    def _wanted(self) -> set[tuple[int, bool]]:
        route = self.desk.route
        return {place for place in ((route.rest_port, True), (route.grpc_port, False)) if place[0]}

    def sweep(self) -> None:
        """Cut those who are too slow. Called about once a second."""
        self._connections.sweep()
        self._call_connections.sweep()
        self.look()
        self.desk.sweep()

    def look(self) -> None:
        """Hear of tokens that were taken back, and end what they asked. Called more often while somebody waits."""
        self._gate.access.refresh()
        self._calls.look()
        self._gate.look()

    def cut(self) -> None:
        """Its time is over: who is still connected is cut, for nobody would look after him."""
        for connection in list(self._connections.open):
            connection.give_up()
        for call_connection in list(self._call_connections.open):
            call_connection.give_up()

    def drain(self) -> None:
        """Listen no more, and let the clients go when they have their answers."""
        self._gate.is_draining = True
        for door in self._open.values():
            door.close()
        self._open.clear()
        self._calls.drain()
        self._connections.drain()
        self._call_connections.drain()
