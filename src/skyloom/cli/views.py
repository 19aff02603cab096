"""What of each noun a person wants to see: columns of lists, and drawn columns. Data, not code; unknown nouns show all they have."""

from collections.abc import Mapping, Sequence

import msgspec

from skyloom.cli import forecasts, money_views
from skyloom.cli.columns import Column, View, attribute, of
from skyloom.cli.data_views import DATA_COLUMNS, DATA_PAGES
from skyloom.cli.device_views import DEVICE_COLUMNS, DEVICE_PAGES
from skyloom.cli.function_views import FUNCTION_COLUMNS, FUNCTION_PAGES
from skyloom.cli.job_views import JOB_COLUMNS, JOB_PAGES
from skyloom.cli.plots import bins
from skyloom.cli.quality_views import QUALITY_COLUMNS, QUALITY_PAGES
from skyloom.cli.scaling_views import (
    SCALING_COLUMNS,
    SCALING_PAGES,
    say_bounds,
    say_gateways,
    say_load,
    say_next,
    say_scaling,
)
from skyloom.cli.simulation_views import SIMULATION_COLUMNS, SIMULATION_PAGES
from skyloom.cli.traffic_views import (
    TRAFFIC_COLUMNS,
    TRAFFIC_PAGES,
    canary_words,
    coming_words,
    guest_words,
    pack_words,
)
from skyloom.cli.wording import human, label, safe
from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.ports.store import Record
from skyloom.rooms.monitoring.model import Alert, FeatureDrift
from skyloom.rooms.overview.model import CloudStatus, Explanation
from skyloom.rooms.pools.model import MachineUse, PoolRemoved, PoolStatus
from skyloom.rooms.registry.bundle import BundleFile
from skyloom.rooms.registry.model import Model, ModelStatus, ModelVersion
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.serving.model import EndpointStatus, ReplicaStatus, Revision
from skyloom.rooms.tenancy.model import AuditEntry, Project, Token
from skyloom.rooms.tracking.model import RunProgress
from skyloom.rooms.webhooks.model import Webhook


def _counted(noun: str) -> Column:
    """How many there are of a noun in each state, of a status: "2 running, 1 queued"."""

    def write(status: CloudStatus) -> str:
        counts = status.counts.get(noun, {})
        return ", ".join(f"{count:,} {safe(state)}" for state, count in counts.items() if count) or "none"

    return Column(noun, write, "counts")


def _top(row: FeatureDrift) -> float:
    return max((*row.expected_shares, *row.seen_shares), default=0.0)


_FROM_VERSION = Column(  # 0 of a model that came from elsewhere
    "dataset version",
    lambda noun: human("dataset_version", noun.provenance.dataset_version or None),
    "provenance.dataset_version",
)
_WEBHOOK = (
    of("id", "webhook"),
    of("url"),
    of("kinds", "hears of"),
    of("num_sent", "sent"),
    of("num_dropped", "dropped"),
    of("failures"),
    of("last_error"),
)
COLUMNS: Mapping[type, Sequence[Column]] = {
    **DATA_COLUMNS,
    **forecasts.COLUMNS,
    **money_views.COLUMNS,
    **JOB_COLUMNS,
    **DEVICE_COLUMNS,
    **SIMULATION_COLUMNS,
    **TRAFFIC_COLUMNS,
    **QUALITY_COLUMNS,
    **SCALING_COLUMNS,
    **FUNCTION_COLUMNS,
    Alert: (
        of("id", "alert"),
        of("endpoint_name", "about"),
        of("signal"),
        of("state"),
        of("fired_at", "since"),
        of("times_fired"),
        of("message"),
    ),
    Webhook: _WEBHOOK,
    FeatureDrift: (
        of("name", "feature"),
        of("drifted"),
        of("psi"),
        of("distance"),
        of("distance_by_chance", "by chance"),
        of("missing_share", "missing"),
        Column("training", lambda row: bins(row.expected_shares, _top(row))),
        Column("now", lambda row: bins(row.seen_shares, _top(row))),
    ),
    RunProgress: (
        of("run.id", "run"),
        of("run.name"),
        of("state"),
        of("run.recipe"),
        of("run.dataset"),
        of("run.dataset_version"),
        of("run.created_at"),
    ),
    Model: (of("name", "model"), of("newest"), of("aliases"), of("created_at")),
    ModelVersion: (
        of("id", "version"),
        of("model"),
        of("number"),
        of("evaluation.metrics", "measured"),
        of("provenance.dataset"),
        _FROM_VERSION,
        of("run_id", "run"),
        of("created_at"),
    ),
    BundleFile: (of("path", "file"), of("size_bytes"), of("digest")),
    ServiceMethod: (
        of("name", "endpoint"),
        of("parameters", "takes"),
        of("returns"),
        of("answering"),
        of("batch"),
        of("timeout_s"),
    ),
    EndpointStatus: (
        of("endpoint.name", "endpoint"),
        of("state"),
        of("endpoint.model"),
        of("endpoint.revision"),
        of("endpoint.num_replicas", "replicas"),
        of("traffic.requests"),
        of("url"),
        of("message"),
    ),
    Revision: (of("number", "revision"), of("model_version"), of("created_at"), of("id")),
    ReplicaStatus: (
        of("replica.id", "replica"),
        of("state"),
        of("replica.revision_number", "revision"),
        of("requests"),
        Column("packed", guest_words, "guests"),
        of("replica.created_at"),
        of("replica.job_id", "job"),
        Column(
            "message", lambda status: human("message", status.replica.message.partition(" | ")[0]), "replica.message"
        ),
    ),
    PoolStatus: (
        of("pool.id", "pool"),
        *map(of, ("state", "pool.address", "total", "used")),
        Column("machines", lambda status: str(len(status.machines)), "machines"),
        *map(of, ("num_tasks", "pool.labels", "message")),
    ),
    MachineUse: tuple(map(of, ("name", "total", "used", "num_tasks", "labels"))),
    Token: (of("id", "token"), of("name"), of("role"), of("created_at"), of("expires_at"), of("revoked_at")),
    Project: (of("id", "project"), of("created_at")),
    AuditEntry: (of("at"), of("principal"), of("operation"), of("subject"), of("outcome")),
}

