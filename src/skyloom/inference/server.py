"""One replica as a process: load, claim the ports, answer, drain. The only place that puts the data plane's parts together."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.durable import write_private
from skyloom.inference import model as models
from skyloom.inference.access import AccessList
from skyloom.inference.batcher import Batcher
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.forms import Form, read_texts
from skyloom.inference.gpu import GpuReader, GpuUnreadable, open_gpu
from skyloom.inference.journal import Journal, LogFile, PredictionLog
from skyloom.inference.lanes import open_lanes
from skyloom.inference.memory import settle_memory
from skyloom.inference.model import Model
from skyloom.inference.pace import Pace
from skyloom.inference.packing.gauge import gauge
from skyloom.inference.packing.guest import Arrived, Guest, loader
from skyloom.inference.packing.guests import GuestHouse
from skyloom.inference.plan_files import read_plan_file
from skyloom.inference.ports import PortClaim, listen
from skyloom.inference.priorities import PriorityBatcher
from skyloom.inference.report import Reporter
from skyloom.inference.response_cache import ResponseCache
from skyloom.inference.sampling import GuestLog, SampledLog, Sampler
from skyloom.inference.services.hosted import PLATFORM as HOSTED_PLATFORM
from skyloom.inference.services.hosted import hosted_spec, is_hosted
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.services.tensors import PLATFORM, ServiceModel
from skyloom.inference.services.writing import PLATFORM as WRITING_PLATFORM
from skyloom.inference.services.writing import WAITING_FOR_EACH, writes, writing_spec
from skyloom.inference.statistics import Timekeeper
from skyloom.inference.tensors import Contract
from skyloom.inference.traffic import TrafficCounter
from skyloom.inference.wire.grpc_site import GrpcSite
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.http2 import Http2Connections
from skyloom.inference.wire.offer_desk import OfferDesk
from skyloom.inference.wire.private import PrivateSite
from skyloom.inference.wire.rest import Rest
from skyloom.inference.wire.service_site import ServiceSite
from skyloom.inference.wire.site import Site
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.services import ServiceSpec
from skyloom.rooms.serving.plan import Listening, ServePlan
from skyloom.settings import TaskEnvironment

OnReady = Callable[[int], object]
_SWEEP_S = 1.0
_MAX_WAITING = 1_000
_GUESSED = {
    1: 0.010,
    16: 0.012,
}  # seconds by rows, of a service: zeros may mean something to it, so it is not tried out


class PlanRefused(InvalidInput):
    """The plan file cannot be read, or asks for what is not allowed."""


class Replica:
    """The running replica. Make it on the event loop that it will live on."""

    def __init__(
        self,
        plan: ServePlan,
        folder: Path,
        model: Model,
        pace: Pace,
        process: ServiceProcess | None = None,
        on_ready: OnReady = lambda _: None,
    ) -> None:
        self._plan = plan
        self._log = LogFile(folder / plan.log_folder if plan.log_folder else None, plan.replica)
        self._access = AccessList(folder / plan.access_file)
        journal = Journal(self._log, plan.revision, model.manifest.signature)
        log: PredictionLog = journal
        self._sampler: Sampler | None = None
        if plan.sampling_file:
            rule_file, samples = folder / plan.sampling_file, folder / plan.samples_folder
            self._sampler = Sampler(rule_file, samples, plan.replica, model.manifest)
            log = SampledLog(journal, self._sampler)
        traffic = TrafficCounter(model.profile, model.manifest.signature)
        self._gpu = _gpu_of(plan)
        rule = plan.cache
        self._cache = ResponseCache(rule.size_bytes, rule.ttl_s) if rule is not None and rule.size_bytes else None
        self._urgent = AccessList(folder / plan.urgent_file) if plan.lanes is not None and plan.urgent_file else None
        self.plane = self._offering(plane_of(plan, model, pace, log, self._access, traffic))
        self.plane.cache = self._cache
        self.plane.form = Form(self.plane.contract, model.manifest, read_texts(folder / plan.bundle, model.manifest))
        if plan.pack_file:
            self.plane.guests = self._guests(folder / plan.pack_file)
        rest = Rest(self.plane)
        site: Site = rest
        self._service_site: ServiceSite | None = None
        if process is not None:
            self.plane.can_answer = lambda: process.ready
            if not is_hosted(model.manifest):
                site = self._service_site = ServiceSite(site, self.plane, process)
        self._grpc = GrpcSite(self.plane)
        entrance = PrivateSite(site, self._grpc) if plan.private else site
        self.connections = Connections(entrance, plan.limits, rest.place)
        self.grpc_connections = Http2Connections(self._grpc, plan.limits)
        self._folder = folder
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._claims: list[PortClaim] = []

    async def run(self, task: TaskEnvironment) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises `PortTaken` before anything was answered."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        self._claim()
        wanted: list[tuple[Callable[[], asyncio.Protocol], int]] = [(self.connections.accept, self._plan.rest_port)]
        if not self._plan.private:
            wanted.append((self.grpc_connections.accept, self._plan.grpc_port))
        listeners = [listen(self._plan.host, port) for _, port in wanted]
        ports = (listeners[0].getsockname()[1], 0 if self._plan.private else listeners[1].getsockname()[1])
        servers = [
            await loop.create_server(accept, sock=listener)
            for (accept, _), listener in zip(wanted, listeners, strict=True)
        ]
        reporter = Reporter(self.plane, task, ports, self._stopping.set, self._gpu) if task.url else None
        work = [asyncio.create_task(self._sweep())]
        if reporter:
            work.append(asyncio.create_task(reporter.run()))
        for item in work:
            item.add_done_callback(self._ended)
        settle_memory()
        self._say_ready(ports)
        self._on_ready(ports[0])
        try:
            await self._stopping.wait()
        finally:
            await self._drain(servers)
            for item in work:
                item.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            if reporter:
                await reporter.send()
                reporter.close()
            self.close()

    def close(self) -> None:
        """Let go of the models and the request log."""
        self.plane.close()
        if self.plane.guests is not None:
            self.plane.guests.close()
        self._log.close()

    def _offering(self, plane: DataPlane) -> DataPlane:
        """Put what the endpoint offers before a model's queue; a plain endpoint offers nothing, and pays nothing."""
        if self._cache is not None or self._plan.lanes is not None:
            plane.intake = OfferDesk(plane, self._cache, self._urgent)
        return plane

    def _guests(self, table: Path) -> GuestHouse:
        """The models beside this one: they write to its log, and count by themselves."""
        plan = self._plan

        def settle(guest: Guest, arrived: Arrived) -> DataPlane:
            entry, manifest = guest.entry, arrived.model.manifest
            guest.settled(arrived.model)
            journal = Journal(self._log, plan.revision, manifest.signature, entry.version)
            log: PredictionLog = journal if self._sampler is None else GuestLog(journal, self._sampler, manifest)
            own = msgspec.structs.replace(plan, model=entry.model, model_version=entry.label, manifest=entry.manifest)
            plane = plane_of(own, arrived.model, arrived.pace, log, self._access, guest.traffic, guest.times)
            plane.form = Form(plane.contract, manifest, read_texts(Path(entry.folder), manifest))
            return self._offering(plane)

        load = loader(plan, gauge(self._gpu))
        return GuestHouse(table, load, settle, plan.limits.timeout_s, plan.limits.max_queue_bytes)

    def _claim(self) -> None:
        for port in (self._plan.rest_port, self._plan.grpc_port):
            if port:
                folder = self._folder / self._plan.port_folder
                self._claims.append(PortClaim(folder, self._plan.endpoint, self._plan.host, port))

    def _ended(self, work: "asyncio.Task[None]") -> None:
        """Work that never ends has: without it nobody would learn of new tokens, or of this replica. Another one takes over."""
        if not work.cancelled():
            traceback.print_exception(work.exception(), file=sys.stderr)
            self._stopping.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.connections.sweep()
            self.grpc_connections.sweep()
            self.plane.access.refresh()
            if self._urgent is not None:
                self._urgent.refresh()
            if self.plane.guests is not None:
                self.plane.guests.refresh()
            self._grpc.look()
            if self._service_site is not None:
                self._service_site.look()
            if self._sampler is not None:
                self._sampler.refresh()

    async def _drain(self, servers: Sequence[asyncio.AbstractServer]) -> None:
        """Take nothing new, finish what is there, within the plan's time."""
        limit_s = self._plan.limits.drain_s
        await asyncio.sleep(0)  # connections that already stand in the accept queue still come in
        for server in servers:
            server.close()
        self._grpc.drain()
        for group in (self.connections, self.grpc_connections):
            group.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.connections.open or self.grpc_connections.open or not self.plane.is_idle:
                    await asyncio.sleep(0.02)
                    for group in (self.connections, self.grpc_connections):
                        group.sweep()
        self.plane.drain()

    def _say_ready(self, ports: tuple[int, int]) -> None:
        print(
            f"serving {self._plan.model} {self._plan.model_version} on REST {ports[0]} and gRPC {ports[1]}", flush=True
        )
        if self._plan.ready_file:
            listening = Listening(pid=os.getpid(), rest_port=ports[0], grpc_port=ports[1])
            write_private(self._folder / self._plan.ready_file, msgspec.json.encode(listening))


