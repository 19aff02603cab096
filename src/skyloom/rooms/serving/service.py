"""The service of serving: takes endpoints in, tells of them, and in a loop has done what is wanted of them."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from skyloom.core import digests
from skyloom.core.bounds import Digest
from skyloom.core.events import Moved, Noted
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.core.resources import Resources
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.engine import PythonModule
from skyloom.ports.lookup import listed, named, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.jobs.model import JobSpec, SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.registry.bundle import MANIFEST_FILE, PROFILE_FILE
from skyloom.rooms.registry.model import NEWEST, ModelVersion
from skyloom.rooms.registry.ports import VERSIONS
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.registry.services import ServiceMethod
from skyloom.rooms.serving import model, predictions
from skyloom.rooms.serving.autoscaler import Autoscaler, check_asked, check_gpu, size_of
from skyloom.rooms.serving.changes import SafeChange
from skyloom.rooms.serving.gateways import Gateways, runs
from skyloom.rooms.serving.judging import QualityReports
from skyloom.rooms.serving.model import Endpoint, EndpointStatus, Replica, Revision
from skyloom.rooms.serving.offer import EVERYBODY, check_offer
from skyloom.rooms.serving.outlook import Outlook, newest_revision, revisions_of, url_of
from skyloom.rooms.serving.packs import Packs
from skyloom.rooms.serving.ports import ENDPOINTS, REPLICAS, REVISIONS, ReplicaFiles
from skyloom.rooms.serving.progress import TrafficProgress
from skyloom.rooms.serving.reconciler import Reconciler
from skyloom.rooms.serving.replicas import MODULE, Heard, RoutesHeard, default_resources, spec_of
from skyloom.rooms.serving.tables import RouteTables
from skyloom.rooms.serving.traffic_writer import SplitWriter
from skyloom.rooms.tenancy.service import Tenancy

log = logging.getLogger("skyloom.serving")

_TICK_S, _ROUTED_TICK_S, _EAGER_S = 1.0, 0.5, 0.1
_FAR = 2**60  # behind the end of any log
_TRIM_S = 60.0
T = TypeVar("T")


class Serving:
    """Endpoints of all projects."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        tenancy: Tenancy,
        jobs: Jobs,
        monitoring: Monitoring,
        registry: Registry,
        blobs: Blobs,
        files: ReplicaFiles,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._tenancy = tenancy
        self._jobs = jobs
        self._monitoring = monitoring
        self._registry = registry
        self._blobs = blobs
        self._files = files
        self._heard = Heard(clock)
        self._routes_heard = RoutesHeard(clock)
        self._outlook = Outlook(clock, jobs, self._heard, self._routes_heard)
        writer = SplitWriter(clock, outbox, monitoring, self._outlook)
        self._changes = SafeChange(store, clock, ids, outbox, self._outlook, writer, self.find)
        self._quality = QualityReports(store, clock, self.find)
        self._progress = TrafficProgress(store, clock, writer)
        self._gateways = Gateways(store, clock, ids, outbox, jobs, blobs, files, self._routes_heard)
        self._tables = RouteTables(store, clock, self._outlook, self._heard, files)
        self._packs = Packs(store, registry, outbox, blobs, files, monitoring)
        self.autoscaler = Autoscaler(store, clock, outbox, files)
        # Told which collections a round wrote to; whoever builds the cloud lets it wake the loops that watch them.
        self.notice: Callable[[set[str]], None] = lambda touched: None
        self._reconciler = Reconciler(
            store,
            clock,
            ids,
            outbox,
            jobs,
            blobs,
            files,
            self._outlook,
            drop_fallback=self._changes.drop_fallback,
            notice=lambda touched: self.notice(touched),  # noqa: PLW0108 (it is given later)
        )
        self._tick_lock = threading.Lock()

    def handlers(self) -> Handlers:
        return {
            model.Deploy: Change(self.deploy, before=self.check),
            model.ListEndpoints: Query(self.list),
            model.GetEndpoint: Query(self.get),
            model.StopEndpoint: Change(self.stop),
            model.PackModels: Change(self.pack, before=self._packs.check),
            model.ReportTraffic: Query(self.report),
            model.ReportRoutes: Query(self.report_routes),
            model.FindPrediction: Query(self.find_prediction),
            **self._changes.handlers(),
            **self._quality.handlers(),
        }

    # Taking in

    def check(self, ask: model.Deploy, by: Caller) -> None:
        """Refuse what can never run, and bring the manifest to the blobs: a replica's folder holds it as a file."""
        if ask.scaling is not None:
            check_asked(ask.scaling, self._clock.now())
        version = self._store.read(lambda view: self._version(view, ask, by))
        digest, _ = self._blobs.put([_manifest(version)])
        draft = self._endpoint_of(ask, by)
        revision = self._revision_of(draft, ask, version, ask.resources or default_resources(version), None)
        self._jobs.check(SubmitJob(spec=spec_of(draft, revision, digest)), by)

    def deploy(self, tx: Transaction, ask: model.Deploy, by: Caller) -> EndpointStatus:
        version = self._version(tx, ask, by)
        self._check_secrets(tx, ask, version, by)
        known = named(tx, ENDPOINTS, ask.name or ask.model, by.project)
        endpoint = known or tx.insert(ENDPOINTS, self._endpoint_of(ask, by))
        latest = newest_revision(tx, endpoint)
        resources = ask.resources or (latest.resources if latest else default_resources(version))
        size = {**size_of(ask, endpoint), "num_gateways": ask.num_gateways or endpoint.num_gateways}
        check_gpu(size["scaling"], resources.gpus, self._files.reads_gpu)
        draft = self._revision_of(endpoint, ask, version, resources, latest)
        check_offer(draft.cache, resources.memory_bytes)
        wanted = changed(endpoint, {"model": ask.model, "stopped_by": "", "lanes": draft.lanes, **size})
        if latest is not None and _serves(latest) == _serves(draft) and not endpoint.stopped_by:
            wanted = self._changes.deployed_again(tx, endpoint, wanted, ask)
        else:
            wanted = changed(wanted, {"revision": endpoint.revision + 1})
            revision = tx.insert(REVISIONS, changed(draft, {"number": wanted.revision}))
            wanted = self._changes.deployed(tx, endpoint, wanted, ask)
            if not ask.hold:
                self._monitoring.watch(tx, by.project, endpoint.id, endpoint.name, revision.profile)
            news = Moved(before=str(endpoint.revision), after=str(wanted.revision), reason="deploy", message=version.id)
            self._outbox.publish(tx, by.project, endpoint.id, news)
        if wanted != endpoint:
            woken, endpoint = bool(endpoint.stopped_by), tx.update(ENDPOINTS, wanted)
            if woken:
                self._packs.watch(tx, endpoint)
        return self.status(tx, endpoint)

    def _check_secrets(self, view: Snapshot, ask: model.Deploy, version: ModelVersion, by: Caller) -> None:
        """Raise `SecretMissing`, `SecretsForNobody`."""
        if ask.secrets and version.manifest.service is None:
            raise model.SecretsForNobody(
                f"{version.model} is a model, and reads no secrets.", next_action="Leave them out; services have them."
            )
        self._jobs.check_named(view, JobSpec(entry=PythonModule(module=MODULE), secrets=ask.secrets or ()), by.project)

    def stop(self, tx: Transaction, ask: model.StopEndpoint, by: Caller) -> EndpointStatus:
        endpoint = self.find(tx, ask.name, by.project)
        if not endpoint.stopped_by:
            endpoint = tx.update(ENDPOINTS, changed(endpoint, {"stopped_by": by.principal}))
            self._monitoring.unwatch(tx, endpoint.id)
            self._packs.unwatch(tx, endpoint)
            self._changes.stopped(tx, endpoint, by.principal)
            self._outbox.publish(tx, by.project, endpoint.id, Noted(message=f"Stopped by {by.principal}."))
        return self.status(tx, endpoint)

    def pack(self, tx: Transaction, ask: model.PackModels, by: Caller) -> EndpointStatus:
        endpoint = self.find(tx, ask.name, by.project)
        return self.status(tx, self._packs.pack(tx, endpoint, ask, by))

    def report(self, ask: model.ReportTraffic, by: Caller) -> model.Reported:
        replica, revision = self._store.read(lambda view: _replica_of(view, ask.replica))
        if replica is None or revision is None or not by.is_task_of(replica.job_id):
            raise model.NotAReplica(
                f"{by.principal} does not run replica {ask.replica}.", next_action="Only a replica reports for itself."
            )
        if self._heard.take(ask):
            self.notice({REPLICAS.name})  # somebody may wait for it, at the gateway
        self._monitoring.observe(
            replica.endpoint_id, replica.id, ask.traffic, profile=revision.profile, started_at=replica.created_at
        )
        if ask.guest_traffic:
            self._packs.observe(replica, ask.guest_traffic)
        return model.Reported(stop=replica.stopped_at is not None)

    def report_routes(self, ask: model.ReportRoutes, by: Caller) -> model.Reported:
        gateway, own = self._store.read(
            lambda view: (
                runs(view, ask.gateway, by),
                {item.id for item in view.select(ENDPOINTS, {"project": by.project, "stopped_by": ""})},
            )
        )
        if gateway is None:
            raise model.NotAGateway(
                f"{by.principal} does not run gateway {ask.gateway}.", next_action="Only a gateway reports for itself."
            )
        self._routes_heard.take(by.project, ask)
        waiting = [
            route.endpoint for route in ask.routes if route.endpoint in own and self.autoscaler.hear(ask.gateway, route)
        ]
        if waiting:
            self.notice({ENDPOINTS.name})  # a request waits and nobody is there: look at once
        return model.Reported(stop=gateway.stopped_at is not None)

    def _version(self, view: Snapshot, ask: model.Deploy, by: Caller) -> ModelVersion:
        return self._registry.version(view, ask.model, ask.version or NEWEST, by.project)

    def _endpoint_of(self, ask: model.Deploy, by: Caller) -> Endpoint:
        return Endpoint(
            id=self._ids.new("ep"),
            project=by.project,
            name=ask.name or ask.model,
            model=ask.model,
            revision=0,
            num_replicas=ask.num_replicas or 1,
            created_at=self._clock.now(),
            created_by=by.principal,
        )

    def _revision_of(
        self,
        endpoint: Endpoint,
        ask: model.Deploy,
        version: ModelVersion,
        resources: Resources,
        latest: Revision | None,
    ) -> Revision:
        files: dict[str, Digest] = {file.path: file.digest for file in version.manifest.files}
        return Revision(
            id=self._ids.new("rev"),
            project=endpoint.project,
            endpoint_id=endpoint.id,
            number=endpoint.revision,
            model=version.model,
            model_version=version.id,
            version_label=str(version.number),
            resources=resources,
            files={**files, MANIFEST_FILE: digests.of_bytes(_manifest(version))},
            profile=files.get(PROFILE_FILE, ""),
            python=version.manifest.service.python if version.manifest.service else None,
            picture_urls=latest.picture_urls if latest and ask.picture_urls is None else bool(ask.picture_urls),
            secrets=latest.secrets if latest and ask.secrets is None else ask.secrets or (),
            cache=ask.cache or (latest.cache if latest else None),
            lanes=ask.lanes or (latest.lanes if latest else None),
            created_at=self._clock.now(),
        )

    # Looking

    def find(self, view: Snapshot, name: str, project: str) -> Endpoint:
        """An endpoint by its name or id. Raises `EndpointMissing`, for somebody else's just the same."""
        endpoint = owned(view, ENDPOINTS, name, project) or named(view, ENDPOINTS, name, project)
        if endpoint is None:
            raise model.EndpointMissing(
                f"There is no endpoint {name}.", next_action="List them: skyloom endpoint list."
            )
        return endpoint

    def get(self, ask: model.GetEndpoint, by: Caller) -> EndpointStatus:
        return self._store.read(lambda view: self.status(view, self.find(view, ask.name, by.project)))

    def list(self, ask: model.ListEndpoints, by: Caller) -> Page[EndpointStatus]:
        where = {"project": by.project} | ({"stopped_by": ""} if ask.live else {})
        return self._store.read(lambda view: listed(view, ENDPOINTS, where, ask).shown(partial(self.status, view)))

    def find_prediction(self, ask: model.FindPrediction, by: Caller) -> model.PredictionRecord:
        replica_id, offset = predictions.locate(ask.prediction_id)

        def work(view: Snapshot) -> tuple[Endpoint, Revision, Replica] | None:
            replica, revision = _replica_of(view, replica_id)
            endpoint = view.get(ENDPOINTS, replica.endpoint_id) if replica else None
            if replica is None or revision is None or endpoint is None or replica.project != by.project:
                return None
            return endpoint, revision, replica

        found = self._store.read(work)
        if found is None:
            raise predictions.missing(ask.prediction_id)
        endpoint, revision, replica = found
        content = self._files.read_log(replica_id, offset)
        if content is None and (replica.ended_at is not None or self._files.read_log(replica_id, _FAR) is not None):
            raise predictions.expired(ask.prediction_id, endpoint.name, revision.number, revision.id)
        prediction = predictions.read_line(ask.prediction_id, content or b"")
        return model.PredictionRecord(prediction=prediction, endpoint=endpoint, revision=revision, replica=replica)

    def status(self, view: Snapshot, endpoint: Endpoint) -> EndpointStatus:
        """An endpoint and what it is doing."""
        status = self._outlook.status(view, endpoint)
        return msgspec.structs.replace(status, scale=self.autoscaler.note(endpoint))

    # What the functions room asks

    def methods(self, view: Snapshot, endpoint: Endpoint, *, newest: bool = False) -> tuple[ServiceMethod, ...]:
        """What can be called at an endpoint of your own Python: of the revision that has the traffic, or of the newest; () of a model."""
        number = endpoint.revision if newest else endpoint.current
        revision = revisions_of(view, endpoint).get(number)
        version = view.get(VERSIONS, revision.model_version) if revision else None
        return version.manifest.service.methods if version and version.manifest.service else ()

    def url(self, endpoint: Endpoint) -> str:
        """Where an endpoint is asked, over REST, on this machine; "" until it has a port."""
        return url_of(endpoint)

    def num_arrived(self, endpoint: Endpoint) -> int:
        """How many requests have come since the gateway before it began."""
        return self._routes_heard.num_arrived(endpoint.project, endpoint.id)

    # The loop

    def trim_logs(self) -> float:
        """Remove what request logs need not keep any more. Returns the seconds after which to do so again."""
        live = self._store.read(lambda view: {replica.id for replica in view.select(REPLICAS, {"ended_at": None})})
        self._files.trim_logs(live)
        return _TRIM_S

    def tick(self) -> float:
        """One round of the loop. Returns the seconds after which the next one is due."""
        with self._tick_lock:
            endpoints = self._store.read(self._unsettled)
            self._publish_access(endpoints)
            known = {endpoint.id for endpoint in endpoints}
            self.autoscaler.keep(lambda endpoint_id: endpoint_id in known)
            for endpoint in endpoints:
                _each(self._packs.publish, endpoint, None)
            self._progress.keep(lambda endpoint_id: endpoint_id in known)
            looks = [_each(self._move_on, endpoint, (False, _TICK_S)) for endpoint in endpoints]
            moved = any(changes for changes, _ in looks)
            if moved:
                endpoints = self._store.read(self._unsettled)
            needed = self._tables.publish(endpoints)
            busy = self._gateways.tick(needed) or moved
            waits = [_each(self._reconciler.bring_about, endpoint, _TICK_S) for endpoint in endpoints]
            waits += [again_s for _, again_s in looks]
            return min([_EAGER_S if busy else _ROUTED_TICK_S if needed else _TICK_S, *waits])

    def _move_on(self, endpoint: Endpoint) -> tuple[bool, float]:
        """Decide how many and which revisions are to answer, before anybody is told; whether that changed, and when to look again."""
        again_s, before = _TICK_S, endpoint.version
        if endpoint.scaling is not None and not endpoint.stopped_by:
            situation = self._store.read(lambda view: self._outlook.situation(view, endpoint))
            endpoint, again_s = self.autoscaler.look(endpoint, situation.seen)
        return self._progress.advance(endpoint) or endpoint.version != before, again_s

    def _unsettled(self, view: Snapshot) -> Sequence[Endpoint]:
        wanted = {endpoint.id: endpoint for endpoint in view.select(ENDPOINTS, {"stopped_by": ""})}
        live = view.select(REPLICAS, {"ended_at": None})
        ids = {replica.id for replica in live}
        self._heard.keep(lambda replica_id: replica_id in ids)
        stopping = {replica.endpoint_id for replica in live} - set(wanted)
        found = [view.get(ENDPOINTS, endpoint_id) for endpoint_id in stopping]
        return [*wanted.values(), *(endpoint for endpoint in found if endpoint is not None)]

    def _publish_access(self, endpoints: Sequence[Endpoint]) -> None:
        for project in sorted({endpoint.project for endpoint in endpoints}):
            self._files.publish_access(project, self._store.read(partial(self._tenancy.predictors, project=project)))
        for endpoint in endpoints:
            if endpoint.lanes is not None:
                names = None if EVERYBODY in endpoint.lanes.urgent else frozenset(endpoint.lanes.urgent)
                find = partial(self._tenancy.predictors, project=endpoint.project, names=names)
                self._files.publish_urgent(endpoint.id, self._store.read(find))


def _each(step: Callable[[Endpoint], T], endpoint: Endpoint, otherwise: T) -> T:
    """One endpoint that cannot be brought on holds up no other."""
    try:
        return step(endpoint)
    except Exception:
        log.exception("endpoint %s is left as it is; the others go on, and the next round tries again", endpoint.id)
        return otherwise


def _replica_of(view: Snapshot, replica_id: str) -> tuple[Replica | None, Revision | None]:
    replica = view.get(REPLICAS, replica_id)
    return replica, view.get(REVISIONS, replica.revision_id) if replica else None


def _serves(revision: Revision) -> tuple[object, ...]:
    """What makes one revision another one."""
    asked = revision.picture_urls, revision.secrets, revision.cache, revision.lanes
    return revision.model_version, revision.resources, *asked


def _manifest(version: ModelVersion) -> bytes:
    return msgspec.json.encode(version.manifest)
