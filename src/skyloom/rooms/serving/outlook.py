"""What endpoints are doing now: put together from their records, the jobs of their replicas, and what the replicas say."""

import msgspec

from skyloom.ports.clock import Clock
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs.model import JobMissing, Reason
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.monitoring.windows import merge_traffic
from skyloom.rooms.serving import model, rules
from skyloom.rooms.serving.model import Endpoint, EndpointStatus, Replica, Revision
from skyloom.rooms.serving.ports import REPLICAS, REVISIONS
from skyloom.rooms.serving.replicas import Heard

_MAX_SHOWN = 10


class Outlook:
    """Looks at endpoints inside a snapshot; changes nothing."""

    def __init__(self, clock: Clock, jobs: Jobs, heard: Heard) -> None:
        self._clock = clock
        self._jobs = jobs
        self._heard = heard

    def status(self, view: Snapshot, endpoint: Endpoint) -> EndpointStatus:
        """An endpoint and what it is doing."""
        situation = self.situation(view, endpoint)
        state, message, next_action = rules.state_of(situation, self._clock.now())
        shown = [
            model.ReplicaStatus(
                replica=item.replica, state=item.state, requests=self._heard.traffic(item.replica.id).requests
            )
            for item in situation.seen
        ]
        shown += [
            model.ReplicaStatus(replica=replica, state=model.ReplicaState.ENDED)
            for replica in situation.failures[-_MAX_SHOWN:]
        ]
        traffic = Traffic()
        for item in situation.seen:
            if item.replica.revision_number == endpoint.revision:
                traffic = merge_traffic(traffic, _without_histograms(self._heard.traffic(item.replica.id)))
        revisions = view.select(
            REVISIONS, {"endpoint_id": endpoint.id}, order="number", newest_first=True, limit=_MAX_SHOWN
        )
        return EndpointStatus(
            endpoint=endpoint,
            state=state,
            message=message,
            next_action=next_action,
            url=f"http://127.0.0.1:{endpoint.rest_port}" if endpoint.rest_port else "",
            grpc_address=f"127.0.0.1:{endpoint.grpc_port}" if endpoint.grpc_port else "",
            revisions=tuple(revisions),
            replicas=tuple(shown),
            traffic=traffic,
        )

    def situation(self, view: Snapshot, endpoint: Endpoint) -> rules.Situation:
        """Everything that a decision about an endpoint needs."""
        live = view.select(REPLICAS, {"endpoint_id": endpoint.id, "ended_at": None})
        over = view.select(REPLICAS, {"endpoint_id": endpoint.id}, newest_first=True, limit=100)
        failures = [replica for replica in reversed(over) if replica.failed and replica.ended_at is not None]
        return rules.Situation(endpoint, [self._seen(view, replica) for replica in live], failures)

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
        )


def newest_revision(view: Snapshot, endpoint: Endpoint) -> Revision | None:
    """What an endpoint serves, or is to serve."""
    found = view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": endpoint.revision}, limit=1)
    return found[0] if found else None


def _without_histograms(traffic: Traffic) -> Traffic:
    return msgspec.structs.replace(traffic, histograms=())
