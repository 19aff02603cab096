"""The service of safe change: takes in splits, canaries and the way back. `progress` brings about what is decided here."""

from collections.abc import Callable, Mapping

from skyloom.core.events import Moved
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.serving import canary as canaries
from skyloom.rooms.serving import change
from skyloom.rooms.serving.comparing import compare
from skyloom.rooms.serving.model import Deploy, Endpoint, EndpointStatus
from skyloom.rooms.serving.outlook import Outlook
from skyloom.rooms.serving.ports import CANARIES, ENDPOINTS
from skyloom.rooms.serving.split import (
    KEEP_S,
    MAX_SHADOWS,
    Canary,
    CanaryState,
    Comparison,
    Fallback,
    Front,
    TrafficSplit,
)
from skyloom.rooms.serving.traffic_writer import SplitWriter, live_canary, revision_numbered, with_share, words_of

Find = Callable[[Snapshot, str, str], Endpoint]


class SafeChange:
    """Splits and canaries of all endpoints."""

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, outbox: Outbox, outlook: Outlook, writer: SplitWriter, find: Find
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._outlook = outlook
        self._writer = writer
        self._find = find

    def handlers(self) -> Handlers:
        return {
            change.SetSplit: Change(self.route),
            change.RollBack: Change(self.roll_back),
            change.PromoteCanary: Change(self.promote),
            change.AbortCanary: Change(self.abort),
            change.CompareRevisions: Query(self.compare),
        }

    # Taking in

    def deployed(self, tx: Transaction, before: Endpoint, wanted: Endpoint, ask: Deploy) -> Endpoint:
        """What a new revision changes in the traffic. ``wanted`` has its number already. Raises `CanaryGoesOn`, `NothingServes`."""
        if before.stopped_by or before.revision == 0:
            if ask.canary is not None or ask.hold:
                raise _nothing_serves(wanted)
            return changed(wanted, {"split": None, "coming": None, "fallback": None, "front": Front.DIRECT})
        self._refuse_while_canary(tx, wanted)
        force, number = before.in_force, wanted.revision
        if ask.canary is not None:
            return self._begin(tx, before, wanted, number, ask)
        if ask.hold:
            return changed(wanted, {"split": with_share(force, number, 0.0)})
        if before.front is Front.GATEWAY:
            return changed(wanted, {"split": force, "coming": canaries.all_to(number, force, gone=0)})
        return changed(wanted, {"split": None, "fallback": Fallback(number=before.current)})

    def deployed_again(self, tx: Transaction, endpoint: Endpoint, wanted: Endpoint, ask: Deploy) -> Endpoint:
        """The newest revision is asked for once more: one that was held, or rolled back, gets its traffic now, at once or by a canary."""
        unused = wanted.revision not in endpoint.in_force.used and endpoint.coming is None
        if ask.canary is None and (ask.hold or not unused or live_canary(tx, endpoint)):
            return wanted
        if ask.canary is None:
            return changed(
                wanted, self._towards(endpoint, canaries.all_to(wanted.revision, endpoint.in_force, 0), KEEP_S)
            )
        self._refuse_while_canary(tx, wanted)
        if not unused:
            raise change.SplitUnclear(
                f"Revision {wanted.revision} of {endpoint.name} has traffic already.",
                next_action="A canary needs another model version: skyloom deploy MODEL:VERSION --canary 1,10,50.",
            )
        return self._begin(tx, endpoint, wanted, wanted.revision, ask)

    def stopped(self, tx: Transaction, endpoint: Endpoint, by: str) -> None:
        """An endpoint was stopped, and a canary with it."""
        live = live_canary(tx, endpoint)
        if live is not None:
            self._writer.move_canary(tx, live, CanaryState.ABORTED, live.step, f"{by} stopped the endpoint.")

    def drop_fallback(self, tx: Transaction, endpoint: Endpoint) -> None:
        """What is kept for going back makes room for what waits."""
        if endpoint.fallback is not None:
            kept = Fallback(number=endpoint.fallback.number, until=self._clock.now())
            tx.update(ENDPOINTS, changed(endpoint, {"fallback": kept}))
            words = f"The replicas of revision {kept.number} that were kept for going back make room."
            self._writer.note(tx, endpoint, words)

    def route(self, tx: Transaction, ask: change.SetSplit, by: Caller) -> EndpointStatus:
        endpoint = self._living(tx, ask.name, by)
        self._refuse_while_canary(tx, endpoint)
        split = self._checked(tx, endpoint, ask.split)
        if split != endpoint.in_force or endpoint.coming is not None:
            self._writer.note(tx, endpoint, f"{by.principal} splits the traffic: {words_of(split)}.")
            endpoint = tx.update(ENDPOINTS, changed(endpoint, self._towards(endpoint, split, ask.keep_s)))
        return self._outlook.status(tx, endpoint)

    def roll_back(self, tx: Transaction, ask: change.RollBack, by: Caller) -> EndpointStatus:
        endpoint = self._living(tx, ask.name, by)
        live = live_canary(tx, endpoint)
        if live is not None:
            endpoint = self._writer.end(tx, endpoint, live, CanaryState.ROLLED_BACK, f"{by.principal} rolled it back.")
            return self._outlook.status(tx, endpoint)
        goal = endpoint.fallback
        if goal is None or (goal.number == endpoint.in_force.sole and endpoint.coming is None):
            raise change.NothingToGoBackTo(
                f"No other revision of {endpoint.name} had all the traffic before revision {endpoint.current}.",
                next_action=f"Choose one: skyloom endpoint route {endpoint.name} --share NUMBER=100.",
            )
        newest = self._newest_canary(tx, endpoint)
        if newest is not None and newest.state is CanaryState.PROMOTED and newest.stable == goal.number:
            self._writer.move_canary(
                tx, newest, CanaryState.ROLLED_BACK, newest.step, f"{by.principal} rolled it back."
            )
        return self._outlook.status(tx, self._writer.go_back(tx, endpoint, goal.number, f"{by.principal} went back"))

    def promote(self, tx: Transaction, ask: change.PromoteCanary, by: Caller) -> EndpointStatus:
        endpoint, live = self._with_canary(tx, ask.name, by)
        words = f"{by.principal} gives revision {live.number} all the traffic."
        endpoint = self._writer.end(tx, endpoint, live, CanaryState.PROMOTED, words)
        return self._outlook.status(tx, endpoint)

    def abort(self, tx: Transaction, ask: change.AbortCanary, by: Caller) -> EndpointStatus:
        endpoint, live = self._with_canary(tx, ask.name, by)
        endpoint = self._writer.end(tx, endpoint, live, CanaryState.ABORTED, f"{by.principal} ended it.")
        return self._outlook.status(tx, endpoint)

    def compare(self, ask: change.CompareRevisions, by: Caller) -> Comparison:
        def work(view: Snapshot) -> Comparison:
            endpoint = self._find(view, ask.name, by.project)
            situation = self._outlook.situation(view, endpoint)
            lines, since = self._outlook.results(view, situation, labelled=True)
            return compare(endpoint, situation.canary, since, lines)

        return self._store.read(work)

    # Canaries

    def _begin(self, tx: Transaction, before: Endpoint, wanted: Endpoint, number: int, ask: Deploy) -> Endpoint:
        stable, plan, force = before.in_force.sole, ask.canary, before.in_force
        if stable is None or before.coming is not None or plan is None:
            raise _nothing_serves(wanted)
        if list(plan.steps) != sorted(set(plan.steps)):
            raise change.SplitUnclear(
                f"The canary's steps {', '.join(f'{step:g}' for step in plan.steps)} do not grow.",
                next_action="Give percents from small to large: 1,10,50.",
            )
        if plan.shadow and len(force.shadows) >= MAX_SHADOWS:
            raise change.SplitUnclear(
                f"{MAX_SHADOWS} revisions are sent copies already.",
                next_action="Begin the canary without its shadow step.",
            )
        now = self._clock.now()
        canary = Canary(
            id=self._ids.new("canary"),
            project=wanted.project,
            endpoint_id=wanted.id,
            number=number,
            stable=stable,
            plan=plan,
            step_at=now,
            created_at=now,
            created_by=wanted.created_by,
            message=f"Revision {number} starts.",
        )
        tx.insert(CANARIES, canary)
        news = Moved(before="", after=canary.state, reason="canary", message=f"Revision {number} against {stable}.")
        self._outbox.publish(tx, wanted.project, wanted.id, news)
        coming = canaries.split_of(canary, force, 0)
        explicit = with_share(force, number, 0.0)
        return changed(wanted, {"split": explicit, "coming": coming, "front": Front.GATEWAY})

    # Checks

    def _checked(self, tx: Transaction, endpoint: Endpoint, split: TrafficSplit) -> TrafficSplit:
        if not split.weighted:
            raise change.SplitUnclear(
                "No revision has a share of the traffic.", next_action="Give at least one a weight above 0."
            )
        for number in sorted(split.used | set(split.shares) | set(split.shadows)):
            revision_numbered(tx, endpoint, number)
        both = set(split.weighted) & {number for number, part in split.shadows.items() if part > 0}
        if both:
            raise change.SplitUnclear(
                f"Revision {min(both)} cannot have a share of the traffic and be its shadow.",
                next_action="Give it a share or a shadow, not both.",
            )
        return split

    def _towards(self, endpoint: Endpoint, split: TrafficSplit, keep_s: float) -> Mapping[str, object]:
        now = self._clock.now()
        force = endpoint.in_force
        if endpoint.front is Front.DIRECT and split.is_plain:
            return {"split": split, "coming": None, "fallback": _left_behind(endpoint, split, now)}
        kept = endpoint.fallback
        if force.sole is not None and force.sole != split.sole:
            kept = Fallback(number=force.sole, until=now + keep_s)
        elif kept is not None and split.sole is not None and kept.number != split.sole:
            kept = Fallback(number=kept.number, until=now + keep_s)
        if split == force:
            return {"split": split, "coming": None}
        return {"split": force, "coming": split, "fallback": kept, "front": Front.GATEWAY}

    def _living(self, view: Snapshot, name: str, by: Caller) -> Endpoint:
        endpoint = self._find(view, name, by.project)
        if endpoint.stopped_by:
            raise change.EndpointStopped(
                f"Endpoint {endpoint.name} was stopped by {endpoint.stopped_by}.",
                next_action=f"Bring it back first: skyloom deploy {endpoint.model}.",
            )
        return endpoint

    def _with_canary(self, view: Snapshot, name: str, by: Caller) -> tuple[Endpoint, Canary]:
        endpoint = self._living(view, name, by)
        live = live_canary(view, endpoint)
        if live is None:
            raise change.NoCanary(
                f"No canary of endpoint {endpoint.name} is going on.",
                next_action=f"Begin one: skyloom deploy {endpoint.model}:VERSION --canary 1,10,50.",
            )
        return endpoint, live

    def _refuse_while_canary(self, view: Snapshot, endpoint: Endpoint) -> None:
        live = live_canary(view, endpoint)
        if live is not None:
            raise change.CanaryGoesOn(
                f"A canary of revision {live.number} decides about the traffic of {endpoint.name}.",
                next_action=f"End it first: skyloom endpoint promote {endpoint.name}, or abort.",
            )

    def _newest_canary(self, view: Snapshot, endpoint: Endpoint) -> Canary | None:
        found = view.select(CANARIES, {"endpoint_id": endpoint.id}, newest_first=True, limit=1)
        return found[0] if found else None


def _left_behind(endpoint: Endpoint, split: TrafficSplit, now: float) -> Fallback | None:
    """Where to go back to from a plain endpoint: nothing of it is kept, for its replicas share the ports."""
    sole = endpoint.in_force.sole
    return Fallback(number=sole, until=now) if sole is not None and sole != split.sole else endpoint.fallback


def _nothing_serves(endpoint: Endpoint) -> change.NothingServes:
    return change.NothingServes(
        f"No one revision of {endpoint.name} has all the traffic now, so a new one cannot be held against it.",
        next_action="Deploy without --canary and --hold, or give one revision everything first (skyloom endpoint route).",
    )
