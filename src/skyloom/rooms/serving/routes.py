"""What a gateway is told: which replicas answer for which revision, and how requests are shared among them.

Replicas of a plain endpoint share its ports and need nobody in front. A gateway stands before endpoints where somebody has to choose or to
wait: traffic over several revisions, replicas that come and go with the load, none at all. The control plane writes the table, whole, when
it changes; the gateway reads it again, and goes on with what it knows while the control plane is away.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Id, Name
from skyloom.rooms.monitoring.model import Latency
from skyloom.rooms.serving.plan import LOOPBACK_NAMES, Limits, Port, Seconds

HeaderName = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,60}$(?!\n)", description="A header's name, in lower case.")]
HeaderValue = Annotated[str, Meta(pattern=r"^[ -~]{1,200}$(?!\n)")]
Weight = Annotated[float, Meta(ge=0, le=1_000_000)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that takes requests, at a port of its own. It answers gRPC calls there too, as HTTP/1.1."""

    replica: Id
    host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A revision's part of the traffic.

    Attributes:
        weight: its part, relative to the others'; 0 takes only what a header rule or a shadow sends.
        backends: its replicas that answer now; none while it is scaled to zero or starts.
    """

    revision: Id
    number: Annotated[int, Meta(ge=1)]
    weight: Weight = 1.0
    backends: Annotated[tuple[Backend, ...], Meta(max_length=1_000)] = ()


class HeaderRule(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose header has this value goes to this revision, whatever the weights say. The first rule that fits holds."""

    header: HeaderName
    value: HeaderValue
    revision: Id


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the requests is sent to this revision too; its answers are counted and thrown away."""

    revision: Id
    fraction: Fraction = 1.0


class EndpointRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint behind the gateway.

    Attributes:
        rest_port, grpc_port: where the gateway listens for it; 0 opens none.
        access_file: the `Access` list: who may predict, and so who may wake it.
        sticky_header: requests with the same value of this header go to the same revision as long as the weights stand; "" for none.
        hold_s: how long a request waits for a replica when there is none.
        max_held: requests that may wait so; beyond it 429.
        max_in_flight: requests that one replica gets at a time; when all have so many, the next ones wait here as if there were none.
    """

    endpoint: Id
    model: Name
    rest_port: Port
    grpc_port: Port
    access_file: str
    allowed_hosts: Annotated[tuple[str, ...], Meta(max_length=64)] = LOOPBACK_NAMES
    shares: Annotated[tuple[Share, ...], Meta(max_length=100)] = ()
    rules: Annotated[tuple[HeaderRule, ...], Meta(max_length=100)] = ()
    sticky_header: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,60}$(?!\n)")] = ""
    shadows: Annotated[tuple[Shadow, ...], Meta(max_length=10)] = ()
    hold_s: Seconds = 30.0
    max_held: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 256


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True):
    """All endpoints of one gateway."""

    routes: Annotated[tuple[EndpointRoute, ...], Meta(max_length=1_000)] = ()


class GatewayPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `python -m skyloom.inference.gateway PLAN.json` reads. Paths are absolute or relative to the plan file's folder.

    Attributes:
        routing_file: the `RoutingTable`; read again when it changes.
        port_folder: lock files by which processes of this machine agree who owns a port.
        ready_file: when not empty, `Listening` is written there once the gateway listens.
    """

    project: Name
    gateway: Id
    host: str = "127.0.0.1"
    routing_file: str
    port_folder: str
    ready_file: str = ""
    limits: Limits = Limits()


class RevisionTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway saw of one revision since it started, or since the revision came into its table; every number only grows.

    Attributes:
        requests: answered, whatever the answer. Those of a shadow are counted apart, as if it were an endpoint of its own.
        client_errors, server_errors: answers 4xx and 5xx (gRPC: by the matching code), requests that no replica answered included.
        latency: from the request's last byte at the gateway to the answer's first, waiting included.
    """

    requests: Count = 0
    client_errors: Count = 0
    server_errors: Count = 0
    latency: Latency = Latency()


class RouteTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway sees at one endpoint.

    Attributes:
        arrived: requests that came since it started; only grows.
        in_flight: sent to a replica and not answered now.
        held: waiting for a replica now; ``oldest_held_s`` is how long the first of them waits.
        mean_in_flight: requests in the system (held or in flight), averaged over the time since the last report.
        queue_delay_s: median time that requests waited for a free replica since the last report.
        revisions, shadows: by revision id.
    """

    endpoint: Id
    arrived: Count = 0
    in_flight: Count = 0
    held: Count = 0
    oldest_held_s: Annotated[float, Meta(ge=0)] = 0.0
    mean_in_flight: Annotated[float, Meta(ge=0)] = 0.0
    queue_delay_s: Annotated[float, Meta(ge=0)] = 0.0
    revisions: Annotated[dict[Id, RevisionTraffic], Meta(max_length=100)] = {}
    shadows: Annotated[dict[Id, RevisionTraffic], Meta(max_length=100)] = {}
