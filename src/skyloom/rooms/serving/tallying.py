"""Pure: adding up what gateways count, since a split came into force. See `split.SplitTally`."""

from collections.abc import Collection, Mapping

from skyloom.ports.store import changed
from skyloom.rooms.monitoring.model import Latency
from skyloom.rooms.serving.routes import RevisionTraffic, RouteTraffic
from skyloom.rooms.serving.split import SplitTally

Counted = Mapping[str, RevisionTraffic]
ByGateway = Mapping[str, Counted]
_SHADOW = "shadow:"


def shadow_key(revision_id: str) -> str:
    """The key of what a revision was asked as a shadow."""
    return _SHADOW + revision_id


def counted_by(route: RouteTraffic | None) -> dict[str, RevisionTraffic]:
    """What a gateway has counted for one endpoint, by revision, those of shadows under keys of their own."""
    if route is None:
        return {}
    shadows = {shadow_key(revision): seen for revision, seen in route.shadows.items()}
    return {**route.revisions, **shadows}


def since_split(tally: SplitTally, counted: ByGateway) -> Counted:
    """What was counted since the split came into force."""
    found: Counted = tally.carried
    for gateway, seen in counted.items():
        base = tally.bases.get(gateway, {})
        found = _added(found, {key: _less(now, base.get(key, RevisionTraffic())) for key, now in seen.items()})
    return found


def handed_on(tally: SplitTally, gateways: Collection[str], last_counted: ByGateway) -> SplitTally:
    """The tally once these gateways count; new ones begin at 0. ``last_counted`` is what those before are known to have counted."""
    gone = {gateway: last_counted.get(gateway, {}) for gateway in tally.bases if gateway not in gateways}
    bases = {gateway: tally.bases.get(gateway, {}) for gateway in gateways}
    return changed(tally, {"bases": bases, "carried": dict(since_split(tally, gone))})


def _added(first: Counted, second: Counted) -> dict[str, RevisionTraffic]:
    empty = RevisionTraffic()
    return {key: _plus(first.get(key, empty), second.get(key, empty)) for key in sorted(first.keys() | second.keys())}


def _plus(first: RevisionTraffic, second: RevisionTraffic) -> RevisionTraffic:
    places = first.latency.counts.keys() | second.latency.counts.keys()
    counts = {place: first.latency.counts.get(place, 0) + second.latency.counts.get(place, 0) for place in places}
    return RevisionTraffic(
        requests=first.requests + second.requests,
        client_errors=first.client_errors + second.client_errors,
        server_errors=first.server_errors + second.server_errors,
        latency=Latency(counts=dict(sorted(counts.items()))),
    )


def _less(now: RevisionTraffic, before: RevisionTraffic) -> RevisionTraffic:
    counts = {place: count - before.latency.counts.get(place, 0) for place, count in now.latency.counts.items()}
    return RevisionTraffic(
        requests=max(0, now.requests - before.requests),
        client_errors=max(0, now.client_errors - before.client_errors),
        server_errors=max(0, now.server_errors - before.server_errors),
        latency=Latency(counts={place: count for place, count in sorted(counts.items()) if count > 0}),
    )
