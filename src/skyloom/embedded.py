"""The composition root: an embedded cloud on one machine, in one folder. Every concrete class is named here and nowhere else."""

import hashlib
import hmac
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from skyloom import __version__
from skyloom.blobs.local import LocalBlobs
from skyloom.cloud import CALM, STEADY, Cloud, Loop
from skyloom.core import digests
from skyloom.core.ids import RandomIds
from skyloom.core.resources import Resources, parse_bytes
from skyloom.curves.scipy import ScipyCurves
from skyloom.durable import write_private
from skyloom.engines.local import LocalEngine
from skyloom.engines.ray.pool_engines import PoolEngines
from skyloom.outbound.errands import HttpErrands
from skyloom.outbound.http import HttpOutbound
from skyloom.ports.clock import SystemClock
from skyloom.ports.door import EVENTS, Outbox, RoomService, Subscriber
from skyloom.ports.engine import Engine
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.arrays import ports as arrays_ports
from skyloom.rooms.arrays.service import Arrays
from skyloom.rooms.batch.service import BatchPredictions
from skyloom.rooms.cost import ports as cost_ports
from skyloom.rooms.cost.budgets import Budgets
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.cost.service import Cost
from skyloom.rooms.cost.usage import worth
from skyloom.rooms.data.service import Datasets
from skyloom.rooms.devices import ports as devices_ports
from skyloom.rooms.devices.board import FleetBoard
from skyloom.rooms.devices.fleets import Fleets
from skyloom.rooms.devices.gathering import Gathering
from skyloom.rooms.devices.keeping import Keeping
from skyloom.rooms.devices.keys import DeviceKeys
from skyloom.rooms.devices.rollouts import Rollouts
from skyloom.rooms.devices.service import Devices
from skyloom.rooms.functions import ports as functions_ports
from skyloom.rooms.functions.causes import cause_of
from skyloom.rooms.functions.ended import EndedCalls
from skyloom.rooms.functions.service import Functions
from skyloom.rooms.jobs import ports as jobs_ports
from skyloom.rooms.jobs.bounds import OpenWorkers
from skyloom.rooms.jobs.contact import Contact
from skyloom.rooms.jobs.hands import PoolHands
from skyloom.rooms.jobs.launches import Launches
from skyloom.rooms.jobs.loop import JobLoop
from skyloom.rooms.jobs.outlook import JobOutlook
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.jobs.reading import occupancy
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.jobs.sessions import Sessions
from skyloom.rooms.jobs.spending import lasting, spenders, titles
from skyloom.rooms.jobs.stranded import Stranded
from skyloom.rooms.jobs.waits import Waits
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.lineage.service import Lineages
from skyloom.rooms.lineage.sources import RoomSources
from skyloom.rooms.monitoring import ports as monitoring_ports
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.overview import explainers
from skyloom.rooms.overview.service import Overview
from skyloom.rooms.planning import ports as planning_ports
from skyloom.rooms.planning.service import Planning
from skyloom.rooms.pools import ports as pools_ports
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.pools.service import Pools
from skyloom.rooms.quality import ports as quality_ports
from skyloom.rooms.quality.service import Feedback
from skyloom.rooms.registry import ports as registry_ports
from skyloom.rooms.registry.mounts import resolver
from skyloom.rooms.registry.service import Registry, models_of_runs
from skyloom.rooms.sampling import ports as sampling_ports
from skyloom.rooms.sampling.service import SampleLogs
from skyloom.rooms.schedules import ports as schedules_ports
from skyloom.rooms.schedules.service import Schedules
from skyloom.rooms.scheduling import ports as scheduling_ports
from skyloom.rooms.scheduling.service import Scheduling
from skyloom.rooms.secrets.service import Secrets
from skyloom.rooms.serving import ports as serving_ports
from skyloom.rooms.serving.answers import RequestAnswers
from skyloom.rooms.serving.service import Serving
from skyloom.rooms.templates.service import Templates
from skyloom.rooms.tenancy import ports as tenancy_ports
from skyloom.rooms.tenancy.retention import Retention
from skyloom.rooms.tenancy.service import Tenancy
from skyloom.rooms.tracking.service import Tracking
from skyloom.rooms.training.ports import found_in
from skyloom.rooms.training.service import Training
from skyloom.rooms.triggers import ports as triggers_ports
from skyloom.rooms.triggers.bodies import HookBodies
from skyloom.rooms.triggers.rules import secret_of as hook_secret_of
from skyloom.rooms.triggers.running import Runner
from skyloom.rooms.triggers.service import Triggers
from skyloom.rooms.webhooks import ports as webhooks_ports
from skyloom.rooms.webhooks.rules import secret_of
from skyloom.rooms.webhooks.service import Webhooks
from skyloom.series.local import LocalSeries
from skyloom.settings import Settings, package_variables
from skyloom.stored import COLLECTIONS, KINDS, LOGS
from skyloom.stores.folder_lock import FolderLock
from skyloom.stores.pool_tokens import LocalPoolTokens
from skyloom.stores.replica_files import LocalReplicaFiles
from skyloom.stores.sealing import AesGcmSealer
from skyloom.stores.signing import Ed25519Signer
from skyloom.stores.sqlite import SqliteStore
from skyloom.tables.lance import LanceTables

