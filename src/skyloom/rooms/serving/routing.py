"""Pure: from what an endpoint is to what its gateway is told."""

from collections.abc import Mapping, Set

from skyloom.rooms.serving.model import Revision
from skyloom.rooms.serving.routes import Backend, EndpointRoute, HeaderRule, Shadow, Share
from skyloom.rooms.serving.rules import Seen, Situation

SILENT_BACKEND_S = 10.0


def route_of(
    now_is: Situation, revisions: Mapping[int, Revision], access_file: str, leaving: Set[str] = frozenset()
) -> EndpointRoute:
    """The row of an endpoint in its gateway's table, by the split in force.

    Args:
        revisions: by number, all that the split names.
        leaving: ids of replicas that are being told to stop: they leave the table first.
    """
    endpoint = now_is.endpoint
    split = endpoint.in_force
    backends = _backends(now_is, leaving)
    named = sorted((split.used | set(split.shares)) & set(revisions))
    shares = effective(split.shares, {number for number in named if backends.get(number)})
    return EndpointRoute(
        endpoint=endpoint.id,
        model=endpoint.model,
        rest_port=endpoint.rest_port,
        grpc_port=endpoint.grpc_port,
        access_file=access_file,
        shares=tuple(
            Share(
                revision=revisions[number].id,
                number=number,
                weight=shares.get(number, 0.0),
                backends=backends.get(number, ()),
            )
            for number in named
        ),
        rules=tuple(
            HeaderRule(header=rule.header, value=rule.value, revision=revisions[rule.revision].id)
            for rule in split.rules
            if rule.revision in revisions
        ),
        sticky_header=split.sticky_header,
        shadows=tuple(
            Shadow(revision=revisions[number].id, fraction=part)
            for number, part in sorted(split.shadows.items())
            if part > 0 and backends.get(number)
        ),
    )


def effective(shares: Mapping[int, float], answering: Set[int]) -> dict[int, float]:
    """Weights by which requests really are shared: a revision of which nobody answers leaves its part to the others, if there are any."""
    if not any(weight > 0 and number in answering for number, weight in shares.items()):
        return dict(shares)  # nobody answers: requests wait, for whom they were meant
    return {number: weight if number in answering else 0.0 for number, weight in shares.items()}


def is_backend(item: Seen) -> bool:
    """It takes requests, as far as is known. For a moment silence proves nothing: after a restart of the control plane all are silent."""
    return item.wanted and item.replica.private and item.port > 0 and item.silent_s < SILENT_BACKEND_S


def _backends(now_is: Situation, leaving: Set[str]) -> dict[int, tuple[Backend, ...]]:
    staying = [item for item in now_is.seen if item.replica.id not in leaving]
    fit = [item for item in staying if is_backend(item)]
    if not fit:
        # All of them silent at once is the control plane's fault, not theirs: the gateway finds out by itself who is gone.
        fit = [item for item in staying if item.wanted and item.replica.private and item.port > 0]
    found: dict[int, tuple[Backend, ...]] = {}
    for item in sorted(fit, key=lambda item: item.replica.id):
        backend = Backend(replica=item.replica.id, port=item.port)
        found[item.replica.revision_number] = (*found.get(item.replica.revision_number, ()), backend)
    return found