# Pages whose noun holds others inside: what to show of all of them as pairs, and which parts under their own headings.
PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    **DATA_PAGES,
    **forecasts.PAGES,
    PoolRemoved: ((of("name", "removed"), of("num_lost", "tasks lost"), of("num_again", "jobs queued again")), ()),
    **money_views.PAGES,
    **JOB_PAGES,
    **DEVICE_PAGES,
    **SIMULATION_PAGES,
    **TRAFFIC_PAGES,
    **QUALITY_PAGES,
    **SCALING_PAGES,
    **FUNCTION_PAGES,
    CloudStatus: (
        (
            *map(of, ("version", "url", "pid", "uptime_s", "capacity", "used", "disk_free_bytes")),
            *map(_counted, ("jobs", "endpoints", "alerts")),
        ),
        (),
    ),
    Explanation: (tuple(map(of, ("subject", "state", "reason", "message", "next_action"))), ("evidence",)),
    Alert: (
        (
            of("id", "alert"),
            of("endpoint_name", "about"),
            *map(of, ("signal", "state", "value", "threshold", "message")),
            of("fired_at", "since"),
            *map(of, ("times_fired", "acknowledged_by", "resolved_at")),
        ),
        (),
    ),
    RunProgress: (
        (
            of("run.id", "run"),
            of("run.name"),
            of("state"),
            of("message"),
            of("run.recipe"),
            of("run.dataset"),
            of("run.dataset_version"),
            of("run.target"),
            of("run.parameters"),
            of("run.job_id", "job"),
            of("run.created_at"),
        ),
        ("latest",),
    ),
    ModelVersion: (
        (
            of("id", "version"),
            of("model"),
            of("number"),
            of("description"),
            of("evaluation.metrics", "measured"),
            of("evaluation.num_rows", "on rows"),
            of("provenance.recipe"),
            of("provenance.dataset"),
            _FROM_VERSION,
            of("run_id", "run"),
            of("parity.largest_difference", "ONNX differs by"),
            of("created_at"),
        ),
        (
            "manifest.service.methods",
            "manifest.signature.inputs",
            "manifest.signature.outputs",
            "manifest.files",
            "evaluation.classes",
        ),
    ),
    ModelStatus: ((of("model.name"), of("model.newest"), of("model.aliases"), of("model.created_at")), ("versions",)),
    Webhook: (
        (*_WEBHOOK, of("created_by"), of("created_at")),
        (),
    ),
    EndpointStatus: (
        (
            of("endpoint.name"),
            of("endpoint.id", "endpoint"),
            of("state"),
            of("message"),
            of("next_action"),
            of("endpoint.model"),
            of("endpoint.revision"),
            Column("scaling", lambda status: say_scaling(status.endpoint)),
            of("scale.why", "why so many"),
            Column("load", say_load, "scale"),
            Column("allowed", say_bounds, "scale"),
            Column("next", say_next, "scale"),
            Column("gateways", say_gateways, "endpoint.num_gateways"),
            of("url"),
            of("grpc_address"),
            of("traffic.requests"),
            of("traffic.rows"),
            of("traffic.server_errors"),
            Column("canary", canary_words, "canary"),
            Column("traffic goes over to", coming_words, "endpoint.coming"),
            Column("packed", pack_words, "endpoint.pack"),
            of("endpoint.fallback.number", "can go back to"),
        ),
        ("shares", "replicas", "revisions"),
    ),
}


def columns(noun: type[msgspec.Struct]) -> Sequence[Column]:
    """The columns of a list of this noun."""
    return COLUMNS.get(noun) or [of(name) for name in _told(noun)]


def page(noun: msgspec.Struct) -> View:
    """What a page about this noun shows: by `PAGES`, or all it has."""
    if type(noun) in PAGES:
        shown, parts = PAGES[type(noun)]
        pairs = [(column.heading, column.write(noun)) for column in shown]
        return View(pairs, [(label(path.split(".")[-1]), part) for path in parts if (part := attribute(noun, path))])
    fields = [(name, getattr(noun, name)) for name in _told(type(noun))]
    plain = [(label(name), human(name, value)) for name, value in fields if not _is_part(value)]
    return View(plain, [(label(name), value) for name, value in fields if _is_part(value)])


def _told(noun: type[msgspec.Struct]) -> list[str]:
    """The fields worth telling: the tenant is known to who asks, and how often a record was written is nobody's business."""
    hidden = {"project", "version"} if issubclass(noun, Record) else set()
    return [name for name in noun.__struct_fields__ if name not in hidden]


def _is_part(value: object) -> bool:
    if isinstance(value, dict):
        return any(isinstance(item, msgspec.Struct) for item in value.values())
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], msgspec.Struct)
    return isinstance(value, msgspec.Struct) and not isinstance(value, Money | Resources | msgspec.Raw)
