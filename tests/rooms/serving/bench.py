"""The serving room over memory adapters: a machine whose replicas do what a test says."""

from collections.abc import Callable
from typing import Any

import msgspec

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller, Right
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Outbox
from skyloom.ports.engine import TaskPhase
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.monitoring.model import Profile, Traffic
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, Signature, TensorSpec
from skyloom.rooms.registry.model import RegisterModelVersion
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.serving.model import Deploy, EndpointStatus, GetEndpoint, ReportTraffic, StopEndpoint
from skyloom.rooms.serving.ports import REPLICAS
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.stores.memory import MemoryStore
from tests.rooms.job_rooms import job_rooms

ME = Caller(principal="me", project="default", scope="*", rights=frozenset(Right))
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
        self._port = 40_000

    def access_path(self, project: str) -> str:
        return f"/access/{project}"

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        self.access[project] = digests

    def read_log(self, replica: str, offset: int) -> bytes:
        return self.logs.get(replica, b"")[offset:]

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
        self.registry = Registry(self.store, self.clock, self.ids, self.blobs)
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

    def register(self, model: str = "toy", weights: bytes = b"one") -> None:
        files = []
        for path, content in (("model.onnx", weights), ("profile.json", msgspec.json.encode(Profile()))):
            digest, size_bytes = self.blobs.put([content])
            files.append(BundleFile(path=path, digest=digest, size_bytes=size_bytes))
        ask = RegisterModelVersion(model=model, manifest=Manifest(signature=SIGNATURE, files=tuple(files)))
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
        self.clock.advance(1)

    def report(self, replica: Any, ready: bool = True, by: Caller | None = None, **traffic: Any) -> Any:
        caller = by or msgspec.structs.replace(ME, task_id=f"{replica.job_id}.1.0")
        ask = ReportTraffic(
            name=replica.endpoint_id,
            replica=replica.id,
            revision=replica.revision_id,
            ready=ready,
            traffic=Traffic(**traffic),
        )
        return self.serving.report(ask, caller)

    def settle(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            self.round()

    def running(self) -> list[str]:
        """Tasks that run, by id."""
        seen = self.engine.observe(self.engine.known())
        return sorted(key for key, item in seen.items() if item.phase in (TaskPhase.RUNNING, TaskPhase.STARTING))
