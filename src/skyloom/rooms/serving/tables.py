"""The tables of gateways: written from what is true each round, so that a replica which answers no more leaves at once."""

import logging
from collections.abc import Sequence

from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.serving import fleet
from skyloom.rooms.serving.gateways import GatewayNeed
from skyloom.rooms.serving.model import Endpoint
from skyloom.rooms.serving.outlook import Outlook, revisions_of
from skyloom.rooms.serving.ports import GATEWAYS, REPLICAS, ReplicaFiles
from skyloom.rooms.serving.replicas import Heard
from skyloom.rooms.serving.routes import EndpointRoute, RoutingTable
from skyloom.rooms.serving.routing import route_of
from skyloom.rooms.serving.split import Front

log = logging.getLogger("skyloom.serving")


class RouteTables:
    """One table a project, published through `ReplicaFiles`."""

    def __init__(self, store: Store, clock: Clock, outlook: Outlook, heard: Heard, files: ReplicaFiles) -> None:
        self._store = store
        self._clock = clock
        self._outlook = outlook
        self._heard = heard
        self._files = files
        self._known: dict[str, RoutingTable] = {}
        self._remembered = False

    def publish(self, endpoints: Sequence[Endpoint]) -> dict[str, GatewayNeed]:
        """Write the tables of all projects that have a gateway or need one. Returns what the projects in need need.

        Args:
            endpoints: all that are not stopped, and those that still have replicas.
        """
        routed = self._store.read(lambda view: self._routed(view, endpoints))
        if not self._remembered:
            self._remember(routed)
        routes: dict[str, list[EndpointRoute]] = {project: [] for project in routed}
        needed: dict[str, GatewayNeed] = {}
        for project, found in routed.items():
            for endpoint in found:
                need = needed.get(project, GatewayNeed(endpoint.created_by, 1))
                needed[project] = need._replace(number=max(need.number, endpoint.num_gateways))
                route = self._route(endpoint, project)
                routes[project] += [route] if route else []
        for project, rows in routes.items():
            self._write(project, RoutingTable(routes=tuple(rows)))
        return needed

    def _routed(self, view: Snapshot, endpoints: Sequence[Endpoint]) -> dict[str, list[Endpoint]]:
        """Endpoints that a gateway stands before, or still does, by project; projects whose gateway lives have a line, empty or not."""
        private = {item.endpoint_id for item in view.select(REPLICAS, {"ended_at": None}) if item.private}
        found: dict[str, list[Endpoint]] = {
            gateway.project: [] for gateway in view.select(GATEWAYS, {"ended_at": None})
        }
        for endpoint in endpoints:
            if not endpoint.stopped_by and (endpoint.front is Front.GATEWAY or endpoint.id in private):
                found.setdefault(endpoint.project, []).append(endpoint)
        return found

    def _route(self, endpoint: Endpoint, project: str) -> EndpointRoute | None:
        try:
            return self._store.read(lambda view: self._row(view, endpoint))
        except Exception:
            log.exception("endpoint %s keeps its old row in the table of its gateway", endpoint.id)
            table = self._known.get(project, RoutingTable())
            return next((route for route in table.routes if route.endpoint == endpoint.id), None)

    def _row(self, view: Snapshot, endpoint: Endpoint) -> EndpointRoute | None:
        now_is = self._outlook.situation(view, endpoint)
        if not fleet.published(now_is):
            return None
        leaving = {replica.id for replica in fleet.reconcile(now_is, self._clock.now()).stop}
        access = self._files.access_path(endpoint.project)
        return route_of(now_is, revisions_of(view, endpoint), access, leaving)

    def _remember(self, routed: dict[str, list[Endpoint]]) -> None:
        """After a restart of the control plane, replicas are where the last table has them until they say so themselves."""
        ports: dict[str, int] = {}
        for project in routed:
            table = self._known[project] = self._files.read_routes(project)
            shares = [share for route in table.routes for share in route.shares]
            ports |= {backend.replica: backend.port for share in shares for backend in share.backends}
        self._heard.remember(ports)
        self._remembered = True

    def _write(self, project: str, table: RoutingTable) -> None:
        self._files.publish_routes(project, table)
        self._known[project] = table
