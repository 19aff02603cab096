"""From a revision to the job that serves it: its plan, its files, its labels. And what is heard of the replicas that run."""

import threading
from collections.abc import Callable, Mapping

import msgspec

from skyloom.core.resources import Resources
from skyloom.ports.clock import Clock
from skyloom.ports.engine import PythonModule
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.registry.bundle import MANIFEST_FILE
from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.serving.model import Endpoint, ReportRoutes, ReportTraffic, Revision
from skyloom.rooms.serving.pack import GuestReport
from skyloom.rooms.serving.plan import Limits, ServePlan
from skyloom.rooms.serving.ports import ReplicaFiles
from skyloom.rooms.serving.routes import GatewayPlan, RouteTraffic

MODULE = "skyloom.inference"
GATEWAY_MODULE = "skyloom.inference.gateway"
GATEWAY_LABEL = "gateway"
_PLAN_FILE = "plan.json"
_BUNDLE = "bundle"
_GRACE_S = Limits().drain_s + 2.0
_FRESH_S = 10.0
_GATEWAY_RESOURCES = Resources(cpus=0.25, memory_bytes=512 * 2**20)


def default_resources(version: ModelVersion) -> Resources:
    """What a replica gets when nobody says: half a core, and memory for the server and three times the model's own size."""
    size_bytes = sum(file.size_bytes for file in version.manifest.files)
    return Resources(cpus=0.5, memory_bytes=512 * 2**20 + 3 * size_bytes)


def spec_of(endpoint: Endpoint, revision: Revision, plan_digest: str) -> JobSpec:
    """The job of one replica. A replica that ends is replaced by a new one, so the job itself never tries again."""
    files = {f"{_BUNDLE}/{path}": digest for path, digest in revision.files.items()}
    return JobSpec(
        preemptible=False,
        pools=(LOCAL,),  # replicas share this machine's port and request logs
        entry=PythonModule(module=MODULE, args=(_PLAN_FILE,)),
        name=f"{endpoint.name} revision {revision.number}",
        files={**files, _PLAN_FILE: plan_digest},
        resources=revision.resources,
        grace_s=_GRACE_S,
        labels={"endpoint": endpoint.id, "model": endpoint.model},
        python=revision.python,
        secrets=revision.secrets,
    )


def plan_of(
    endpoint: Endpoint, revision: Revision, replica_id: str, files: ReplicaFiles, private: bool = False
) -> bytes:
    """The plan file of one replica: it shares the endpoint's ports, or listens privately at one of its own."""
    plan = ServePlan(
        project=endpoint.project,
        endpoint=endpoint.id,
        revision=revision.id,
        replica=replica_id,
        model=endpoint.model,
        model_version=revision.version_label,
        bundle=_BUNDLE,
        manifest=revision.files[MANIFEST_FILE],
        rest_port=0 if private else endpoint.rest_port,
        grpc_port=0 if private else endpoint.grpc_port,
        private=private,
        access_file=files.access_path(endpoint.project),
        log_folder=files.log_folder,
        pack_file=files.pack_path(endpoint.id),
        cache=revision.cache,
        lanes=revision.lanes,
        urgent_file=files.urgent_path(endpoint.id) if revision.lanes is not None else "",
        sampling_file=files.sampling_path(endpoint.id),
        samples_folder=files.samples_folder(endpoint.id),
        port_folder=files.port_folder,
        python=files.python if revision.python else "",
        cpus=max(revision.resources.cpus, 0.1),
        gpus=revision.resources.gpus,
        picture_urls=revision.picture_urls,
    )
    return msgspec.json.encode(plan)


def gateway_spec(gateway_id: str, plan_digest: str) -> JobSpec:
    """The job of one gateway. One that ends is replaced by a new one, so the job itself never tries again."""
    return JobSpec(
        preemptible=False,
        pools=(LOCAL,),  # it listens at this machine's ports
        entry=PythonModule(module=GATEWAY_MODULE, args=(_PLAN_FILE,)),
        name="gateway",
        files={_PLAN_FILE: plan_digest},
        resources=_GATEWAY_RESOURCES,
        grace_s=_GRACE_S,
        labels={GATEWAY_LABEL: gateway_id},
        warm=False,
    )


def gateway_plan(project: str, gateway_id: str, files: ReplicaFiles) -> bytes:
    """The plan file of one gateway."""
    plan = GatewayPlan(
        project=project, gateway=gateway_id, routing_file=files.routes_path(project), port_folder=files.port_folder
    )
    return msgspec.json.encode(plan)


