"""Nouns of serving: an endpoint is a model under an address, a revision is what it serves, a replica is a job that serves it.

What an endpoint is doing is derived from its replicas and their jobs (`rules.state_of`), never stored. Stored are only decisions: what was
asked for, which replicas were started, and which of them were told to stop.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Digest, Id, Limit, Name, RelativePath
from skyloom.core.errors import Denied, InvalidInput, NotFound
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.environment import PythonEnvironment
from skyloom.ports.store import Record
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.secrets.model import SecretUse
from skyloom.rooms.serving.offer import CacheRule, LaneRule
from skyloom.rooms.serving.pack import (
    MAX_PACKED,
    GuestReport,
    GuestTraffic,
    Names,
    NumLoaded,
    Pack,
    PackBytes,
    References,
)
from skyloom.rooms.serving.plan import Port
from skyloom.rooms.serving.predictions import Prediction
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.rooms.serving.scaling import Autoscaling, ScaleNote
from skyloom.rooms.serving.split import Canary, CanaryPlan, Fallback, Front, RevisionResult, TrafficSplit

NumGateways = Annotated[int, Meta(ge=1, le=4)]


class EndpointMissing(NotFound):
    """No such endpoint in this project."""


class SecretsForNobody(InvalidInput):
    """A deployment names secrets that nothing of it would read."""


class NotAReplica(Denied):
    """Only a replica itself may report what it saw."""


class NotAGateway(Denied):
    """Only a gateway itself may report what it saw."""


class EndpointState(enum.StrEnum):
    """What an endpoint as a whole is doing; always derived."""

    STARTING = "starting"  # no replica answers yet
    READY = "ready"  # as many replicas of the newest revision answer as were asked for
    DEGRADED = "degraded"  # it answers, with fewer replicas than asked for or while a new revision starts
    CRASH_LOOP = "crash_loop"  # replicas of the newest revision end again and again
    STOPPING = "stopping"
    STOPPED = "stopped"


class ReplicaState(enum.StrEnum):
    """What one replica is doing; derived from its record, its job and its reports."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


class Endpoint(Record, frozen=True, kw_only=True):
    """A model under an address, as it was asked for.

    Attributes:
        model: name of the registered model.
        revision: number of the newest revision, from 1.
        num_replicas: how many should answer; with ``scaling``, what was decided last, and 0 while it sleeps.
        rest_port, grpc_port: the replicas share them; chosen by the loop, once, and kept; 0 until then.
        stopped_by: who stopped it, or "".
        split: how its traffic is shared now; None while the newest revision has all of it.
        coming: the split that takes over as soon as its replicas answer.
        fallback: where `endpoints.rollback` goes.
        front: who is to listen at its ports.
        scaling: how ``num_replicas`` follows the load; None keeps it as it was asked for.
        lanes: of the newest revision.
        pack: models that its replicas serve beside this one; None while it never had any.
        num_gateways: how many processes stand before it, where it needs one at all; they share its ports.
    """

    name: str
    model: str
    revision: int
    num_replicas: int
    rest_port: int = 0
    grpc_port: int = 0
    created_at: float
    created_by: str
    stopped_by: str = ""
    split: TrafficSplit | None = None
    coming: TrafficSplit | None = None
    fallback: Fallback | None = None
    front: Front = Front.DIRECT
    scaling: Autoscaling | None = None
    lanes: LaneRule | None = None
    pack: Pack | None = None
    num_gateways: NumGateways = 1

    @property
    def in_force(self) -> TrafficSplit:
        """How its traffic is shared now."""
        return self.split or TrafficSplit(shares={max(1, self.revision): 1.0})

    @property
    def current(self) -> int:
        """Number of the revision that has all the traffic; of several, of the newest."""
        return self.in_force.sole or self.revision


