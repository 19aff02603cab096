"""The service of monitoring: takes reports, judges endpoints once a second, keeps alerts, answers with numbers."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.events import BudgetReached, Event, Moved
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Page
from skyloom.ports.blobs import Blobs
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Outbox, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.monitoring import model, rules
from skyloom.rooms.monitoring.model import (
    ALERT_MOVES,
    DEFAULT_RULES,
    Alert,
    AlertState,
    FeatureDrift,
    Profile,
    Signal,
    Traffic,
    Watch,
)
from skyloom.rooms.monitoring.ports import ALERTS, WATCHES
from skyloom.rooms.monitoring.traffic import RecentTraffic
from skyloom.rooms.monitoring.windows import Bounds, Report, latency_quantile

log = logging.getLogger("skyloom.monitoring")

_TICK_S = 1.0
_SILENT_S = 30.0  # a replica that said nothing for so long is not counted as one


class Monitoring:
    """Watches the endpoints of all projects. Profiles are read from the blobs of the models' bundles."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, outbox: Outbox, blobs: Blobs) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._outbox = outbox
        self._blobs = blobs
        self._profiles: dict[str, Profile] = {}
        self._unreadable: dict[str, str] = {}  # watch → its profile that could not be read
        self._traffic = RecentTraffic(Bounds())
        self._began = clock.monotonic()

    def handlers(self) -> Handlers:
        return {
            model.ListAlerts: Query(self.list_alerts),
            model.AcknowledgeAlert: Change(self.acknowledge),
            model.GetMonitor: Query(self.get),
            model.SetAlertRules: Change(self.set_rules),
        }

    # What the serving room calls

    def watch(
        self,
        tx: Transaction,
        project: str,
        endpoint: str,
        endpoint_name: str,
        profile: str = "",
        like: str = "",
    ) -> Watch:
        """Begin or go on watching an endpoint, in the transaction that gives it a revision. Safe to repeat.

        Args:
            profile: digest of the profile of the model version it serves from now on; empty for none, and then no drift.
            like: id of the watch whose place it takes, and whose rules.
        """
        known = tx.get(WATCHES, endpoint)
        ruling = tx.get(WATCHES, like) if like else known
        wanted = Watch(
            id=endpoint,
            project=project,
            version=known.version if known else 0,
            endpoint_name=endpoint_name,
            profile=profile,
            rules=ruling.rules if ruling else DEFAULT_RULES,
        )
        if known is None:
            return tx.insert(WATCHES, wanted)
        return known if known == wanted else tx.update(WATCHES, wanted)

    def unwatch(self, tx: Transaction, endpoint: str) -> None:
        """Stop watching, in the transaction that stops the endpoint; its open alerts end. Safe to repeat."""
        known = tx.get(WATCHES, endpoint)
        if known is not None and known.active:
            stopped = tx.update(WATCHES, changed(known, {"active": False}))
            self._apply(tx, changed(stopped, {"rules": ()}), {})

    def observe(
        self, endpoint: str, replica: str, traffic: Traffic, *, profile: str = "", started_at: float | None = None
    ) -> None:
        """Take in what a replica reports of itself. Cheap, never blocks on the store; losing a report loses nothing.

        Args:
            profile: digest of the profile that ``traffic.histograms`` follow.
            started_at: Unix seconds when the replica began to count; without it the first report is only a base, and so it is of a
                replica that is older than this process: what it counted for days is no news of the last minute.
        """
        now = self._clock.monotonic()
        since = None if started_at is None else now - max(0.0, self._clock.now() - started_at)
        if since is not None and since < self._began:
            since = None
        self._traffic.observe(endpoint, replica, profile, Report(at=now, traffic=traffic), since)

    def on_budget_reached(self, tx: Transaction, event: Event) -> None:
        """Raise or end the alert of a budget's threshold, in the transaction that says so. Other events change nothing."""
        if not isinstance(event.body, BudgetReached):
            return
        fresh = rules.budget_alert(self._ids.new("alert"), event, event.body)
        known = tx.select(ALERTS, {"project": event.project, "endpoint": fresh.endpoint}, limit=1)
        if known:
            move = rules.budget_move(known[0], event.body)
            if move is not None:
                ALERT_MOVES.check(known[0].id, known[0].state, move.after)
                stored = tx.update(ALERTS, rules.moved(known[0], move, event.at))
                self._publish(tx, stored, known[0].state, event.body.message)
        elif not event.body.over:
            self._publish(tx, tx.insert(ALERTS, fresh), "", event.body.message)

    # The loop

    def tick(self) -> float:
        """Judge every watched endpoint and write the moves its alerts need. Returns the seconds until the next is due."""
        watches, alerts = self._store.read(_load)
        for watch in watches:
            try:
                self._judge(watch, alerts)
            except Exception:
                log.exception("endpoint %s cannot be judged; the others are, and the next round tries again", watch.id)
        self._traffic.forget(self._clock.monotonic(), {watch.id for watch in watches})
        self._unreadable = {watch.id: self._unreadable[watch.id] for watch in watches if watch.id in self._unreadable}
        self._profiles = {key: kept for key, kept in self._profiles.items() if key in {w.profile for w in watches}}
        return _TICK_S

    def _judge(self, watch: Watch, alerts: Sequence[Alert]) -> None:
        seen = self._read(watch)
        of_endpoint = {alert.signal: alert for alert in alerts if alert.endpoint == watch.id}
        if rules.evaluate(watch.rules, seen, of_endpoint, self._clock.now()):
            self._store.write(partial(self._apply_fresh, watch=watch, seen=seen))

    def _read(self, watch: Watch) -> dict[Signal, rules.Reading]:
        now = self._clock.monotonic()
        windows = {rule.signal: self._traffic.window(watch.id, now, rule.window_s) for rule in watch.rules}
        return rules.readings(watch.rules, windows, self._compare(watch))

    def _compare(self, watch: Watch) -> tuple[FeatureDrift, ...]:
        """How far features have moved. One unreadable profile hides drift, and no other signal or endpoint."""
        try:
            return self._compared(watch)
        except SkyloomError as error:
            if self._unreadable.get(watch.id) != watch.profile:  # it is asked for every second
                log.error("endpoint %s is judged without drift: %s", watch.id, error)
                self._unreadable[watch.id] = watch.profile
            return ()

    def _compared(self, watch: Watch) -> tuple[FeatureDrift, ...]:
        rule = next((rule for rule in watch.rules if rule.signal is Signal.DRIFT), None)
        if rule is None or not watch.profile:
            return ()
        try:
            window = self._traffic.rows(watch.id, watch.profile, self._clock.monotonic(), rule.min_count)
        except ValueError as error:
            # A replica that counts in other bins than its peers is wrong or lies; that must not hide everything else.
            log.error("endpoint %s is judged without drift: %s", watch.id, error)
            return ()
        if not window.traffic.rows:
            return ()
        return rules.drift(
            self._profile(watch.profile), window.traffic.histograms, limit=rule.threshold, min_rows=rule.min_count
        )

    def _profile(self, digest: str) -> Profile:
        if digest not in self._profiles:
            content = self._blobs.get(digest)
            try:
                self._profiles[digest] = msgspec.json.decode(content, type=Profile)
            except msgspec.MsgspecError as error:
                raise model.ProfileUnreadable(
                    f"The profile {digest} of the model cannot be read: {error}.",
                    next_action="Register the model again with a profile.json made by this version of Skyloom.",
                ) from error
        return self._profiles[digest]

    def _apply_fresh(self, tx: Transaction, watch: Watch, seen: Mapping[Signal, rules.Reading]) -> None:
        fresh = tx.get(WATCHES, watch.id)
        # Deployed or stopped meanwhile: the readings are about what was there before; the next tick decides.
        if fresh is not None and fresh.version == watch.version:
            self._apply(tx, fresh, seen)

    def _apply(self, tx: Transaction, watch: Watch, seen: Mapping[Signal, rules.Reading]) -> None:
        alerts = {alert.signal: alert for alert in tx.select(ALERTS, {"endpoint": watch.id})}
        now = self._clock.now()
        for move in rules.evaluate(watch.rules, seen, alerts, now):
            self._move(tx, watch, alerts.get(move.reading.signal), move, now)

    def _move(self, tx: Transaction, watch: Watch, known: Alert | None, move: rules.AlertMove, now: float) -> None:
        if known is None:
            fresh = rules.first_alert(self._ids.new("alert"), watch, move, now)
            stored = tx.insert(ALERTS, fresh)
        else:
            ALERT_MOVES.check(known.id, known.state, move.after)
            stored = tx.update(ALERTS, rules.moved(known, move, now))
        self._publish(tx, stored, known.state if known else "", move.reading.message)

    def _publish(self, tx: Transaction, alert: Alert, before: str, message: str) -> None:
        news = Moved(before=before, after=alert.state, reason=alert.signal, message=message)
        self._outbox.publish(tx, alert.project, alert.id, news)

    # Operations

    def set_rules(self, tx: Transaction, ask: model.SetAlertRules, by: Caller) -> Watch:
        watch, _ = _watch_of(tx, ask.name, by.project)
        if len({rule.signal for rule in ask.rules}) < len(ask.rules):
            raise model.RulesUnclear(
                f"Two rules for {watch.endpoint_name} look at the same signal.", next_action="Give one rule per signal."
            )
        if any(rule.signal is Signal.BUDGET for rule in ask.rules):
            raise model.RulesUnclear(
                "An endpoint has no budget to look at.", next_action="Budgets are set with: skyloom budget set."
            )
        return watch if watch.rules == ask.rules else tx.update(WATCHES, changed(watch, {"rules": ask.rules}))

    def list_alerts(self, ask: model.ListAlerts, by: Caller) -> Page[Alert]:
        def work(view: Snapshot) -> Page[Alert]:
            where = {"project": by.project} | ({"state": ask.state.value} if ask.state else {})
            if ask.endpoint:
                where["endpoint"] = _watch_of(view, ask.endpoint, by.project)[0].id
            return listed(view, ALERTS, where, ask)

        return self._store.read(work)

    def acknowledge(self, tx: Transaction, ask: model.AcknowledgeAlert, by: Caller) -> Alert:
        alert = rules.own(tx.get(ALERTS, ask.alert_id), ask.alert_id, by.project)
        if alert.state is AlertState.ACKNOWLEDGED:
            return alert
        ALERT_MOVES.check(alert.id, alert.state, AlertState.ACKNOWLEDGED)
        seen = {"state": AlertState.ACKNOWLEDGED, "acknowledged_by": by.principal}
        stored = tx.update(ALERTS, changed(alert, seen))
        self._publish(tx, stored, alert.state, f"{by.principal} has seen it.")
        return stored

    def get(self, ask: model.GetMonitor, by: Caller) -> model.Monitor:
        watch, alerts = self._store.read(lambda view: _watch_of(view, ask.name, by.project))
        now = self._clock.monotonic()
        window = self._traffic.window(watch.id, now, ask.window_s)
        seen, duration_s = window.traffic, window.duration_s
        return model.Monitor(
            endpoint=watch.id,
            endpoint_name=watch.endpoint_name,
            replicas=self._traffic.num_replicas(watch.id, now, _SILENT_S),
            window_s=duration_s,
            requests=seen.requests,
            rows=seen.rows,
            requests_per_s=seen.requests / duration_s if duration_s else 0.0,
            rows_per_s=seen.rows / duration_s if duration_s else 0.0,
            client_errors=seen.client_errors,
            server_errors=seen.server_errors,
            error_rate=seen.server_errors / seen.requests if seen.requests else 0.0,
            latency_p50_s=latency_quantile(seen.latency, 0.5),
            latency_p90_s=latency_quantile(seen.latency, 0.9),
            latency_p99_s=latency_quantile(seen.latency, 0.99),
            drift=self._compare(watch)[: ask.num_features],
            alerts=tuple(alerts),
        )


def _load(view: Snapshot) -> tuple[list[Watch], list[Alert]]:
    return view.select(WATCHES, {"active": True}), view.select(ALERTS, {"state": rules.OPEN})


def _watch_of(view: Snapshot, endpoint: str, project: str) -> tuple[Watch, list[Alert]]:
    """An endpoint's watch by its id, or by its name: of several that had the name, the one that goes on, else the newest. A guest that went
    back to an earlier version has that one's."""
    watch = owned(view, WATCHES, endpoint, project)
    if watch is None:
        named = view.select(WATCHES, {"project": project, "endpoint_name": endpoint}, newest_first=True)
        watch = next((one for one in named if one.active), named[0] if named else None)
    if watch is None:
        raise model.NotWatched(f"There is no endpoint {endpoint}.", next_action="List them: skyloom endpoint list.")
    return watch, view.select(ALERTS, {"endpoint": watch.id, "state": rules.OPEN})
