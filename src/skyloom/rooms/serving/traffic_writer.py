"""What every change of an endpoint's traffic writes, inside the transaction of who decided it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from skyloom.core.events import EndpointRolledBack, Moved, Noted
from skyloom.ports.clock import Clock
from skyloom.ports.door import Outbox
from skyloom.ports.store import Snapshot, Transaction, changed
from skyloom.rooms.monitoring.model import AlertState, Signal
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.rooms.quality.model import QualityCount
from skyloom.rooms.quality.reading import counts_since
from skyloom.rooms.serving import canary as canaries
from skyloom.rooms.serving import change
from skyloom.rooms.serving.model import Endpoint, Revision
from skyloom.rooms.serving.outlook import Outlook
from skyloom.rooms.serving.ports import CANARIES, ENDPOINTS, REVISIONS, TALLIES
from skyloom.rooms.serving.rules import Situation
from skyloom.rooms.serving.split import (
    CANARY_MOVES,
    MAX_SHARES,
    Canary,
    CanaryState,
    Fallback,
    Front,
    SplitTally,
    TrafficSplit,
)
from skyloom.rooms.serving.tallying import ByGateway

_LABELS_S, _FORGOTTEN_S = 2.0, 600.0


@dataclass(frozen=True)
class Moment:
    """Everything that a decision about an endpoint's traffic needs.

    Attributes:
        counted: the gateways that stand before it, and what each has counted since it began.
        drift: what the drift alert says that fired since the canary began, "" without one.
        labels: what labels say of each revision's answers since the canary began.
    """

    situation: Situation
    tally: SplitTally | None
    counted: ByGateway
    drift: str = ""
    labels: Mapping[int, QualityCount] = field(default_factory=dict)


class SplitWriter:
    """Moves canaries and splits."""

    def __init__(self, clock: Clock, outbox: Outbox, monitoring: Monitoring, outlook: Outlook) -> None:
        self._clock = clock
        self._outbox = outbox
        self._monitoring = monitoring
        self._outlook = outlook
        self._labels: dict[str, tuple[float, Mapping[int, QualityCount]]] = {}  # by canary

    def moment(self, view: Snapshot, endpoint: Endpoint) -> Moment:
        """Everything that a decision about the traffic needs."""
        counted = self._outlook.counted(view, endpoint)
        situation = self._outlook.situation(view, endpoint)
        drift, canary = "", situation.canary
        labels: Mapping[int, QualityCount] = {}
        if canary is not None and canary.live:
            drift = _drift(view, canary)
            labels = self._labels_of(view, canary)
        return Moment(situation, view.get(TALLIES, endpoint.id), counted, drift, labels)

    def _labels_of(self, view: Snapshot, canary: Canary) -> Mapping[int, QualityCount]:
        """What labels say since the canary began, as of the last few seconds: it may wait for weeks, and is looked at twice a second."""
        now, known = self._clock.monotonic(), self._labels.get(canary.id)
        if known is not None and now - known[0] < _LABELS_S:
            return known[1]
        counts = counts_since(view, canary.endpoint_id, canary.created_at, self._clock.now())
        self._labels = {canary.id: (now, counts)} | {
            key: kept for key, kept in self._labels.items() if key != canary.id and now - kept[0] < _FORGOTTEN_S
        }
        return counts

    def end(self, tx: Transaction, endpoint: Endpoint, canary: Canary, state: CanaryState, message: str) -> Endpoint:
        """A canary is decided: all the traffic goes to the new revision, or back at once."""
        self.move_canary(tx, canary, state, canary.step, message)
        if state is not CanaryState.PROMOTED:
            automatic = state is CanaryState.ROLLED_BACK
            return self.go_back(tx, endpoint, canary.stable, "", gone=canary.number, automatic=automatic)
        until = self._clock.now() + canary.plan.keep_s
        coming = canaries.all_to(canary.number, endpoint.in_force, gone=0)
        kept = Fallback(number=canary.stable, until=until)
        return tx.update(ENDPOINTS, changed(endpoint, {"coming": coming, "fallback": kept}))

    def move_canary(self, tx: Transaction, canary: Canary, state: CanaryState, step: int, message: str) -> None:
        """Write a canary's move, with the sentence that explains it."""
        CANARY_MOVES.check(canary.id, canary.state, state)
        now = self._clock.now()
        news = {"state": state, "step": step, "message": message, "step_at": canary.step_at}
        if step != canary.step:
            news["step_at"] = now
        if state not in (CanaryState.STEPPING, CanaryState.WAITING):
            news["ended_at"] = now
        tx.update(CANARIES, changed(canary, news))
        told = Moved(before=canary.state, after=state, reason="canary", message=message)
        self._outbox.publish(tx, canary.project, canary.endpoint_id, told)

    def go_back(
        self, tx: Transaction, endpoint: Endpoint, number: int, why: str, gone: int = 0, automatic: bool = False
    ) -> Endpoint:
        """All the traffic to an earlier revision: now if anybody of it answers, else as soon as somebody does."""
        if not gone and endpoint.current != number:
            gone = endpoint.current
        split = canaries.all_to(number, endpoint.in_force, gone=gone)
        situation = self._outlook.situation(tx, endpoint)
        answering = any(item.answers and item.replica.revision_number == number for item in situation.seen)
        news: dict[str, object] = {"fallback": None}
        if answering or endpoint.front is Front.DIRECT or number == endpoint.in_force.sole:
            news |= {"split": split, "coming": None}
        else:
            news |= {"split": endpoint.in_force, "coming": split}
        if why:
            self.note(tx, endpoint, f"{why}: revision {number} has all the traffic.")
        back = EndpointRolledBack(endpoint=endpoint.name, revision=number, automatic=automatic)
        self._outbox.publish(tx, endpoint.project, endpoint.id, back)
        revision = revision_numbered(tx, endpoint, number)
        self._monitoring.watch(tx, endpoint.project, endpoint.id, endpoint.name, revision.profile)
        stored = tx.update(ENDPOINTS, changed(endpoint, news))
        if stored.coming is None and stored.front is Front.GATEWAY:
            self.begin_tally(tx, stored, self.moment(tx, stored), self._clock.now())
        return stored

    def begin_tally(self, tx: Transaction, endpoint: Endpoint, moment: Moment, now: float) -> None:
        """Count from here on."""
        known = tx.get(TALLIES, endpoint.id)
        made = SplitTally(
            id=endpoint.id,
            project=endpoint.project,
            version=known.version if known else 0,
            since=now,
            bases={gateway: dict(seen) for gateway, seen in moment.counted.items()},
        )
        if known is None:
            tx.insert(TALLIES, made)
        else:
            tx.update(TALLIES, made)

    def note(self, tx: Transaction, endpoint: Endpoint, message: str) -> None:
        """Say what was done."""
        self._outbox.publish(tx, endpoint.project, endpoint.id, Noted(message=message))