class Revision(Record, frozen=True, kw_only=True):
    """What an endpoint serves, or served. It never changes.

    Attributes:
        number: from 1, per endpoint.
        model: name of the registered model, which may be another one than that of an earlier revision; "" where it was not kept yet.
        model_version: id of the registered version.
        version_label: the version's name on the wire (``/v2/models/{model}/versions/{label}``).
        resources: of each replica.
        files: the bundle: path → digest, its manifest included.
        profile: digest of the profile that live traffic is compared with, or "".
        python: packages that a service's process needs beside those of the pool.
        picture_urls: pictures may be named by their addresses.
        secrets: which of the project's secrets a service's process gets.
    """

    endpoint_id: str
    number: int
    model: str = ""
    model_version: str
    version_label: str
    resources: Resources
    files: dict[RelativePath, Digest]
    profile: str = ""
    python: PythonEnvironment | None = None
    picture_urls: bool = False
    secrets: tuple[SecretUse, ...] = ()
    cache: CacheRule | None = None
    lanes: LaneRule | None = None
    created_at: float


class Replica(Record, frozen=True, kw_only=True):
    """One process that serves one revision. It is made together with its job, in one transaction.

    Attributes:
        private: it stands behind a gateway, at a port of its own.
        stopped_at: when it was told to stop; None while it should serve.
        ended_at: when its job was seen to be over.
        failed: it ended without having been told to.
        worked: it answered until it ended, as far as is known.
        message: why it ended, with its last words.
    """

    endpoint_id: str
    revision_id: str
    revision_number: int
    job_id: str
    private: bool = False
    created_at: float
    stopped_at: float | None = None
    ended_at: float | None = None
    failed: bool = False
    worked: bool = False
    message: str = ""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A replica and what has become of it.

    Attributes:
        guests: the models of its pack that were ever asked for.
    """

    replica: Replica
    state: ReplicaState
    requests: int = 0
    guests: tuple[GuestReport, ...] = ()


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint and what it is doing.

    Attributes:
        message, next_action: why it is not READY and what to do; empty when there is nothing to say.
        url: of the Open Inference Protocol over REST; ``grpc_address`` is host and port of the other wire.
        revisions: newest first.
        replicas: the live ones, and the newest that failed.
        traffic: of the live replicas of the newest revision, added up; their histograms are monitoring's.
        shares: how each revision does that is sent traffic, while a gateway shares it out.
        canary: the newest one, live or not.
        scale: why it has as many replicas as it has; None without a scaling.
    """

    endpoint: Endpoint
    state: EndpointState
    message: str = ""
    next_action: str = ""
    url: str = ""
    grpc_address: str = ""
    revisions: tuple[Revision, ...] = ()
    replicas: tuple[ReplicaStatus, ...] = ()
    traffic: Traffic = Traffic()
    shares: tuple[RevisionResult, ...] = ()
    canary: Canary | None = None
    scale: ScaleNote | None = None


class PredictionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction that was made, and by what."""

    prediction: Prediction
    endpoint: Endpoint
    revision: Revision
    replica: Replica


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane has heard a replica, or a gateway.

    Attributes:
        stop: it is not wanted any more; it drains and ends.
    """

    stop: bool = False