_DRAFT_AGE_S = 86_400


class Embedded:
    """Everything of a cloud on one machine, in one folder. The composition root.

    Raises `FolderInUse`, `NotPermitted`, `StorageFull`, `Unavailable` when it cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = ""
        self.settings = settings
        self.lock = FolderLock(settings.home)
        self._services: list[RoomService] = []
        self._loops: list[Loop] = []
        self._open(settings)
        self._build_compute(settings)
        self._build_life(settings)
        self._build_events()
        self._build_fleet(settings)
        self._build_views()
        handlers = {kind: handler for service in self._services for kind, handler in service.handlers().items()}
        self.token_file = settings.home / "token"
        if not self.token_file.exists():
            write_private(self.token_file, self._tenancy.install().encode())
        self._job_loop.adopt()
        self.cloud = Cloud(self.store, self._clock, self._tenancy, handlers, self._loops, KINDS)
        self.cloud.cause_of = cause_of

    def _open(self, settings: Settings) -> None:
        """The adapters: disk, database, processes."""
        home: Path = settings.home
        for name in ("blobs", "tables", "series", "engine", "shared", "requests"):
            (home / name).mkdir(mode=0o700, exist_ok=True)
        self._clock, self._ids = SystemClock(), RandomIds()
        self.store: Store = SqliteStore(home / "skyloom.db", COLLECTIONS, LOGS, _crash_hook(settings.crash_at))
        self.blobs = LocalBlobs(home / "blobs")
        self.blobs.sweep(older_than_s=_DRAFT_AGE_S, now=self._clock.now())
        self.series = LocalSeries(home / "series")
        self.engine: Engine = _engine(settings)
        self._subscribers: list[Subscriber] = []
        self._outbox = Outbox(self._clock, self._subscribers)

    def _build_compute(self, settings: Settings) -> None:
        """Who may do what, jobs and what they cost."""
        store, clock, ids = self.store, self._clock, self._ids
        key = _secret_key(settings.home / "secret")
        self._tenancy = Tenancy(store, clock, ids, key)
        shared, tables = str(settings.home / "shared"), str(settings.home / "tables")
        secrets = Secrets(store, clock, ids, AesGcmSealer(), _secret_key(settings.home / "master"))
        plans = Plans(self.blobs, shared, self._tenancy.task_secret, lambda: self.url, tables, secrets=secrets)
        self._budgets, self._cost = _cost(store, clock, ids, self._outbox, _prices(settings))
        plans.lasts_s = lasting(store, self._budgets)
        self._plans = plans
        writer, waits = JobWriter(clock, self._outbox, self._budgets), Waits()
        tokens = LocalPoolTokens(settings.home / "pools")
        # Two clouds may use one cluster: what is ours there carries a name that comes from this installation's secret.
        cloud = digests.of_bytes(b"engine of " + key).removeprefix("sha256:")[:12]
        engines = PoolEngines(settings.home / "ray", cloud, warm=settings.warm_pool)
        self._fleet = Fleet(self.engine, engines, tokens, pools_ports.stored_in(store))
        self._pools = Pools(store, clock, self._fleet, tokens, occupancy, Stranded(clock, writer))
        workers = OpenWorkers(settings.max_workers)
        self._jobs = Jobs(store, clock, ids, writer, self._fleet, self.blobs, waits, secrets, self._budgets, workers)
        launches = self._launches = Launches(store, clock, writer, self._fleet, plans, waits, PoolHands())
        contact = Contact(self._fleet, PoolHands())
        self._job_loop = JobLoop(store, clock, writer, self._fleet, launches, contact, waits, budgets=self._budgets)
        self._tenancy.project_of_live_task = self._jobs.project_of_live_task
        self._arrays = Arrays(store, clock, ids, self.blobs, self._jobs, settings.max_arrays)
        self._schedules = Schedules(
            store, clock, ids, self._outbox, self._jobs, self._tenancy.lost_right, settings.max_schedules
        )
        templates = self._templates = Templates(store, clock, ids, self._jobs, self._arrays, self._schedules)
        self._cost.unfinished, self._budgets.spenders = self._jobs.unfinished, spenders
        self._cost.titles = {CostBy.JOB: titles, CostBy.ENDPOINT: serving_ports.titles}
        self._subscribers.append(self._cost.on_task_ended)
        self.sessions = Sessions(clock, ids, self._fleet, self._jobs.status)
        outbound = HttpOutbound([host.strip() for host in settings.webhook_hosts.split(",") if host.strip()])
        webhooks = Webhooks(store, clock, ids, outbound, partial(secret_of, key))
        self._services.append(webhooks)
        self._services += [self._tenancy, secrets, Scheduling(store, clock), self._pools]
        self._services += [self._jobs, self.sessions, self._arrays, self._schedules, templates, self._cost]
        outlook = JobOutlook(clock, waits, self._job_loop.picture)
        retention = Retention(store, clock, settings.event_days * 86_400.0, settings.audit_days * 86_400.0)
        live, paid = jobs_ports.COLLECTIONS, (cost_ports.BUDGETS, cost_ports.PRICES)
        placed = (*pools_ports.COLLECTIONS, *scheduling_ports.COLLECTIONS)
        rounds = Loop("jobs", self._job_loop.tick, (*live, *paid, *placed))
        launches.done = rounds.wake
        self._loops += [
            Loop("pools", self._pools.tick, pools_ports.COLLECTIONS),
            rounds,
            Loop("outlook", outlook.tick, live, CALM),
            Loop("budgets", self._budgets.tick, paid),
            Loop("webhooks", webhooks.tick, (*webhooks_ports.COLLECTIONS, EVENTS), STEADY),
            Loop("dependencies", self._jobs.dependencies.tick, live, STEADY),
            Loop("arrays", self._arrays.tick, arrays_ports.COLLECTIONS, STEADY),
            Loop("schedules", self._schedules.tick, schedules_ports.COLLECTIONS),
            Loop("tenancy", self._tenancy.tick),
            Loop("retention", retention.tick, (), CALM),
        ]

    def _build_life(self, settings: Settings) -> None:
        """The life of a model: data, runs, models, endpoints, what is seen of them."""
        store, clock, ids = self.store, self._clock, self._ids
        self.tables = LanceTables(settings.home / "tables")
        self._data = Datasets(store, clock, ids, self._outbox, self.blobs, self.tables, self._jobs)
        monitoring = self._monitoring = Monitoring(store, clock, ids, self._outbox, self.blobs)
        self._subscribers.append(monitoring.on_budget_reached)
        registry = self._registry = Registry(store, clock, ids, self._outbox, self.blobs)
        self._jobs.resolve_mount = resolver(self._data, registry)
        self._cost.models_of_runs = models_of_runs
        files = LocalReplicaFiles(
            settings.home / "requests",
            self.blobs,
            keep_s=settings.request_log_days * 86_400.0,
            keep_bytes=parse_bytes(settings.request_log_size),
        )
        self._serving = Serving(
            store, clock, ids, self._outbox, self._tenancy, self._jobs, monitoring, registry, self.blobs, files
        )
        self._serving.notice = self._notice
        hash_key = _secret_key(settings.home / "master")
        sample_logs = SampleLogs(store, clock, self._data, files, self._serving.find, partial(_sampling_key, hash_key))
        feedback = Feedback(store, clock, RequestAnswers(store, self._serving.find, self._serving.find_prediction))
        tracking = Tracking(store, self.series, self._jobs)
        training = Training(store, clock, ids, self._jobs, found_in(self._data), __version__)
        planning = self._planning = Planning(
            store, clock, ids, self._outbox, ScipyCurves(), self._jobs, tracking, _hour_price(Prices(store, clock, ids))
        )
        self._subscribers.append(planning.on_job_ended)
        batch = self._batch = BatchPredictions(store, self._data, registry, self._jobs, _idle_cpus(self._fleet))
        self._services += [
            monitoring,
            registry,
            self._data,
            tracking,
            training,
            planning,
            self._serving,
            batch,
            feedback,
            sample_logs,
        ]
        who = (tenancy_ports.PROJECTS, tenancy_ports.TOKENS)  # replicas are told who may ask them
        served = (*serving_ports.COLLECTIONS, *registry_ports.COLLECTIONS, *quality_ports.COLLECTIONS, *who)
        self._loops += [
            Loop("monitoring", monitoring.tick, monitoring_ports.COLLECTIONS),
            Loop("serving", self._serving.tick, served),
            Loop("sampling", sample_logs.tick, sampling_ports.COLLECTIONS, STEADY),
            Loop("feedback", feedback.trim, (), CALM),
            Loop("request logs", self._serving.trim_logs, (), CALM),
            Loop("planning", planning.tick, planning_ports.COLLECTIONS, CALM),
        ]

    def _build_events(self) -> None:
        """Functions, and what is done by itself when something happens."""
        store, clock, ids = self.store, self._clock, self._ids
        errands = HttpErrands()
        ended = EndedCalls(parse_bytes(self.settings.answer_size))
        self._functions = Functions(store, clock, ids, self._tenancy, self._serving, errands, ended)
        self._functions.notice = self._notice
        calls = Loop("functions", self._functions.tick, functions_ports.COLLECTIONS)
        errands.done = calls.wake
        runner = Runner(ids, self._functions, self._templates, self._jobs, self._batch)
        secret_of = partial(hook_secret_of, _secret_key(self.settings.home / "secret"))
        keep_s, keep_bytes = self.settings.hook_days * 86_400.0, parse_bytes(self.settings.hook_size)
        bodies = HookBodies(store, clock, keep_s, keep_bytes)
        self._plans.told_files = bodies.files_for
        self._subscribers.append(bodies.on_job_ended)
        self.triggers = Triggers(
            store, clock, ids, self._outbox, self._tenancy, self._functions, runner, bodies, secret_of
        )
        self.triggers.notice = self._notice
        watched = (*triggers_ports.COLLECTIONS, functions_ports.INVOCATIONS, EVENTS)
        self._services += [self._functions, self.triggers]
        self._loops += [calls, Loop("triggers", self.triggers.tick, watched, STEADY)]

    def _build_fleet(self, settings: Settings) -> None:
        """Devices, and what is rolled out to them."""
        store, clock, ids = self.store, self._clock, self._ids
        master_key = _secret_key(settings.home / "master")
        keys = DeviceKeys(store, clock, ids, AesGcmSealer(), Ed25519Signer(), master_key)
        board, keeping = FleetBoard(clock), Keeping(store, clock, settings.device_history_days * 86_400.0)
        fleets = Fleets(store, clock, self.blobs, self._monitoring)
        self.devices = Devices(store, clock, ids, self._tenancy, keys, board, keeping, fleets)
        rollouts = Rollouts(store, clock, ids, self._outbox, self._registry, self.blobs, board, fleets)
        self._tenancy.project_of_device = self.devices.project_of_device
        self._tenancy.project_of_code = self.devices.project_of_code
        self._services += [self.devices, rollouts, Gathering(store, self.blobs, self._data)]
        self._loops += [
            Loop("rollouts", rollouts.tick, (devices_ports.ROLLOUTS,), STEADY),
            Loop("device keys", keys.tick, (devices_ports.KEY_RINGS,), STEADY),
            Loop("fleets", fleets.tick, (devices_ports.FLEETS,), CALM),
            Loop("device history", keeping.tick, (), CALM),
        ]

    def _build_views(self) -> None:
        """What looks over several rooms."""
        home: Path = self.settings.home
        lineage = Lineages(
            self.store, self.tables, RoomSources(self._serving.find_prediction, self.devices.find_prediction)
        )
        overview = Overview(
            self.store,
            self._clock,
            self._pools.capacity,
            about=lambda: (__version__, self.url, os.getpid(), shutil.disk_usage(home).free),
            explainers=_explainers(
                self._jobs, self._arrays, self._schedules, self._data, self._planning, self._serving, self._budgets
            ),
            counts=_COUNTS,
        )
        self._services += [lineage, overview]

    def _notice(self, touched: set[str]) -> None:
        """What a loop wrote is noticed as what a caller wrote: a replica that somebody waits for starts at once."""
        for loop in self._loops:
            loop.notice(touched)

    def close(self) -> None:
        """Close everything in order; jobs go on running."""
        self.cloud.close()
        self._functions.close()
        self._launches.close()
        self._fleet.close()
        self.engine.close()
        self.series.close()
        self.store.close()
        self.lock.close()


_COUNTS = {
    "jobs": explainers.count_jobs,
    "endpoints": explainers.count_endpoints,
    "alerts": explainers.count_alerts,
}


def _explainers(
    jobs: Jobs,
    arrays: Arrays,
    schedules: Schedules,
    data: Datasets,
    planning: Planning,
    serving: Serving,
    budgets: Budgets,
) -> dict[str, explainers.Explainer]:
    """Who answers `skyloom why`, by the prefix of an id."""
    return {
        "job": explainers.of_jobs(jobs),
        "array": explainers.of_arrays(arrays),
        "schedule": explainers.of_schedules(schedules),
        "run": explainers.of_runs(jobs),
        "plan": explainers.of_plans(planning),
        "dataset": explainers.of_datasets(data),
        "ep": explainers.of_endpoints(serving),
        "alert": explainers.explain_alert,
        "budget": explainers.of_budgets(budgets),
    }


def _engine(settings: Settings) -> LocalEngine:
    home: Path = settings.home
    return LocalEngine(
        home / "engine",
        python=sys.executable,
        capacity=_capacity(settings),
        warm=settings.warm_pool,
        environments=home / "environments",
        package_variables=package_variables(),
        max_environment_bytes=parse_bytes(settings.environment_cache),
        mounts=home / "mounts",
        max_mount_bytes=parse_bytes(settings.mount_cache),
    )


def _idle_cpus(fleet: Fleet) -> Callable[[Snapshot], float]:
    """Cores of this machine that nothing holds."""

    def idle(view: Snapshot) -> float:
        total = sum(machine.total.cpus for machine in fleet.links()[LOCAL].machines)
        return total - sum(use.resources.cpus for (pool, _), use in occupancy(view).items() if pool == LOCAL)

    return idle


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


def _cost(store: Store, clock: SystemClock, ids: RandomIds, outbox: Outbox, book: PriceBook) -> tuple[Budgets, Cost]:
    """The room of cost, with what the settings say of prices and the sums of an older ledger in place."""
    prices = Prices(store, clock, ids)
    prices.pools = pools_ports.pool_names
    prices.install(book)
    budgets = Budgets(store, clock, ids, outbox, prices)
    cost = Cost(store, clock, prices, budgets)
    cost.install()
    return budgets, cost


def _hour_price(prices: Prices) -> planning_ports.HourPrice:
    """What a worker costs in an hour."""
    return lambda view, resources, pool, now: worth(resources, 3600, prices.history(view).book(pool, now)).usd


def _secret_key(path: Path) -> bytes:
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _sampling_key(key: bytes, endpoint: str) -> str:
    """The key of the hashes in one endpoint's samples; no record holds it."""
    return hmac.new(key, f"sampling {endpoint}".encode(), hashlib.sha256).hexdigest()


def _crash_hook(crash_at: str) -> Callable[[str, int], None] | None:
    """Tests only: kill this process around its K-th commit (``before:3``)."""
    if not crash_at:
        return None
    wanted_phase, _, wanted = crash_at.partition(":")

    def hook(phase: str, count: int) -> None:
        if (phase, str(count)) == (wanted_phase, wanted):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