def _drift(view: Snapshot, canary: Canary) -> str:
    """Only an alert that fired since the canary began is about it."""
    for alert in view.select(ALERTS, {"endpoint": canary.endpoint_id, "state": AlertState.FIRING}):
        if alert.signal is Signal.DRIFT and alert.fired_at > canary.created_at:
            return alert.message
    return ""


def live_canary(view: Snapshot, endpoint: Endpoint) -> Canary | None:
    """The one that is going on, or None."""
    found = view.select(CANARIES, {"endpoint_id": endpoint.id}, newest_first=True, limit=1)
    return found[0] if found and found[0].live else None


def revision_numbered(view: Snapshot, endpoint: Endpoint, number: int) -> Revision:
    """One revision of an endpoint. Raises `RevisionMissing`."""
    found = view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": number}, limit=1)
    if not found:
        raise change.RevisionMissing(
            f"Endpoint {endpoint.name} has no revision {number}.",
            next_action=f"See which it has: skyloom endpoint show {endpoint.name}.",
        )
    return found[0]


def with_share(split: TrafficSplit, number: int, weight: float) -> TrafficSplit:
    """The same split with one more revision in it; of those that are only held, it names the newest. Raises `SplitUnclear`."""
    shares = {**split.shares, number: weight}
    held = sorted(known for known in split.shares if known not in split.used)
    while len(shares) > MAX_SHARES and held:
        del shares[held.pop(0)]
    if len(shares) > MAX_SHARES:
        raise change.SplitUnclear(
            f"{MAX_SHARES} revisions share the traffic already.", next_action="Take the traffic from one of them first."
        )
    return TrafficSplit(
        shares=shares, rules=split.rules, sticky_header=split.sticky_header, shadows=dict(split.shadows)
    )


def words_of(split: TrafficSplit) -> str:
    """A split in words."""
    parts = [f"{part:.1%} to revision {number}" for number, part in split.weighted.items()]
    parts += [f"{rule.header}: {rule.value} to revision {rule.revision}" for rule in split.rules]
    parts += [f"a copy of {part:.0%} to revision {number}" for number, part in split.shadows.items() if part > 0]
    return ", ".join(parts)
