"""The composition root: an embedded cloud on one machine, in one folder. Every concrete class is named here and nowhere else."""

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from skyloom import __version__
from skyloom.blobs.local import LocalBlobs
from skyloom.cloud import Cloud, Loop
from skyloom.core.ids import RandomIds
from skyloom.core.resources import Resources, parse_bytes
from skyloom.durable import write_private
from skyloom.engines.local import LocalEngine
from skyloom.ports.clock import SystemClock
from skyloom.ports.door import EVENTS, Outbox, Subscriber
from skyloom.ports.engine import Engine
from skyloom.ports.store import Store
from skyloom.rooms.arrays import ports as arrays_ports
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.cost import ports as cost_ports
from skyloom.rooms.cost.model import PriceBook
from skyloom.rooms.cost.service import Cost
from skyloom.rooms.data import ports as data_ports
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.jobs import ports as jobs_ports
from skyloom.rooms.jobs.loop import JobLoop
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.lineage.service import Lineages
from skyloom.rooms.lineage.sources import RoomSources
from skyloom.rooms.monitoring import ports as monitoring_ports
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.overview import explainers
from skyloom.rooms.overview.service import Overview
from skyloom.rooms.registry import ports as registry_ports
from skyloom.rooms.registry.mounts import resolver
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.serving import ports as serving_ports
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.tenancy import ports as tenancy_ports
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.rooms.tracking import ports as tracking_ports
from skyloom.rooms.tracking.service import Tracking
from skyloom.rooms.training.ports import found_in
from skyloom.rooms.training.service import Training
from skyloom.series.local import LocalSeries
from skyloom.settings import Settings, package_variables
from skyloom.stores.folder_lock import FolderLock
from skyloom.stores.replica_files import LocalReplicaFiles
from skyloom.stores.sqlite import SqliteStore
from skyloom.tables.lance import LanceTables

COLLECTIONS = (
    *tenancy_ports.COLLECTIONS,
    *monitoring_ports.COLLECTIONS,
    *jobs_ports.COLLECTIONS,
    *arrays_ports.COLLECTIONS,
    *data_ports.COLLECTIONS,
    *tracking_ports.COLLECTIONS,
    *registry_ports.COLLECTIONS,
    *serving_ports.COLLECTIONS,
)
LOGS = (EVENTS, *tenancy_ports.LOGS, *cost_ports.LOGS, *arrays_ports.LOGS)
_DRAFT_AGE_S = 86_400


