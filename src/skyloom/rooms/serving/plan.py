"""What one replica is told: the file that `python -m skyloom.inference PLAN.json` reads, and the list of tokens beside it."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Id, Name
from skyloom.rooms.serving.offer import CacheRule, LaneRule

Seconds = Annotated[float, Meta(gt=0, le=3_600)]
Port = Annotated[int, Meta(ge=0, le=65_535)]

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the data plane. Beyond one the answer is a clear 4xx; nothing is cut silently.

    Attributes:
        max_header_bytes, max_headers: of one request, names and values together.
        max_body_bytes: of one REST body or one gRPC message.
        max_connections: REST connections of one replica.
        max_pipelined: requests of one connection that may wait for their answers.
        max_request_rows: rows of one request.
        max_batch_rows: rows of several requests that may travel together through the model.
        max_queue_rows, max_queue_bytes: rows that may wait for the model, and what their tensors may hold.
        max_unread_bytes: of all bodies together that are still coming in; and of all answers together that their clients do not take.
            Beyond it, small ones still come and go.
        timeout_s: a request that would wait longer than this for its answer is refused at once.
        header_timeout_s, body_timeout_s, idle_timeout_s, write_timeout_s: a connection slower than this is cut.
        drain_s: time for open requests after SIGTERM.
    """

    max_header_bytes: Annotated[int, Meta(ge=1_024, le=2**20)] = 16 * 1024
    max_headers: Annotated[int, Meta(ge=8, le=1_000)] = 64
    max_body_bytes: Annotated[int, Meta(ge=1_024, le=2**30)] = 16 * 2**20
    max_connections: Annotated[int, Meta(ge=1, le=100_000)] = 1_024
    max_pipelined: Annotated[int, Meta(ge=1, le=1_000)] = 64
    max_request_rows: Annotated[int, Meta(ge=1, le=2**20)] = 4_096
    max_batch_rows: Annotated[int, Meta(ge=1, le=2**20)] = 256
    max_queue_rows: Annotated[int, Meta(ge=1, le=2**24)] = 8_192
    max_queue_bytes: Annotated[int, Meta(ge=1_024, le=2**40)] = 64 * 2**20
    max_unread_bytes: Annotated[int, Meta(ge=1_024, le=2**40)] = 64 * 2**20
    timeout_s: Seconds = 10.0
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 30.0
    idle_timeout_s: Seconds = 75.0
    write_timeout_s: Seconds = 20.0
    drain_s: Seconds = 8.0


class ServePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one replica needs. Paths are absolute or relative to the plan file's folder.

    Attributes:
        endpoint: id of the endpoint; replicas of one endpoint may share its ports, nobody else may.
        revision, replica: ids; the replica's id is part of every prediction id.
        model, model_version: the names it answers to: ``/v2/models/{model}/versions/{model_version}``.
        bundle: folder of the model bundle.
        manifest: digest of the bundle's manifest; empty trusts the manifest that is there.
        python: interpreter of the data plane, where another one (a service's own environment) starts it; empty: whichever starts it.
        host: address to listen on; loopback only, unless ``behind_proxy``.
        rest_port, grpc_port: 0 takes a free one (and then no other replica can share it).
        private: it stands behind a gateway: gRPC calls are answered at ``rest_port`` too, as HTTP/1.1, and ``grpc_port`` is not opened.
        allowed_hosts: names a request may carry in its Host header, without the port; a guard against DNS rebinding.
            ``*`` takes any, where a proxy stands in front.
        access_file: the `Access` list; read again when it changes.
        log_folder: segments of the request log lie there (`predictions.log_name`). Empty keeps none, in an exported plan only.
        pack_file: the `PackTable` of models beside this one; read again when it changes, and it may come later. Empty: there is never one.
        sampling_file: the `SamplingRule`, read again when it changes: which requests are kept whole, and what of them; empty keeps none.
        samples_folder: where they are kept, in segments as the request log's.
        port_folder: lock files by which the replicas on this machine agree who owns a port.
        ready_file: when not empty, `Listening` is written there once the replica answers.
        cache, lanes: what the endpoint offers beyond answering in turn.
        urgent_file: the `Access` list of those who may go first, where there are lanes.
        cpus: cores; the threads of one inference.
        gpus: that this replica was given; its model runs there, or is refused.
        behind_proxy: of exported plans: somebody else ends TLS in front of it, so it may listen on other addresses than loopback. The
            replicas of a control plane may not. Tokens are asked for all the same.
        picture_urls: pictures may be named by ``http`` addresses, which are fetched from the public internet.
    """

    project: Name
    endpoint: Id
    revision: Id
    replica: Id
    model: Name
    model_version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,80}$(?!\n)")]
    bundle: str
    manifest: Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$(?!\n)")] = ""
    python: Annotated[str, Meta(max_length=1_000)] = ""
    host: str = "127.0.0.1"
    rest_port: Port = 0
    grpc_port: Port = 0
    private: bool = False
    allowed_hosts: Annotated[tuple[str, ...], Meta(max_length=64)] = LOOPBACK_NAMES
    access_file: str
    log_folder: str
    pack_file: Annotated[str, Meta(max_length=4_096)] = ""
    sampling_file: str = ""
    samples_folder: str = ""
    port_folder: str
    ready_file: str = ""
    cache: CacheRule | None = None
    lanes: LaneRule | None = None
    urgent_file: Annotated[str, Meta(max_length=4_096)] = ""
    cpus: Annotated[float, Meta(gt=0, le=1_024)] = 1.0
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    behind_proxy: bool = False
    picture_urls: bool = False
    limits: Limits = Limits()


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who may predict: SHA-256 digests (``sha256:…``) of the accepted bearer tokens."""

    digests: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")], ...], Meta(max_length=10_000)
    ] = ()


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica answers. A port that is not opened is 0; a gateway has its ports in its table, and both are 0 here."""

    pid: int
    rest_port: int
    grpc_port: int


class ExitCode(enum.IntEnum):
    """How a replica ends when it cannot serve; the numbers follow sysexits.h."""

    OK = 0
    PLAN_REFUSED = 64
    BUNDLE_REFUSED = 65
    PORT_TAKEN = 69
    LOG_REFUSED = 73
