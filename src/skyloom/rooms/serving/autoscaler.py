"""The loop's side of scaling: keeps what gateways report of each endpoint, asks the policy, commits what it decides together with why.

What was heard lives in memory: losing it costs a window in which nothing is taken away. Only what foresight looks at, the
minutes of the last days, is kept in a file every few minutes. What was decided is the endpoint's own `num_replicas`, so a
control plane that starts again goes on from there.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.events import Moved
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.monitoring.model import Latency
from skyloom.rooms.monitoring.windows import latency_quantile
from skyloom.rooms.schedules.rules import next_slot
from skyloom.rooms.serving.load import LoadHistory, LoadMemory
from skyloom.rooms.serving.model import Deploy, Endpoint
from skyloom.rooms.serving.policy import decide, explained
from skyloom.rooms.serving.ports import ENDPOINTS, ReplicaFiles
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.rooms.serving.rules import Seen
from skyloom.rooms.serving.scaling import (
    Autoscaling,
    LoadSample,
    ScaleCourse,
    ScaleDecision,
    ScaleNote,
    ScaleSignal,
    ScalingUnclear,
    check_scaling,
)

_LONGEST_LEAD_S = 600.0
_LEARNS = 0.5  # of what a start took, into what the next is expected to take
_TAIL = 0.95
_FRESH_S = 5.0  # a gateway that said nothing for so long adds nothing any more
_NEW_AFTER_S = 10.0  # whoever was there before this process has said something by then
_FORGET_S = 600.0
_KEEP_EVERY_S = 300.0
log = logging.getLogger("skyloom.serving")


class Autoscaler:
    """The sizes of all endpoints that have an `Autoscaling`. Thread-safe: reports come beside the loop."""

    def __init__(self, store: Store, clock: Clock, outbox: Outbox, files: ReplicaFiles) -> None:
        self._files = files
        self._store = store
        self._clock = clock
        self._outbox = outbox
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()

    def hear(self, gateway: str, route: RouteTraffic) -> bool:
        """Take what a gateway saw at one endpoint; of several before it, each sees a part.

        True when somebody waits and there is no replica: then look at once.
        """
        with self._lock:
            followed = self._followed.setdefault(route.endpoint, _Followed())
            return followed.hear(gateway, route, self._clock.now(), self._clock.monotonic())

    def look(self, endpoint: Endpoint, seen: Sequence[Seen]) -> tuple[Endpoint, float]:
        """Decide about one endpoint with an `Autoscaling`; returns it as it is now, and the seconds after which to look again.

        A decision for another size is committed with its event; if the endpoint was changed meanwhile nothing is, and the next look
        decides.
        """
        now = self._clock.now()
        with self._lock:
            is_known = endpoint.id in self._followed and self._followed[endpoint.id].is_begun
        foresees = endpoint.scaling is not None and endpoint.scaling.foresight is not None
        kept = self._files.read_load(endpoint.id) if foresees and not is_known else None
        with self._lock:
            followed = self._followed.setdefault(endpoint.id, _Followed())
            followed.recalled = kept or followed.recalled
            decision = followed.decide(endpoint, seen, now)
        if decision.wanted != endpoint.num_replicas:
            moved = self._store.write(lambda tx: self._commit(tx, endpoint, decision))
            if moved is None:
                return endpoint, 0.0
            endpoint = moved
        with self._lock:
            followed.settle(decision, now)
            memory = followed.memory_due(now)
        if memory is not None:
            self._keep(endpoint, memory)
        return endpoint, max(0.0, decision.again_at - now)

    def note(self, endpoint: Endpoint) -> ScaleNote | None:
        """Why an endpoint has its size; None before the first look of this process."""
        followed = self._followed.get(endpoint.id)
        return followed.note if followed and endpoint.scaling is not None else None

    def keep(self, still: Callable[[str], bool]) -> None:
        """Forget endpoints that are gone."""
        with self._lock:
            self._followed = {key: kept for key, kept in self._followed.items() if still(key)}

    def _keep(self, endpoint: Endpoint, memory: LoadMemory) -> None:
        """A memory that cannot be kept keeps nobody from deciding."""
        try:
            self._files.keep_load(endpoint.id, memory)
        except SkyloomError as error:
            log.warning("what was seen of endpoint %s is not kept: %s", endpoint.id, error)

    def _commit(self, tx: Transaction, endpoint: Endpoint, decision: ScaleDecision) -> Endpoint | None:
        fresh = tx.get(ENDPOINTS, endpoint.id)
        if fresh is None or fresh.version != endpoint.version:
            return None
        before, after = (
            f"{count} replica{'' if count == 1 else 's'}" for count in (endpoint.num_replicas, decision.wanted)
        )
        news = Moved(before=before, after=after, reason=decision.reason.value, message=decision.why)
        self._outbox.publish(tx, endpoint.project, endpoint.id, news)
        return tx.update(ENDPOINTS, changed(endpoint, {"num_replicas": decision.wanted}))


class _Followed:
    """What is known of one endpoint."""

    def __init__(self) -> None:
        self.note: ScaleNote | None = None
        self._scaling: Autoscaling | None = None
        self._load = LoadHistory(ScaleSignal.CONCURRENCY, 0.0)
        self._lead_s = 1.0
        self._course: ScaleCourse | None = None
        self._last: dict[str, tuple[float, RouteTraffic]] = {}  # gateway → when it was last heard, and what it said
        self._began: float | None = None
        self._heard_at: float | None = None
        self._size = self._answering = 0
        self._gpu: float | None = None
        self._starting: set[str] = set()
        self.recalled: LoadMemory | None = None
        self._kept_at: float | None = None

    @property
    def is_begun(self) -> bool:
        """It was decided about before."""
        return self._scaling is not None

    def memory_due(self, now: float) -> LoadMemory | None:
        """What is to be kept now, if it is time."""
        if self._kept_at is not None and 0 <= now - self._kept_at < _KEEP_EVERY_S:
            return None
        memory = self._load.memory
        if memory is not None:
            self._kept_at = now
        return memory

    def hear(self, gateway: str, route: RouteTraffic, now: float, monotonic: float) -> bool:
        last, heard_at = self._last.get(gateway), self._heard_at
        self._began = monotonic if self._began is None else self._began
        self._heard_at = monotonic
        self._last = {name: kept for name, kept in self._last.items() if monotonic - kept[0] < _FORGET_S}
        self._last[gateway] = (monotonic, route)
        before = last[1] if last is not None else None
        # Of a gateway that was there before us it is not known since when it counts; one that comes later counts from nothing.
        is_new = before is None and monotonic - self._began > _NEW_AFTER_S
        if is_new or (before is not None and route.arrived < before.arrived):
            before = RouteTraffic(endpoint=route.endpoint)
        span_s = 0.0 if heard_at is None else max(0.0, monotonic - heard_at)
        seen = [told for at, told in self._last.values() if monotonic - at < _FRESH_S]
        mean = sum(max(told.mean_in_flight, 0.0) for told in seen)
        self._load.add(
            LoadSample(
                at=now,
                span_s=span_s,
                replicas=self._answering,
                arrived=0 if before is None else route.arrived - before.arrived,
                concurrency=mean if span_s else float(sum(told.held + told.in_flight for told in seen)),
                held=sum(told.held for told in seen),
                oldest_held_s=max(told.oldest_held_s for told in seen),
                queue_delay_s=max(told.queue_delay_s for told in seen),
                latency_s=None if before is None else _tail(before, route),
                utilisation=_busy_share(mean, self._answering),
                gpu=self._gpu,
            )
        )
        return bool(route.held) and self._size == 0

    def decide(self, endpoint: Endpoint, seen: Sequence[Seen], now: float) -> ScaleDecision:
        scaling = endpoint.scaling
        assert scaling is not None
        if scaling != self._scaling:
            # Another policy looks at other things; it begins with nothing seen, and so takes nothing away for a window.
            last, known = self._load.newest, self._load.memory or self.recalled
            self._scaling, self._load, self._course = scaling, LoadHistory.of(scaling), None
            if known is not None:
                self._load.recall(known)
            self.recalled = None
            if last is not None:
                self._load.add(msgspec.structs.replace(last, span_s=0.0))
        self._learn_lead(seen, now)
        self._load.lead_s = self._lead_s
        self._answering = sum(item.answers for item in seen)
        told = [item.gpu for item in seen if item.answers and item.gpu is not None]
        self._gpu = sum(told) / len(told) if told else None
        return decide(scaling, self._load, endpoint.num_replicas, now, self._course)

    def settle(self, decision: ScaleDecision, now: float) -> None:
        self._course = decision.course
        self._size = decision.wanted
        assert self._scaling is not None
        self.note = explained(self._scaling, self._load, decision, now)

    def _learn_lead(self, seen: Sequence[Seen], now: float) -> None:
        """How long a start takes: from the decision until it answers, as this loop sees it."""
        for item in seen:
            if item.answers and item.replica.id in self._starting:
                took_s = min(max(0.0, now - item.replica.created_at), _LONGEST_LEAD_S)
                self._lead_s += _LEARNS * (took_s - self._lead_s)
        self._starting = {item.replica.id for item in seen if item.wanted and not item.ready}


def check_asked(scaling: Autoscaling, now: float) -> None:
    """Raise `ScalingUnclear`, `CronUnreadable` or `TimeZoneUnknown` for what can never be done."""
    check_scaling(scaling)
    for floor in scaling.floors:
        for line in (floor.start, floor.end):
            if next_slot(line, floor.time_zone, now) is None:
                raise ScalingUnclear(
                    f"The schedule's {line!r} never comes true.", next_action="Name a day that some month has."
                )


def check_gpu(scaling: Autoscaling | None, num_gpus: int, can_read: bool) -> None:
    """Raise `ScalingUnclear` where a GPU is to be scaled on that is not there, or that nobody can read."""
    if scaling is None or scaling.signal is not ScaleSignal.GPU or (num_gpus and can_read):
        return
    why = "nothing here can read how busy they are" if num_gpus else "its replicas have none"
    action = "Install nvidia-ml-py where replicas run, or scale" if num_gpus else "Deploy with GPUs, or scale"
    raise ScalingUnclear(
        f"The endpoint cannot be scaled on GPUs: {why}.",
        next_action=f"{action} on concurrency, utilisation or queue_delay.",
    )


def size_of(ask: Deploy, endpoint: Endpoint) -> dict[str, Any]:
    """The scaling and the size of an endpoint after a deployment. It begins awake: a new revision has to show that it runs."""
    scaling = ask.scaling
    if scaling is None and ask.num_replicas is None:
        scaling = endpoint.scaling
    num_replicas = ask.num_replicas or max(1, endpoint.num_replicas)
    if scaling is not None:
        num_replicas = min(max(num_replicas, scaling.min_replicas), scaling.max_replicas)
    return {"scaling": scaling, "num_replicas": num_replicas}


def _tail(before: RouteTraffic, after: RouteTraffic) -> float | None:
    """The latency of 95 in 100 requests between two reports."""
    added: dict[int, int] = {}
    for name, traffic in after.revisions.items():
        known = before.revisions[name].latency.counts if name in before.revisions else {}
        for place, count in traffic.latency.counts.items():
            added[place] = added.get(place, 0) + max(0, count - known.get(place, 0))
    return latency_quantile(Latency(counts=added), _TAIL)


def _busy_share(in_system: float, replicas: int) -> float:
    """The share of time in which a replica has something to do, by how many requests it has on average.

    That of a queue with arrivals by chance, n / (1 + n) (M/M/1): a gateway sees requests, not processors.
    """
    each = in_system / replicas if replicas else 0.0
    return each / (1.0 + each)
