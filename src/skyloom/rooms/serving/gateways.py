"""The life of gateways: one for each project with an endpoint that needs it, or as many as one of these asks for, which share their ports.

A gateway is a job, like a replica; it outlives the control plane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from skyloom.core.events import Moved, Noted
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.jobs.model import ENDED, CancelJob, JobMissing, SubmitJob
from skyloom.rooms.jobs.service import Jobs
from skyloom.rooms.serving.change import GatewayRun
from skyloom.rooms.serving.ports import GATEWAYS, ReplicaFiles
from skyloom.rooms.serving.replicas import RoutesHeard, gateway_plan, gateway_spec
from skyloom.rooms.serving.rules import (
    FAILURE_WINDOW_S,
    LONGEST_PAUSE_S,
    PAUSE_BESIDE_OTHERS_S,
    SETTLED_S,
    SILENT_S,
    pause_after,
)

PREFIX = "gw"


@dataclass(frozen=True)
class SeenGateway:
    """A gateway that has not been written off, and what is known of it now.

    Attributes:
        over: its job has ended or is gone.
        silent_s: for how long it has said nothing while it ran.
    """

    gateway: GatewayRun
    over: bool
    silent_s: float = 0.0
    last_words: str = ""

    @property
    def wanted(self) -> bool:
        """It should go on."""
        return not self.over and self.gateway.stopped_at is None


@dataclass(frozen=True)
class GatewaySteps:
    """What to do now about one project: records to write, and how many to start."""

    ended: tuple[GatewayRun, ...] = ()
    stop: tuple[GatewayRun, ...] = ()
    start: int = 0

    @property
    def nothing(self) -> bool:
        return not (self.ended or self.stop or self.start)


class GatewayNeed(NamedTuple):
    """How many gateways a project needs, and in whose name they run."""

    principal: str
    number: int


def gateway_steps(seen: Sequence[SeenGateway], failures: Sequence[GatewayRun], needed: int, now: float) -> GatewaySteps:
    """Pure: exactly as many gateways as are needed. One that ends is replaced at once; those that end soon
    after their start, ever more slowly."""
    ended = tuple(_written_off(item, now) for item in seen if item.over)
    alive = sorted((item for item in seen if item.wanted), key=lambda item: (item.gateway.created_at, item.gateway.id))
    hung = [item for item in alive if item.silent_s > SILENT_S]
    good = [item for item in alive if item not in hung]
    keep = good[-needed:] if needed else []
    stop = [_told(item, now, "It said nothing any more.") for item in hung]
    stop += [_told(item, now, "") for item in good if item not in keep]
    failed = [item.ended_at or now for item in (*failures, *ended) if item.failed and not _had_settled(item)]
    recent = sorted(at for at in failed if at > now - FAILURE_WINDOW_S)
    pause_s = pause_after(recent, now, PAUSE_BESIDE_OTHERS_S if keep else LONGEST_PAUSE_S)
    return GatewaySteps(ended, tuple(stop), start=needed - len(keep) if pause_s <= 0 else 0)


class Gateways:
    """Starts, replaces and stops gateways."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        outbox: Outbox,
        jobs: Jobs,
        blobs: Blobs,
        files: ReplicaFiles,
        heard: RoutesHeard,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._jobs = jobs
        self._blobs = blobs
        self._files = files
        self._heard = heard

    def tick(self, needed: Mapping[str, GatewayNeed]) -> bool:
        """Bring gateways to what is wanted; True when something was changed.

        Args:
            needed: project → what it needs; nothing for those that need none.
        """
        live = self._store.read(lambda view: view.select(GATEWAYS, {"ended_at": None}))
        known = {(gateway.project, gateway.id) for gateway in live}
        self._heard.keep(lambda project, gateway: (project, gateway) in known)
        projects = sorted({gateway.project for gateway in live} | set(needed))
        moved = [project for project in projects if self._bring_about(project, needed.get(project))]
        return bool(moved)

    def _bring_about(self, project: str, need: GatewayNeed | None) -> bool:
        count = need.number if need else 0
        steps = self._store.read(lambda view: self._steps(view, project, count))
        if steps.nothing:
            return False
        names = [self._ids.new(PREFIX) for _ in range(steps.start)]
        plans = [self._blobs.put([gateway_plan(project, name, self._files)])[0] for name in names]
        principal = need.principal if need else "serving"
        starts = list(zip(names, plans, strict=True))
        self._store.write(lambda tx: self._apply(tx, project, principal, count, starts))
        return True

    def _steps(self, view: Snapshot, project: str, needed: int) -> GatewaySteps:
        live = view.select(GATEWAYS, {"project": project, "ended_at": None})
        newest = view.select(GATEWAYS, {"project": project}, newest_first=True, limit=20)
        failures = [gateway for gateway in newest if gateway.failed and gateway.ended_at is not None]
        return gateway_steps([self._seen(view, gateway) for gateway in live], failures, needed, self._clock.now())

    def _seen(self, view: Snapshot, gateway: GatewayRun) -> SeenGateway:
        try:
            status = self._jobs.status(view, gateway.job_id, gateway.project)
        except JobMissing:
            return SeenGateway(gateway, over=True, last_words="Its job is gone.")
        running_s = max(0.0, self._clock.now() - status.started_at) if status.started_at else 0.0
        silent_s = self._heard.silent_s(gateway.project, gateway.id, running_s)
        return SeenGateway(gateway, status.state in ENDED, silent_s, status.message)

    def _apply(
        self, tx: Transaction, project: str, principal: str, needed: int, starts: Sequence[tuple[str, str]]
    ) -> None:
        steps = self._steps(tx, project, needed)
        caller = Caller.inside(principal, project)
        for gateway in steps.ended:
            tx.update(GATEWAYS, gateway)
            reason = "failed" if gateway.failed else "stopped"
            news = Moved(before="serving", after="ended", reason=reason, message=gateway.message)
            self._outbox.publish(tx, project, gateway.id, news)
        for gateway in steps.stop:
            tx.update(GATEWAYS, gateway)
            self._jobs.cancel(tx, CancelJob(job_id=gateway.job_id), caller)
        for gateway_id, plan in starts[: steps.start]:
            ask = SubmitJob(spec=gateway_spec(gateway_id, plan))
            job = self._jobs.submit(tx, ask, caller, refuse=False).job
            tx.insert(GATEWAYS, GatewayRun(id=gateway_id, project=project, job_id=job.id, created_at=self._clock.now()))
            self._outbox.publish(tx, project, gateway_id, Noted(message=f"It starts, as job {job.id}."))


def runs(view: Snapshot, gateway_id: str, by: Caller) -> GatewayRun | None:
    """The gateway that a caller is, by the task that speaks, or None."""
    gateway = view.get(GATEWAYS, gateway_id)
    if gateway is None or gateway.project != by.project or not by.is_task_of(gateway.job_id):
        return None
    return gateway


def _had_settled(gateway: GatewayRun) -> bool:
    return (gateway.ended_at or 0.0) - gateway.created_at >= SETTLED_S


def _written_off(item: SeenGateway, now: float) -> GatewayRun:
    failed = item.gateway.failed or item.gateway.stopped_at is None
    words = item.gateway.message or (item.last_words if failed else "")
    return changed(item.gateway, {"ended_at": now, "failed": failed, "message": words})


def _told(item: SeenGateway, now: float, problem: str) -> GatewayRun:
    return changed(item.gateway, {"stopped_at": now, "failed": bool(problem), "message": problem})
