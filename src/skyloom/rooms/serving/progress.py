"""The round of safe change: lets splits come into force, and canaries go a step on or back.

A round decides on a snapshot whether anything is to be done, and decides again on what is true in the transaction that does it. So a
control plane that dies anywhere goes on from what it had written, and a canary is never moved by what is true no more.
"""

from collections.abc import Callable

from skyloom.ports.clock import Clock
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.quality.model import QualityCount
from skyloom.rooms.serving import canary as canaries
from skyloom.rooms.serving import fleet
from skyloom.rooms.serving.model import Endpoint
from skyloom.rooms.serving.ports import ENDPOINTS, TALLIES
from skyloom.rooms.serving.rules import Situation
from skyloom.rooms.serving.split import KEEP_S, Canary, CanaryState, Fallback, Front, SplitTally
from skyloom.rooms.serving.tallying import ByGateway, Counted, handed_on, shadow_key, since_split
from skyloom.rooms.serving.traffic_writer import Moment, SplitWriter, words_of

NO_LABELS = QualityCount()


class TrafficProgress:
    """Moves the traffic of all endpoints on."""

    def __init__(self, store: Store, clock: Clock, writer: SplitWriter) -> None:
        self._store = store
        self._clock = clock
        self._writer = writer
        self._last: dict[str, dict[str, Counted]] = {}  # endpoint → gateway → what it had counted when last heard

    def advance(self, endpoint: Endpoint) -> bool:
        """Take one endpoint's next move, if it has one; True when it had. Plain endpoints cost nothing."""
        now = self._clock.now()
        if endpoint.stopped_by or (endpoint.front is Front.DIRECT and not fleet.needs_gateway(endpoint, None, now)):
            return False
        moment = self._store.read(lambda view: self._writer.moment(view, endpoint))
        last = self._remember(endpoint, moment)
        if not self._due(moment, now):
            return False
        return self._store.write(lambda tx: self._move(tx, endpoint, last, now))

    def keep(self, still: Callable[[str], bool]) -> None:
        """Forget endpoints that are gone."""
        self._last = {key: kept for key, kept in self._last.items() if still(key)}

    def _remember(self, endpoint: Endpoint, moment: Moment) -> ByGateway:
        """What the gateways that the tally is of, and those that are there, had counted when they were last heard."""
        tallied = moment.tally.bases if moment.tally is not None else {}
        before = {name: seen for name, seen in self._last.get(endpoint.id, {}).items() if name in tallied}
        now = {name: seen for name, seen in moment.counted.items() if seen}
        self._last[endpoint.id] = {**before, **now}
        return self._last[endpoint.id]

    def _due(self, moment: Moment, now: float) -> bool:
        endpoint, tally = moment.situation.endpoint, moment.tally
        return bool(
            (tally is not None and _is_of_others(tally, moment))
            or fleet.takes_over(moment.situation)
            or self._verdict(moment, now)
            or _front(moment.situation, now) is not endpoint.front
        )

    def _move(self, tx: Transaction, endpoint: Endpoint, last: ByGateway, now: float) -> bool:
        fresh = tx.get(ENDPOINTS, endpoint.id)
        if fresh is None or fresh.version != endpoint.version:
            return True  # changed meanwhile: look again at what is true then
        moment = self._writer.moment(tx, fresh)
        tally, canary = moment.tally, moment.situation.canary
        verdict = self._verdict(moment, now)
        if tally is not None and _is_of_others(tally, moment):
            tx.update(TALLIES, handed_on(tally, moment.counted.keys(), last))
        elif verdict is not None and canary is not None:
            self._carry_out(tx, fresh, canary, verdict)
        elif fleet.takes_over(moment.situation):
            self._come_into_force(tx, fresh, moment, now)
        elif (front := _front(moment.situation, now)) is not fresh.front:
            tx.update(ENDPOINTS, changed(fresh, {"front": front}))
            who = "the gateway" if front is Front.GATEWAY else "its replicas"
            self._writer.note(tx, fresh, f"Its ports go over to {who}.")
        return True

    def _verdict(self, moment: Moment, now: float) -> canaries.CanaryMove | None:
        canary, endpoint, tally = moment.situation.canary, moment.situation.endpoint, moment.tally
        if canary is None or not canary.live:
            return None
        counted = since_split(tally, moment.counted) if tally is not None else {}
        names = {item.replica.revision_number: item.replica.revision_id for item in moment.situation.seen}
        fresh_key = names.get(canary.number, "")
        is_shadow = canary.plan.shadow and canary.step == 0
        crashed = [
            replica
            for replica in moment.situation.failures
            if replica.revision_number == canary.number and replica.created_at >= canary.created_at
        ]
        seen = canaries.Watched(
            since=tally.since if tally is not None and self._in_step(endpoint, canary) else None,
            crashes=len(crashed),
            last_words=crashed[-1].message if crashed else "",
            stable=counted.get(names.get(canary.stable, ""), canaries.NOTHING),
            fresh=counted.get(shadow_key(fresh_key) if is_shadow else fresh_key, canaries.NOTHING),
            drift=moment.drift if canary.state is not CanaryState.PENDING else "",
            stable_labels=moment.labels.get(canary.stable, NO_LABELS),
            fresh_labels=moment.labels.get(canary.number, NO_LABELS),
        )
        return canaries.decide(canary, seen, now)

    def _in_step(self, endpoint: Endpoint, canary: Canary) -> bool:
        """The split of the canary's step is in force."""
        return endpoint.coming is None and endpoint.in_force == canaries.split_of(
            canary, endpoint.in_force, canary.step
        )

    def _carry_out(self, tx: Transaction, endpoint: Endpoint, canary: Canary, verdict: canaries.CanaryMove) -> None:
        if verdict.state in (CanaryState.PROMOTED, CanaryState.ROLLED_BACK):
            self._writer.end(tx, endpoint, canary, verdict.state, verdict.message)
            return
        self._writer.move_canary(tx, canary, verdict.state, verdict.step, verdict.message)
        if verdict.step != canary.step:
            coming = canaries.split_of(canary, endpoint.in_force, verdict.step)
            tx.update(ENDPOINTS, changed(endpoint, {"coming": coming}))

    def _come_into_force(self, tx: Transaction, endpoint: Endpoint, moment: Moment, now: float) -> None:
        split, before = endpoint.coming, endpoint.in_force
        assert split is not None
        kept = endpoint.fallback
        if before.sole is not None and before.sole != split.sole:
            until = kept.until if kept is not None and kept.number == before.sole else now + KEEP_S
            kept = Fallback(number=before.sole, until=max(until, now))
        tx.update(ENDPOINTS, changed(endpoint, {"split": split, "coming": None, "fallback": kept}))
        self._writer.begin_tally(tx, endpoint, moment, now)
        self._writer.note(tx, endpoint, f"The traffic is split: {words_of(split)}.")


def _is_of_others(tally: SplitTally, moment: Moment) -> bool:
    """Other gateways count now than those that the tally knows."""
    return bool(moment.counted) and moment.counted.keys() != tally.bases.keys()


def _front(situation: Situation, now: float) -> Front:
    return Front.GATEWAY if fleet.needs_gateway(situation.endpoint, situation.canary, now) else Front.DIRECT
