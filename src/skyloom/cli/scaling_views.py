"""What people want to see of scaling: policies side by side."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.wording import NOTHING, duration
from skyloom.rooms.serving.model import Endpoint, EndpointStatus
from skyloom.rooms.serving.scaling import UNITS
from skyloom.simulation.autoscaling import ScalingReport, ScalingRow


def _share(share: float) -> str:
    return f"{share * 100:.2f}%"


def _say_goal(report: ScalingReport) -> str:
    if report.goal.latency_s is not None:
        return f"answered within {duration(report.goal.latency_s)}"
    return f"waits no longer than {duration(report.goal.wait_s)}"


def _say_requests(report: ScalingReport) -> str:
    return f"{report.num_requests:,} over {duration(report.span_s)}, {duration(report.mean_service_s)} each on average"


def _say_replica(report: ScalingReport) -> str:
    return f"answers {report.concurrency:,} at once, starts in {duration(report.cold_start_s)}"


def _say_optimum(report: ScalingReport) -> str:
    needed = f"{report.needed_at_once:,} at once"
    return f"{duration(report.optimum_replica_s)} of replicas, {needed}: nobody waits, all known before"


def say_scaling(endpoint: Endpoint) -> str:
    """How an endpoint's size follows its load, and what it is now."""
    scaling = endpoint.scaling
    if scaling is None:
        return NOTHING
    now = "asleep" if endpoint.num_replicas == 0 else f"{endpoint.num_replicas} now"
    return (
        f"{scaling.min_replicas} to {scaling.max_replicas} replicas, {now}; "
        f"{scaling.signal.value.replace('_', ' ')} of {scaling.target:g} each over {duration(scaling.window_s)}"
    )


def say_load(status: EndpointStatus) -> str:
    """What was seen of its load, and how many replicas that alone needs."""
    note, scaling = status.scale, status.endpoint.scaling
    if note is None or scaling is None:
        return NOTHING
    if note.seen is None:
        return "nothing was seen yet"
    unit = UNITS[scaling.signal]
    words = f"{note.seen:.3g} {unit} over {duration(scaling.window_s)}"
    if note.burst is not None:
        words += f", {note.burst:.3g} over the last {duration(scaling.panic_window_s)}"
    words += f"; target {scaling.target:g}" + (" each" if scaling.signal.adds_up else "")
    return words if note.needed is None else f"{words}, so {note.needed:,} needed"


def say_bounds(status: EndpointStatus) -> str:
    """The least and the most that is allowed now, and what wants the least."""
    note, scaling = status.scale, status.endpoint.scaling
    if note is None or scaling is None:
        return NOTHING
    why = f" ({note.floor_why.rstrip('.')})" if note.floor > scaling.min_replicas else ""
    return f"{note.floor:,}{why} to {scaling.max_replicas:,}"


def say_next(status: EndpointStatus) -> str:
    """What the mere passing of time will change."""
    note = status.scale
    if note is None:
        return NOTHING
    words = []
    if note.panic_until is not None:
        words.append(f"after the burst, none is taken away for {duration(max(0.0, note.panic_until - note.at))}")
    if note.delay_until is not None:
        words.append(f"another number in {duration(max(0.0, note.delay_until - note.at))}, if it is still right")
    if note.sleeps_at is not None and note.sleeps_at > note.at:  # else something holds it back, which the decision says
        words.append(f"asleep in {duration(max(0.0, note.sleeps_at - note.at))}, if nobody asks")
    return "; ".join(words) or NOTHING


def say_gateways(status: EndpointStatus) -> str:
    """How many gateways stand before it when it needs one, where that is worth a word."""
    count = status.endpoint.num_gateways
    return NOTHING if count == 1 else f"{count:,}, where one is needed"


SCALING_COLUMNS: Mapping[type, Sequence[Column]] = {
    ScalingRow: (
        of("policy"),
        Column("in time", lambda row: _share(row.in_time)),
        of("p50_latency_s", "p50"),
        of("p95_latency_s", "p95"),
        of("p99_latency_s", "p99"),
        of("p99_wait_s", "p99 wait"),
        of("num_cold", "met none"),
        of("num_starts", "starts"),
        of("replica_s", "replica time"),
        Column("of optimum", lambda row: f"{row.over_optimum:.2f}"),
        of("num_moves", "moves"),
        of("num_turns", "turns"),
        of("peak"),
    ),
}

SCALING_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    ScalingReport: (
        (
            of("log"),
            Column("requests", _say_requests),
            Column("a replica", _say_replica),
            Column("in time is who", _say_goal),
            Column("optimum", _say_optimum),
            Column("least work", lambda report: f"{duration(report.work_replica_s)} of replicas, whatever waits"),
        ),
        ("rows", "what_if"),
    ),
}
