"""How shared traffic is shown: revisions side by side, canaries, splits in words."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import NOTHING, human, moment, safe
from skyloom.rooms.serving.model import EndpointStatus, ReplicaStatus
from skyloom.rooms.serving.pack import GuestState
from skyloom.rooms.serving.split import Comparison, RevisionResult, SplitVerdict


def canary_words(status: EndpointStatus) -> str:
    """The newest canary, and what was last said of it."""
    canary = status.canary
    if canary is None:
        return NOTHING
    place = f", step {canary.step + 1} of {canary.plan.num_steps}" if canary.live else ""
    place += "" if canary.ended_at is None else f" at {moment(canary.ended_at)}"
    return f"revision {canary.number}: {canary.state.value.replace('_', ' ')}{place}. {safe(canary.message)}"


def pack_words(status: EndpointStatus) -> str:
    """The models that it serves beside its own."""
    pack = status.endpoint.pack
    if pack is None:
        return NOTHING
    names = ", ".join(f"{packed.model}:{packed.label}" for packed in pack.models) or "nothing"
    size = f"{pack.memory_bytes / 2**20:.0f} MiB" if pack.memory_bytes else "half of a replica's memory"
    return f"{safe(names)} (at once up to {pack.max_loaded}, and {size})"


def guest_words(status: ReplicaStatus) -> str:
    """What it has in memory of its pack, and what is broken."""
    told = [guest for guest in status.guests if guest.state is not GuestState.ABSENT]
    words = [f"{guest.model} {guest.state.value} {guest.memory_bytes / 2**20:.1f} MiB" for guest in told]
    return safe(", ".join(words)) or NOTHING


def coming_words(status: EndpointStatus) -> str:
    """The split that takes over as soon as its replicas answer."""
    coming = status.endpoint.coming
    if coming is None:
        return NOTHING
    return ", ".join(f"{part:.1%} to revision {number}" for number, part in coming.weighted.items())


def _interval(line: RevisionResult) -> str:
    if not line.requests:
        return NOTHING
    return f"{human('error_rate', line.error_rate_low)} to {human('error_rate', line.error_rate_high)}"


def _share(line: RevisionResult) -> str:
    return "shadow" if line.shadow else human("_share", line.share)


TRAFFIC_COLUMNS: Mapping[type, Sequence[Column]] = {
    RevisionResult: (
        of("number", "revision"),
        of("version_label", "model version"),
        Column("share", _share, "share"),
        of("replicas"),
        of("requests"),
        of("server_errors", "errors"),
        of("error_rate"),
        Column("error rate, 95% sure", _interval, "error_rate_low"),
        of("latency_p50_s", "p50"),
        of("latency_p99_s", "p99"),
        of("labelled", "labels"),
        of("wrong_rate", "wrong"),
    ),
    SplitVerdict: (of("number", "revision"), of("baseline", "against"), of("message", "verdict")),
}
TRAFFIC_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    Comparison: (
        (
            of("endpoint_name", "endpoint"),
            of("baseline", "baseline revision"),
            Column("since", lambda comparison: moment(comparison.since), "since"),
        ),
        ("revisions", "verdicts"),
    ),
}