class Heard:
    """The newest report of every replica, in memory: they come every second, so losing them costs a second. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._reports: dict[str, tuple[float, ReportTraffic]] = {}
        self._ports: dict[str, int] = {}
        self._lock = threading.Lock()

    def remember(self, ports: Mapping[str, int]) -> None:
        """Where replicas listened when this was last known, before the control plane started; good until they say it themselves."""
        with self._lock:
            self._ports = dict(ports)

    def port(self, replica_id: str) -> int:
        """Where it takes REST requests; 0 when that is not known, or when it said that it takes none."""
        known = self._reports.get(replica_id)
        if known is None:
            return self._ports.get(replica_id, 0)
        return known[1].rest_port if known[1].ready else 0

    def take(self, report: ReportTraffic) -> bool:
        """Keep a report. True when it is the first to say that the replica takes requests."""
        with self._lock:
            before = self._reports.get(report.replica)
            self._reports[report.replica] = (self._clock.monotonic(), report)
        return report.ready and (before is None or not before[1].ready)

    def ready(self, replica_id: str) -> bool:
        """It said lately that it takes requests."""
        known = self._reports.get(replica_id)
        return known is not None and known[1].ready and self._clock.monotonic() - known[0] < _FRESH_S

    def silent_s(self, replica_id: str, running_s: float) -> float:
        """How long a replica that runs for ``running_s`` has said nothing; we only know since this process began to listen."""
        now = self._clock.monotonic()
        known = self._reports.get(replica_id)
        return max(0.0, min(now - (known[0] if known else self._began), running_s))

    def traffic(self, replica_id: str) -> Traffic:
        """What it saw, by its newest report."""
        known = self._reports.get(replica_id)
        return known[1].traffic if known else Traffic()

    def gpu(self, replica_id: str) -> float | None:
        """How busy its GPUs are, by a report that is not too old to be true."""
        known = self._reports.get(replica_id)
        return known[1].gpu if known is not None and self._clock.monotonic() - known[0] < _FRESH_S else None

    def guests(self, replica_id: str) -> tuple[GuestReport, ...]:
        """What became of the models of its pack, by its newest report."""
        known = self._reports.get(replica_id)
        return known[1].guests if known else ()

    def keep(self, still: Callable[[str], bool]) -> None:
        """Forget replicas that are gone."""
        with self._lock:
            self._reports = {key: kept for key, kept in self._reports.items() if still(key)}


class RoutesHeard:
    """The newest report of every gateway, in memory. Thread-safe. A gateway of one project says nothing about another's endpoints."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._reports: dict[tuple[str, str], tuple[float, ReportRoutes]] = {}
        self._lock = threading.Lock()

    def take(self, project: str, report: ReportRoutes) -> None:
        """Keep a report."""
        with self._lock:
            self._reports[project, report.gateway] = (self._clock.monotonic(), report)

    def ready(self, project: str, gateway: str) -> bool:
        """It said lately that it takes requests."""
        known = self._reports.get((project, gateway))
        return known is not None and known[1].ready and self._clock.monotonic() - known[0] < _FRESH_S

    def silent_s(self, project: str, gateway: str, running_s: float) -> float:
        """How long a gateway that runs for ``running_s`` has said nothing; we only know since this process began to listen."""
        now = self._clock.monotonic()
        known = self._reports.get((project, gateway))
        return max(0.0, min(now - (known[0] if known else self._began), running_s))

    def traffic(self, project: str, gateway: str) -> dict[str, RouteTraffic]:
        """What it saw at each endpoint, by its newest report; empty when that is too old to be true."""
        known = self._reports.get((project, gateway))
        if known is None or self._clock.monotonic() - known[0] >= _FRESH_S:
            return {}
        return {route.endpoint: route for route in known[1].routes}

    def num_arrived(self, project: str, endpoint_id: str) -> int:
        """How many requests for an endpoint have come since the gateway before it began; 0 when that is not known."""
        found = [report for (owner, _), (_, report) in self._reports.items() if owner == project]
        return sum(route.arrived for report in found for route in report.routes if route.endpoint == endpoint_id)

    def keep(self, still: Callable[[str, str], bool]) -> None:
        """Forget gateways that are gone; asked by project and gateway."""
        with self._lock:
            self._reports = {key: kept for key, kept in self._reports.items() if still(*key)}