def plane_of(
    plan: ServePlan,
    model: Model,
    pace: Pace,
    log: PredictionLog,
    access: AccessList,
    traffic: TrafficCounter,
    times: Timekeeper | None = None,
) -> DataPlane:
    """What answers for one loaded model: its queue, its contract, its log."""
    kind = Batcher if plan.lanes is None else functools.partial(PriorityBatcher, share=plan.lanes.share)
    batcher = kind(
        model,
        pace,
        asyncio.get_running_loop(),
        max_queue_rows=plan.limits.max_queue_rows,
        max_queue_bytes=plan.limits.max_queue_bytes,
        settle=log.write,
        watch=traffic.watch,
        may_block=not model.is_remote,
        lanes=model.lanes,
    )
    batcher.times = times or batcher.times
    contract = Contract(model.manifest.signature, plan.limits.max_request_rows)
    return DataPlane(plan, contract, batcher, log, traffic, access, model.platform)


def _gpu_of(plan: ServePlan) -> GpuReader | None:
    """What reads the replica's GPU; said plainly where nothing can: then only cores' memory is counted, and nobody hears how busy it is."""
    if not plan.gpus:
        return None
    try:
        return open_gpu()
    except GpuUnreadable as error:
        print(f"the GPU's memory and work are not counted: {error}", file=sys.stderr)
        return None