@operation("endpoints.deploy", Right.RUN, "POST /endpoints")
class Deploy(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Serve a model version, or give a living endpoint a new revision. Replicas of the new one answer before old ones stop.

    Attributes:
        model: name of a registered model.
        version: a version's number, id or alias; empty for the newest.
        name: of the endpoint; empty for the model's name.
        num_replicas, resources: None keeps what the endpoint has (for a new one: 1 replica, half a CPU, 512 MiB and three times the model).
        hold: the new revision gets no traffic and no replicas until `endpoints.route` sends it some.
        canary: the new revision gets its traffic step by step, and goes back when it is worse than the one that has it now.
        scaling: None keeps what the endpoint has, but a ``num_replicas`` without it ends scaling; together, it begins with so many.
        picture_urls: pictures may be named by ``http`` addresses, which replicas fetch; None keeps what the endpoint has, at first False.
        secrets: which of the project's secrets a service gets; None keeps what the newest revision has.
        cache, lanes: None keeps what the newest revision has.
        num_gateways: None keeps what the endpoint has (for a new one: 1). A project has as many as the one of its endpoints that asks for
            most; with two, one that dies is not missed.
    """

    model: Name
    version: Annotated[str, Meta(max_length=120)] = ""
    name: Name | None = None
    num_replicas: Annotated[int, Meta(ge=1, le=100)] | None = None
    resources: Resources | None = None
    hold: bool = False
    canary: CanaryPlan | None = None
    scaling: Autoscaling | None = None
    picture_urls: bool | None = None
    secrets: Annotated[tuple[SecretUse, ...], Meta(max_length=20)] | None = None
    cache: CacheRule | None = None
    lanes: LaneRule | None = None
    num_gateways: NumGateways | None = None


@operation("endpoints.list", Right.READ, "GET /endpoints")
class ListEndpoints(Operation[Page[EndpointStatus]], frozen=True, kw_only=True):
    """List endpoints, newest first."""

    limit: Limit = 50
    cursor: Cursor | None = None
    live: bool = False


@operation("endpoints.get", Right.READ, "GET /endpoints/{name}")
class GetEndpoint(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Show one endpoint by its name or id."""

    name: Id


@operation("endpoints.stop", Right.RUN, "POST /endpoints/{name}/stop")
class StopEndpoint(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Stop an endpoint: its replicas finish what they have and end. Safe to repeat."""

    name: Id


@operation("endpoints.pack", Right.RUN, "POST /endpoints/{name}/pack")
class PackModels(Operation[EndpointStatus], frozen=True, kw_only=True):
    """Let an endpoint serve more models of the registry under their names, loaded when they are asked for. No replica starts anew.

    Attributes:
        add: ``MODEL`` or ``MODEL:VERSION``, a version being a number or an alias; the version that it means now stays until the model is
            added again.
        remove: names; one that is not there is no error.
        memory_bytes, max_loaded: bounds of what each replica has in memory of them; None keeps what they are.
    """

    name: Id
    add: References = ()
    remove: Names = ()
    memory_bytes: PackBytes | None = None
    max_loaded: NumLoaded | None = None


@operation("endpoints.report", Right.WRITE, "POST /endpoints/{name}/traffic", audited=False)
class ReportTraffic(Operation[Reported], frozen=True, kw_only=True):
    """Told by a replica about itself, every second. Its numbers only grow, so a lost report loses nothing.

    Attributes:
        name: id of the endpoint.
        ready: it takes requests.
        rest_port, grpc_port: where it listens.
        guests: the models of its pack that were ever asked for; ``guest_traffic`` is what those saw that have news.
        gpu: share of their time in which its GPUs were busy lately, by whomever; None where it has none, or nothing reads it.
    """

    name: Id
    replica: Id
    revision: Id
    ready: bool
    rest_port: Port = 0
    grpc_port: Port = 0
    traffic: Traffic
    guests: Annotated[tuple[GuestReport, ...], Meta(max_length=MAX_PACKED)] = ()
    guest_traffic: Annotated[tuple[GuestTraffic, ...], Meta(max_length=MAX_PACKED)] = ()
    gpu: Annotated[float, Meta(ge=0, le=1)] | None = None


@operation("endpoints.report_routes", Right.WRITE, "POST /gateways/{gateway}/traffic", audited=False)
class ReportRoutes(Operation[Reported], frozen=True, kw_only=True):
    """Told by a gateway about itself: every second, and at once when a request begins to wait where no replica is.

    Attributes:
        gateway: its id, as its plan has it.
        ready: it takes requests.
        routes: one per endpoint of its table that it listens for.
    """

    gateway: Id
    ready: bool
    routes: Annotated[tuple[RouteTraffic, ...], Meta(max_length=1_000)] = ()


@operation("predictions.find", Right.READ, "GET /predictions/{prediction_id}")
class FindPrediction(Operation[PredictionRecord], frozen=True, kw_only=True):
    """Find one prediction in the request logs, and the endpoint, revision and replica that made it."""

    prediction_id: Id


OPERATIONS = (Deploy, ListEndpoints, GetEndpoint, StopEndpoint, PackModels, ReportTraffic, ReportRoutes, FindPrediction)
