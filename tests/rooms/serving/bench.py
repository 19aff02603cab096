"""The serving room over memory adapters: a machine whose replicas do what a test says."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Right
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Outbox, Query
from skyloom.ports.engine import TaskPhase
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.monitoring.model import Latency, Profile, Traffic
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, Signature, TensorSpec
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.serving.load import LoadMemory
from skyloom.rooms.serving.model import Deploy, EndpointStatus, GetEndpoint, ReportRoutes, ReportTraffic, StopEndpoint
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.ports import GATEWAYS, REPLICAS, REVISIONS
from skyloom.rooms.serving.routes import RevisionTraffic, RouteTraffic, RoutingTable
from skyloom.rooms.serving.samples import SamplingRule
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.stores.memory import MemoryStore
from tests.rooms.job_rooms import job_rooms

ME = Caller(principal="me", project="default", scope="*", rights=frozenset(Right))
NO_PROFILE = Profile()
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3)),),
)


class MemoryReplicaFiles:
    """`ReplicaFiles` without a disk."""

    log_folder, port_folder, python = "/logs", "/ports", "/usr/bin/python3"

    def __init__(self) -> None:
        self.access: dict[str, tuple[str, ...]] = {}
        self.logs: dict[str, bytes] = {}
        self.rules: dict[str, SamplingRule | None] = {}
        self.sampled: dict[str, tuple[int, int]] = {}
        self.trimmed: dict[str, int] = {}  # replica → the first offset that is left
        self.tables: dict[str, RoutingTable] = {}
        self.reads_gpu = False
        self.urgent: dict[str, tuple[str, ...]] = {}
        self.packs: dict[str, PackTable] = {}
        self.bundles: dict[str, dict[str, str]] = {}
        self.loads: dict[str, LoadMemory] = {}
        self._port = 40_000

    def access_path(self, project: str) -> str:
        return f"/access/{project}"

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        self.access[project] = digests

    def urgent_path(self, endpoint: str) -> str:
        return f"/urgent/{endpoint}"

    def publish_urgent(self, endpoint: str, digests: tuple[str, ...]) -> None:
        self.urgent[endpoint] = digests

    def routes_path(self, project: str) -> str:
        return f"/routes/{project}"

    def publish_routes(self, project: str, table: RoutingTable) -> None:
        self.tables[project] = table

    def read_routes(self, project: str) -> RoutingTable:
        return self.tables.get(project, RoutingTable())

    def pack_path(self, endpoint: str) -> str:
        return f"/packs/{endpoint}"

    def publish_pack(self, endpoint: str, table: PackTable) -> None:
        self.packs[endpoint] = table

    def lay_out(self, manifest: str, files: Mapping[str, str]) -> str:
        self.bundles[manifest] = dict(files)
        return f"/bundles/{manifest}"

    def read_log(self, replica: str, offset: int) -> bytes | None:
        log, start = self.logs.get(replica), self.trimmed.get(replica, 0)
        return None if log is None or offset < start else log[offset:]

    def trim_logs(self, live: Collection[str]) -> int:
        return 0

    def keep_load(self, endpoint: str, memory: LoadMemory) -> None:
        self.loads[endpoint] = memory

    def read_load(self, endpoint: str) -> LoadMemory | None:
        return self.loads.get(endpoint)

    def sampling_path(self, endpoint: str) -> str:
        return f"/sampling/{endpoint}"

    def publish_sampling(self, endpoint: str, rule: SamplingRule | None) -> None:
        self.rules[endpoint] = rule

    def samples_folder(self, endpoint: str) -> str:
        return f"/samples/{endpoint}"

    def samples(self, endpoint: str) -> dict[str, tuple[int, int]]:
        return dict(self.sampled)

    def remove_samples(self, endpoint: str, taken: Mapping[str, int], live: Collection[str]) -> None:
        for replica, upto in taken.items():
            if replica in self.sampled and replica not in live and self.sampled[replica][1] <= upto:
                del self.sampled[replica]

    def free_port(self) -> int:
        self._port += 1
        return self._port


class Crash(BaseException):  # nothing outlives the death of the process, also no `except Exception`
    """The control plane died here."""


class CrashingStore:
    """Dies at its k-th commit, before or after it is on disk."""

    def __init__(self, store: MemoryStore, phase: str = "", number: int = 0) -> None:
        self._store = store
        self._phase = phase
        self._number = number
        self.commits = 0

    def read(self, work: Callable[[Any], Any]) -> Any:
        return self._store.read(work)

    def write(self, work: Callable[[Any], Any]) -> Any:
        self.commits += 1
        dies = self.commits == self._number
        if dies and self._phase == "before":
            raise Crash
        answer = self._store.write(work)
        if dies:
            raise Crash
        return answer


class Bench:
    """A control plane that can be killed, over a store, an engine and blobs that cannot."""

    def __init__(self) -> None:
        self.disk = MemoryStore()
        self.clock = MemoryClock()
        self.ids = CountingIds()
        self.engine = MemoryEngine(run_at_once=True, now=self.clock.now)
        self.blobs = MemoryBlobs()
        self.files = MemoryReplicaFiles()
        self.loads_told = False
        self.seen: dict[str, dict[str, dict[str, RevisionTraffic]]] = {}  # gateway → endpoint → revision or shadow
        self.start()
        self.tenancy.install()
        self.register()

    def start(self, phase: str = "", number: int = 0) -> None:
        """A new control plane process over what is on disk."""
        self.store = CrashingStore(self.disk, phase, number)
        outbox = Outbox(self.clock)
        self.tenancy = Tenancy(self.store, self.clock, self.ids, b"key")
        plans = Plans(self.blobs, "/shared", self.tenancy.task_secret, lambda: "http://localhost")
        self.jobs, self.loop = job_rooms(self.store, self.clock, self.ids, outbox, self.engine, self.blobs, plans)
        self.registry = Registry(self.store, self.clock, self.ids, outbox, self.blobs)
        self.monitoring = Monitoring(self.store, self.clock, self.ids, outbox, self.blobs)
        self.serving = Serving(
            self.store,
            self.clock,
            self.ids,
            outbox,
            self.tenancy,
            self.jobs,
            self.monitoring,
            self.registry,
            self.blobs,
            self.files,
        )

    def register(
        self, model: str = "toy", weights: bytes = b"one", profile: Profile = NO_PROFILE, **described: Any
    ) -> None:
        files = []
        for path, content in (("model.onnx", weights), ("profile.json", msgspec.json.encode(profile))):
            digest, size_bytes = self.blobs.put([content])
            files.append(BundleFile(path=path, digest=digest, size_bytes=size_bytes))
        ask = RegisterModelVersion(model=model, manifest=Manifest(signature=SIGNATURE, files=tuple(files), **described))
        self.registry.check(ask, ME)
        self.store.write(lambda tx: self.registry.register(tx, ask, ME))

    def deploy(self, model: str = "toy", **what: Any) -> EndpointStatus:
        ask = Deploy(model=model, **what)
        self.serving.check(ask, ME)
        return self.store.write(lambda tx: self.serving.deploy(tx, ask, ME))

    def stop(self, name: str = "toy") -> EndpointStatus:
        return self.store.write(lambda tx: self.serving.stop(tx, StopEndpoint(name=name), ME))

    def status(self, name: str = "toy") -> EndpointStatus:
        return self.serving.get(GetEndpoint(name=name), ME)

    def round(self, *, report: bool = True) -> None:
        """One second: both loops look, every replica that runs says so."""
        self.loop.tick()
        self.serving.tick()
        self.loop.tick()
        if report:
            for replica in self.disk.read(lambda view: view.select(REPLICAS, {"ended_at": None})):
                task_id = f"{replica.job_id}.1.0"
                if self.engine.observe([task_id])[task_id].phase is TaskPhase.RUNNING:
                    self.report(replica)
            for gateway in self.disk.read(lambda view: view.select(GATEWAYS, {"ended_at": None})):
                if self.runs(gateway.job_id):
                    self.report_routes(gateway)
        self.clock.advance(1)

    def runs(self, job_id: str) -> bool:
        task_id = f"{job_id}.1.0"
        return self.engine.observe([task_id])[task_id].phase is TaskPhase.RUNNING

    def report_routes(self, gateway: Any, by: Caller | None = None) -> Any:
        """A gateway that obeys its table says so."""
        caller = by or msgspec.structs.replace(ME, task_id=f"{gateway.job_id}.1.0")
        counted = self.seen.get(gateway.id, {})
        routes = []
        for route in self.files.read_routes(gateway.project).routes:
            mine = counted.get(route.endpoint, {})
            routes.append(
                RouteTraffic(
                    endpoint=route.endpoint,
                    revisions={key: seen for key, seen in mine.items() if not key.startswith("shadow:")},
                    shadows={key[7:]: seen for key, seen in mine.items() if key.startswith("shadow:")},
                )
            )
        ask = ReportRoutes(gateway=gateway.id, ready=True, routes=tuple(routes))
        if self.loads_told and by is None:
            return self.serving._routes_heard.take(gateway.project, ask)  # what it counts, the test tells by itself
        return self.serving.report_routes(ask, caller)

    def serve(self, number: int, requests: int, errors: int = 0, name: str = "toy", **what: Any) -> None:
        """The gateway passes requests on to a revision."""
        endpoint = self.status(name).endpoint
        found = self.disk.read(lambda view: view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": number}))
        (gateway,) = [
            item
            for item in self.disk.read(lambda view: view.select(GATEWAYS, {"ended_at": None}))
            if item.stopped_at is None
        ]
        key = ("shadow:" if what.get("shadow") else "") + found[0].id
        counted = self.seen.setdefault(gateway.id, {}).setdefault(endpoint.id, {})
        before = counted.get(key, RevisionTraffic())
        place = what.get("bin", 40)
        bins = {**before.latency.counts, place: before.latency.counts.get(place, 0) + requests}
        counted[key] = RevisionTraffic(
            requests=before.requests + requests,
            server_errors=before.server_errors + errors,
            latency=Latency(counts=bins),
        )

    def ask(self, operation: Any) -> Any:
        """Carry out an operation as the door does."""
        handler = self.serving.handlers()[type(operation)]
        if isinstance(handler, Query):
            return handler.run(operation, ME)
        if handler.before is not None:
            handler.before(operation, ME)
        return self.store.write(lambda tx: handler.run(tx, operation, ME))

    def route(self) -> Any:
        """The row of the only endpoint in its gateway's table, or None."""
        rows = self.files.read_routes("default").routes
        return rows[0] if rows else None

    def weights(self) -> dict[int, float]:
        """What the gateway is told: revision → weight, of those with replicas."""
        row = self.route()
        return {share.number: share.weight for share in row.shares if share.weight > 0} if row else {}

    def report(
        self,
        replica: Any,
        ready: bool = True,
        by: Caller | None = None,
        guests: Any = (),
        guest_traffic: Any = (),
        gpu: Any = None,
        **traffic: Any,
    ) -> Any:
        caller = by or msgspec.structs.replace(ME, task_id=f"{replica.job_id}.1.0")
        ask = ReportTraffic(
            name=replica.endpoint_id,
            replica=replica.id,
            revision=replica.revision_id,
            ready=ready,
            rest_port=50_000 + int(replica.id.rpartition("_")[2], 36) % 10_000 if replica.private else 40_001,
            traffic=Traffic(**traffic),
            guests=guests,
            guest_traffic=guest_traffic,
            gpu=gpu,
        )
        return self.serving.report(ask, caller)

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.round()

    def running(self) -> list[str]:
        """Replicas' tasks that run, by id."""
        gateways = {f"{item.job_id}.1.0" for item in self.disk.read(lambda view: view.select(GATEWAYS))}
        return [task_id for task_id in self.everything() if task_id not in gateways]

    def everything(self) -> list[str]:
        """Tasks that run, those of gateways too."""
        seen = self.engine.observe(self.engine.known())
        return sorted(key for key, item in seen.items() if item.phase in (TaskPhase.RUNNING, TaskPhase.STARTING))