def read_plan(path: Path) -> ServePlan:
    """Read and check a plan. Raises `PlanRefused`."""
    plan, loopback = read_plan_file(path, ServePlan, _refused)
    if not plan.behind_proxy:
        _check_inside(plan, loopback)
    return plan


def _check_inside(plan: ServePlan, loopback: bool) -> None:
    """What only a plan may do that says of itself that it stands behind a proxy."""
    if not loopback:
        raise _refused(f"host {plan.host} is not a loopback address, there is no TLS here, and it is not behind_proxy")
    if "*" in plan.allowed_hosts:
        raise _refused("allowed_hosts has '*', and it is not behind_proxy")
    if not plan.log_folder:
        raise _refused("log_folder is empty, and it is not behind_proxy")


async def serve(
    plan: ServePlan,
    folder: Path,
    task: TaskEnvironment,
    python: str = sys.executable,
    on_ready: OnReady = lambda _: None,
) -> None:
    """Load the bundle and serve it. Raises `BundleRefused`, `ModelFailed`, `PortTaken`, `ServiceUnfit`, `TensorMissing`.

    ``python`` is the interpreter of the environment that a service asked for; ``on_ready`` is told the REST port.
    """
    if plan.behind_proxy and task.job_id:
        raise _refused("behind_proxy is for exported plans, and this process is a job of a control plane")
    manifest = models.verify(folder / plan.bundle, plan.manifest)
    if manifest.service is not None:
        await _serve_service(plan, folder, task, manifest, manifest.service, python, on_ready)
        return
    if writes(manifest):
        await _serve_service(plan, folder, task, manifest, writing_spec(manifest), sys.executable, on_ready)
        return
    if is_hosted(manifest):
        spec = hosted_spec(plan.limits.timeout_s)
        await _serve_service(plan, folder, task, manifest, spec, sys.executable, on_ready)
        return
    threads = models.thread_count(plan.cpus)
    model = models.load_verified(folder / plan.bundle, manifest, threads, plan.gpus)
    pace = Pace.measure(model.rehearsal, plan.limits.max_batch_rows, work=model.work_clock)
    open_lanes(model, folder / plan.bundle, pace, threads, plan.gpus)
    await Replica(plan, folder, model, pace).run(task)


async def _serve_service(
    plan: ServePlan,
    folder: Path,
    task: TaskEnvironment,
    manifest: Manifest,
    spec: ServiceSpec,
    python: str,
    on_ready: OnReady,
) -> None:
    limits = plan.limits
    process = ServiceProcess(
        folder / plan.bundle,
        spec,
        python=python,
        threads=models.thread_count(plan.cpus),
        gpus=plan.gpus,
        max_waiting=_max_waiting(manifest, spec),
        max_waiting_bytes=limits.max_queue_bytes,
    )
    await process.start()
    try:
        session = ServiceModel(manifest, process, asyncio.get_running_loop())
        if is_hosted(manifest):
            profile = models.read_profile(folder / plan.bundle, manifest)
            model = Model(manifest, profile, session, HOSTED_PLATFORM, is_remote=True)
            pace = await asyncio.to_thread(Pace.measure, model.rehearsal, limits.max_batch_rows)
        else:
            platform = WRITING_PLATFORM if writes(manifest) else PLATFORM
            model = Model(manifest, Profile(), session, platform, is_remote=True)
            pace = Pace(_GUESSED, limits.max_batch_rows)
        await Replica(plan, folder, model, pace, process, on_ready).run(task)
    finally:
        await process.close()


def _max_waiting(manifest: Manifest, spec: ServiceSpec) -> int:
    """Calls that may wait for a process. Writing takes seconds, so few may."""
    return WAITING_FOR_EACH * spec.methods[0].concurrency if writes(manifest) else _MAX_WAITING


def _refused(reason: str) -> PlanRefused:
    return PlanRefused(
        f"The plan cannot be used: {reason}.", next_action="See rooms/serving/plan.py for what it holds."
    )
