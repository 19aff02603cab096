"""What endpoints are doing now: put together from their records, the jobs of their replicas, and what the replicas say."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from skyloom.ports.clock import Clock
from skyloom.ports.store import Not, Snapshot, Where
from skyloom.rooms.jobs.model import JobMissing, Reason
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.monitoring.windows import merge_traffic
from skyloom.rooms.quality.reading import counts_since
from skyloom.rooms.serving import fleet, model, rules
from skyloom.rooms.serving.change import GatewayRun
from skyloom.rooms.serving.comparing import results_of
from skyloom.rooms.serving.model import Endpoint, EndpointStatus, Replica, Revision
from skyloom.rooms.serving.ports import CANARIES, GATEWAYS, REPLICAS, REVISIONS, TALLIES
from skyloom.rooms.serving.replicas import Heard, RoutesHeard
from skyloom.rooms.serving.split import Front, RevisionResult
from skyloom.rooms.serving.tallying import ByGateway, counted_by, since_split

_MAX_SHOWN, _MAX_FAILURES = 10, 100
_LABELLED_S = 30 * 86_400.0


class Outlook:
    """Looks at endpoints inside a snapshot; changes nothing."""

    def __init__(self, clock: Clock, jobs: Jobs, heard: Heard, routes: RoutesHeard) -> None:
        self._clock = clock
        self._jobs = jobs
        self._heard = heard
        self._routes = routes

    def status(self, view: Snapshot, endpoint: Endpoint) -> EndpointStatus:
        """An endpoint and what it is doing."""
        situation = self.situation(view, endpoint)
        state, message, next_action = fleet.state_of(situation, self._clock.now())
        shown = [
            model.ReplicaStatus(
                replica=item.replica,
                state=item.state,
                requests=self._heard.traffic(item.replica.id).requests,
                guests=self._heard.guests(item.replica.id),
            )
            for item in situation.seen
        ]
        shown += [
            model.ReplicaStatus(replica=replica, state=model.ReplicaState.ENDED)
            for replica in situation.failures[-_MAX_SHOWN:]
        ]
        traffic = Traffic()
        for item in situation.seen:
            if item.replica.revision_number == endpoint.current:
                traffic = merge_traffic(traffic, _without_histograms(self._heard.traffic(item.replica.id)))
        revisions = view.select(
            REVISIONS, {"endpoint_id": endpoint.id}, order="number", newest_first=True, limit=_MAX_SHOWN
        )
        return EndpointStatus(
            endpoint=endpoint,
            state=state,
            message=message,
            next_action=next_action,
            url=url_of(endpoint),
            grpc_address=f"127.0.0.1:{endpoint.grpc_port}" if endpoint.grpc_port else "",
            revisions=tuple(revisions),
            replicas=tuple(shown),
            traffic=traffic,
            shares=self.results(view, situation)[0],
            canary=situation.canary,
        )

    def results(
        self, view: Snapshot, situation: rules.Situation, labelled: bool = False
    ) -> tuple[tuple[RevisionResult, ...], float]:
        """How the revisions do that share the traffic, and since when that was counted; none while the replicas have the ports.

        Args:
            labelled: also what labels say, of answers of the last month at most.
        """
        endpoint = situation.endpoint
        tally = view.get(TALLIES, endpoint.id)
        if endpoint.front is Front.DIRECT or tally is None:
            return (), endpoint.created_at
        counted = self.counted(view, endpoint)
        answering = Counter(item.replica.revision_number for item in situation.seen if item.answers)
        found = revisions_of(view, endpoint)
        now = self._clock.now()
        labels = counts_since(view, endpoint.id, max(tally.since, now - _LABELLED_S), now) if labelled else {}
        return results_of(endpoint, found, since_split(tally, counted), answering, labels), tally.since

    def counted(self, view: Snapshot, endpoint: Endpoint) -> ByGateway:
        """The gateways that stand before an endpoint, and what each has counted since it began."""
        project = endpoint.project
        names = [gateway.id for gateway in gateways_of(view, project)]
        return {name: counted_by(self._routes.traffic(project, name).get(endpoint.id)) for name in names}

    def _listens(self, view: Snapshot, endpoint: Endpoint) -> bool:
        """A gateway listens at its ports; of several that share them, one is enough."""
        project = endpoint.project
        return any(
            self._routes.ready(project, gateway.id) and endpoint.id in self._routes.traffic(project, gateway.id)
            for gateway in gateways_of(view, project)
        )

    def situation(self, view: Snapshot, endpoint: Endpoint) -> rules.Situation:
        """Everything that a decision about an endpoint needs."""
        live = view.select(REPLICAS, {"endpoint_id": endpoint.id, "ended_at": None})
        failed: Where = {"endpoint_id": endpoint.id, "failed": True, "ended_at": Not((None,))}
        failures = view.select(REPLICAS, failed, newest_first=True, limit=_MAX_FAILURES)[::-1]
        canaries = view.select(CANARIES, {"endpoint_id": endpoint.id}, newest_first=True, limit=1)
        return rules.Situation(
            endpoint,
            [self._seen(view, replica) for replica in live],
            failures,
            listens=_gateway_matters(endpoint, live) and self._listens(view, endpoint),
            canary=canaries[0] if canaries else None,
        )

    def _seen(self, view: Snapshot, replica: Replica) -> rules.Seen:
        try:
            status = self._jobs.status(view, replica.job_id, replica.project)
        except JobMissing:
            return rules.Seen(replica, None, last_words="Its job is gone.")
        running_s = max(0.0, self._clock.now() - status.started_at) if status.started_at else 0.0
        return rules.Seen(
            replica,
            status.state,
            ready=self._heard.ready(replica.id),
            silent_s=self._heard.silent_s(replica.id, running_s),
            waits=status.reason is Reason.WAITING_FOR_RESOURCES,
            last_words=status.message,
            port=self._heard.port(replica.id),
            gpu=self._heard.gpu(replica.id),
        )


def gateways_of(view: Snapshot, project: str) -> list[GatewayRun]:
    """The gateways of a project that are neither over nor told to stop."""
    found = view.select(GATEWAYS, {"project": project, "ended_at": None})
    return [gateway for gateway in found if gateway.stopped_at is None]


def url_of(endpoint: Endpoint) -> str:
    """Where an endpoint is asked, over REST, on this machine; "" until it has a port."""
    return f"http://127.0.0.1:{endpoint.rest_port}" if endpoint.rest_port else ""


def revisions_of(view: Snapshot, endpoint: Endpoint) -> dict[int, Revision]:
    """The revisions of an endpoint that anything is sent to, or will be, by number."""
    splits = [split for split in (endpoint.in_force, endpoint.coming) if split is not None]
    numbers = {number for split in splits for number in split.used | set(split.shares)}
    if endpoint.fallback is not None:
        numbers.add(endpoint.fallback.number)
    found = view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": tuple(sorted(numbers))})
    return {revision.number: revision for revision in found}


def newest_revision(view: Snapshot, endpoint: Endpoint) -> Revision | None:
    """What an endpoint serves, or is to serve."""
    found = view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": endpoint.revision}, limit=1)
    return found[0] if found else None


def _without_histograms(traffic: Traffic) -> Traffic:
    return msgspec.structs.replace(traffic, histograms=())


def _gateway_matters(endpoint: Endpoint, live: Sequence[Replica]) -> bool:
    """A plain endpoint asks for no gateway, and costs no look at one."""
    return endpoint.front is Front.GATEWAY or any(replica.private for replica in live)