class Embedded:
    """Everything of a cloud on one machine, in one folder. The composition root.

    Raises `FolderInUse`, `NotPermitted`, `StorageFull`, `Unavailable` when it cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        home: Path = settings.home
        self.url = ""
        self.settings = settings
        self.lock = FolderLock(home)
        for name in ("blobs", "tables", "series", "engine", "shared", "requests"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
        clock, ids = SystemClock(), RandomIds()
        self.store: Store = SqliteStore(home / "skyloom.db", COLLECTIONS, LOGS, _crash_hook(settings.crash_at))
        self.blobs = LocalBlobs(home / "blobs")
        self.blobs.sweep(older_than_s=_DRAFT_AGE_S, now=clock.now())
        self.series = LocalSeries(home / "series")
        self.engine: Engine = LocalEngine(
            home / "engine",
            python=sys.executable,
            capacity=_capacity(settings),
            warm=settings.warm_pool,
            environments=home / "environments",
            package_variables=package_variables(),
            max_environment_bytes=parse_bytes(settings.environments),
            mounts=home / "mounts",
            max_mount_bytes=parse_bytes(settings.mounts),
        )
        subscribers: list[Subscriber] = []
        outbox = Outbox(clock, subscribers)
        tenancy = Tenancy(self.store, clock, ids, _secret_key(home / "secret"))
        tables = home / "tables"
        plans = Plans(self.blobs, str(home / "shared"), tenancy.task_secret, lambda: self.url, str(tables))
        writer, waits = JobWriter(clock, outbox), Waits()
        jobs = Jobs(self.store, clock, ids, writer, self.engine, self.blobs, waits)
        job_loop = JobLoop(self.store, clock, writer, self.engine, plans, waits)
        arrays = Arrays(self.store, clock, ids, self.blobs, jobs)
        self.tables = lance = LanceTables(tables)
        data = Datasets(self.store, clock, ids, outbox, self.blobs, lance, jobs)
        tenancy.project_of_live_task = jobs.project_of_live_task
        cost = Cost(self.store, clock, _prices(settings), jobs.unfinished)
        subscribers.append(cost.on_task_ended)
        monitoring = Monitoring(self.store, clock, ids, outbox, self.blobs)
        registry = Registry(self.store, clock, ids, self.blobs)
        jobs.resolve_mount = resolver(data, registry)
        files = LocalReplicaFiles(home / "requests")
        serving = Serving(self.store, clock, ids, outbox, tenancy, jobs, monitoring, registry, self.blobs, files)
        tracking = Tracking(self.store, self.series, jobs)
        training = Training(self.store, clock, ids, jobs, found_in(data), __version__)
        lineage = Lineages(self.store, lance, RoomSources(serving.find_prediction))
        overview = Overview(
            self.store,
            clock,
            self.engine.capacity(),
            about=lambda: (__version__, self.url, shutil.disk_usage(home).free),
            explainers={
                "job": explainers.of_jobs(jobs),
                "array": explainers.of_arrays(arrays),
                "run": explainers.of_runs(jobs),
                "dataset": explainers.of_datasets(data),
                "ep": explainers.of_endpoints(serving),
                "alert": explainers.explain_alert,
            },
            counts={
                "jobs": explainers.count_jobs,
                "endpoints": explainers.count_endpoints,
                "alerts": explainers.count_alerts,
            },
        )
        services = (
            overview,
            tenancy,
            monitoring,
            cost,
            jobs,
            arrays,
            data,
            tracking,
            registry,
            training,
            serving,
            lineage,
        )
        handlers = {kind: handler for service in services for kind, handler in service.handlers().items()}
        ticks = {
            "jobs": job_loop.tick,
            "dependencies": jobs.dependencies.tick,
            "arrays": arrays.tick,
            "monitoring": monitoring.tick,
            "serving": serving.tick,
            "tenancy": tenancy.tick,
        }
        loops = {name: Loop(name, tick) for name, tick in ticks.items()}
        self.token_file = home / "token"
        if not self.token_file.exists():
            write_private(self.token_file, tenancy.install().encode())
        job_loop.adopt()
        self.cloud = Cloud(self.store, clock, tenancy, handlers, loops)

    def close(self) -> None:
        """Close everything in order; jobs go on running."""
        self.cloud.close()
        self.engine.close()
        self.series.close()
        self.store.close()
        self.lock.close()


def _capacity(settings: Settings) -> Resources | None:
    """What the operator lets the engine hand out, or None for all of this machine."""
    if not settings.cpus and not settings.memory:
        return None
    memory_bytes = parse_bytes(settings.memory) if settings.memory else 0
    return Resources(cpus=settings.cpus, memory_bytes=memory_bytes)


def _prices(settings: Settings) -> PriceBook:
    return PriceBook(
        cpu_usd_per_hour=settings.price_cpu_usd_per_hour,
        gpu_usd_per_hour=settings.price_gpu_usd_per_hour,
        memory_gib_usd_per_hour=settings.price_memory_gib_usd_per_hour,
    )


def _secret_key(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _crash_hook(crash_at: str) -> Callable[[str, int], None] | None:
    """Tests only: kill this process around its K-th commit (``before:3``)."""
    if not crash_at:
        return None
    wanted_phase, _, wanted = crash_at.partition(":")

    def hook(phase: str, count: int) -> None:
        if (phase, str(count)) == (wanted_phase, wanted):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
