import itertools

import msgspec
import pytest

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core.errors import IllegalMove
from skyloom.core.events import Moved
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import EVENTS, Outbox
from skyloom.rooms.monitoring.model import (
    AcknowledgeAlert,
    Alert,
    AlertMissing,
    AlertRule,
    AlertState,
    Feature,
    GetMonitor,
    Histogram,
    Latency,
    ListAlerts,
    Monitor,
    NotWatched,
    Profile,
    Reduction,
    RulesUnclear,
    SetAlertRules,
    Signal,
    Traffic,
    Watch,
)
from skyloom.rooms.monitoring.service import Monitoring
from skyloom.stores.memory import MemoryStore

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())
EVE = Caller(principal="eve", project="q", scope="q", rights=frozenset())
AGE = Feature(name="age", tensor="x", reduction=Reduction.COLUMN, edges=(20, 40, 60))
PROFILE = Profile(features=(AGE,), histograms=(Histogram(counts=(1_000, 1_000, 1_000, 1_000)),))
YOUNG, EVEN = (1, 0, 0, 0), (1, 1, 1, 1)


class Place:
    """A monitoring room with one watched endpoint and one replica, whose cumulative numbers `report` adds to."""

    def __init__(self) -> None:
        self.store, self.clock, self.ids = MemoryStore(), MemoryClock(), CountingIds()
        self.blobs = MemoryBlobs()
        self.profile, _ = self.blobs.put([msgspec.json.encode(PROFILE)])
        self.seen = Traffic(histograms=(Histogram(counts=(0, 0, 0, 0)),))
        self.start()
        self.watch("endpoint_1", "p", "digits", self.profile)
        self.report()

    def start(self) -> None:
        """Begin with nothing in memory, as after a restart of the control plane."""
        self.room = Monitoring(self.store, self.clock, self.ids, Outbox(self.clock), self.blobs)

    def watch(self, endpoint: str, project: str, name: str, profile: str) -> None:
        self.store.write(lambda tx: self.room.watch(tx, project, endpoint, name, profile))

    def report(self, rows: int = 0, kinds: tuple[int, ...] = EVEN, errors: int = 0, slow: int = 0) -> None:
        """One second passes, some requests of one row each come, the loop ticks."""
        self.clock.advance(1)
        counts = self.seen.histograms[0].counts
        added = [have + rows * kind // sum(kinds) for have, kind in zip(counts, kinds, strict=True)]
        latency = self.seen.latency.counts
        self.seen = Traffic(
            requests=self.seen.requests + rows,
            rows=self.seen.rows + rows,
            server_errors=self.seen.server_errors + errors,
            latency=Latency(counts={40: latency.get(40, 0) + rows - slow, 70: latency.get(70, 0) + slow}),
            histograms=(Histogram(counts=tuple(added)),),
        )
        self.room.observe("endpoint_1", "replica_1", self.seen, profile=self.profile)
        self.room.tick()

    def alerts(self, by: Caller = ANN) -> list[Alert]:
        return list(self.room.list_alerts(ListAlerts(), by).items)

    def monitor(self) -> Monitor:
        return self.room.get(GetMonitor(name="digits"), ANN)

    def acknowledge(self, alert_id: str, by: Caller = ANN) -> Alert:
        return self.store.write(lambda tx: self.room.acknowledge(tx, AcknowledgeAlert(alert_id=alert_id), by))

    def moves(self) -> list[tuple[str, str]]:
        found = self.store.read(lambda view: view.entries(EVENTS))
        return [(event.body.before, event.body.after) for _, event in found if isinstance(event.body, Moved)]


@pytest.fixture
def place() -> Place:
    return Place()


def test_endpoint_that_cannot_be_judged_does_not_hide_the_others(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.watch("endpoint_0", "p", "broken", place.profile)
    judge = place.room._judge

    def refusing(watch: Watch, alerts: list[Alert]) -> None:
        if watch.endpoint_name == "broken":
            raise RuntimeError("a defect")
        judge(watch, alerts)

    monkeypatch.setattr(place.room, "_judge", refusing)
    for _ in range(20):
        place.report(rows=100, kinds=YOUNG)
    assert [alert.endpoint_name for alert in place.alerts()] == ["digits"]


def test_replica_that_counts_in_other_bins_hides_nothing_but_drift(place: Place):
    odd = Traffic(requests=5, rows=5, histograms=(Histogram(counts=(5,)), Histogram(counts=(5,))))
    for _ in range(2):
        place.room.observe("endpoint_1", "replica_2", odd, profile=place.profile, started_at=0.0)
        place.report(rows=100, errors=90)
    assert place.monitor().requests >= 200
    assert [alert.signal for alert in place.alerts()] == [Signal.ERROR_RATE]


def test_control_plane_that_comes_back_judges_no_replica_by_what_it_counted_for_days(place: Place):
    began = place.clock.now()
    place.clock.advance(10 * 86_400)
    place.room = Monitoring(place.store, place.clock, CountingIds(), Outbox(place.clock), place.blobs)  # it comes back
    old = Traffic(requests=1_000, rows=1_000, server_errors=500)
    for _ in range(3):
        place.clock.advance(1)
        place.room.observe("endpoint_1", "replica_1", old, profile=place.profile, started_at=began)
        place.room.tick()
    assert (place.monitor().requests, place.alerts()) == (0, [])
    place.room.observe("endpoint_1", "replica_2", Traffic(requests=7), profile="", started_at=place.clock.now() - 1)
    assert place.monitor().requests == 7, "of who began since then all counts"


def test_healthy_traffic_raises_no_alert(place: Place):
    for _ in range(50):
        place.report(rows=100)
    assert place.alerts() == []
    assert [row.drifted for row in place.monitor().drift] == [False]


def test_shifted_traffic_raises_one_alert_with_one_event_however_often_it_is_judged(place: Place):
    for _ in range(20):
        place.report(rows=100, kinds=YOUNG)
    (alert,) = place.alerts()
    assert (alert.signal, alert.state, alert.endpoint_name) == (Signal.DRIFT, AlertState.FIRING, "digits")
    assert "'age'" in alert.message
    assert place.moves() == [("", "firing")]


def test_shift_after_a_long_healthy_time_is_seen_within_the_smallest_window(place: Place):
    for _ in range(50):
        place.report(rows=1_000)
    place.report(rows=200, kinds=YOUNG)
    assert [alert.signal for alert in place.alerts()] == [Signal.DRIFT]


def test_alert_goes_its_way_and_fires_again_as_the_same_one(place: Place):
    place.report(rows=300, kinds=YOUNG)
    (alert,) = place.alerts()
    assert place.acknowledge(alert.id).acknowledged_by == "ann"
    assert place.acknowledge(alert.id).state is AlertState.ACKNOWLEDGED  # again: nothing happens
    place.report(rows=300)
    assert place.alerts()[0].state is AlertState.ACKNOWLEDGED  # calm, but not for long enough
    place.clock.advance(60)
    place.report(rows=300)
    resolved = place.alerts()[0]
    assert resolved.state is AlertState.RESOLVED
    assert resolved.resolved_at == place.clock.now()
    with pytest.raises(IllegalMove):
        place.acknowledge(alert.id)
    place.report(rows=300, kinds=YOUNG)
    (again,) = place.alerts()
    assert (again.id, again.times_fired, again.acknowledged_by) == (alert.id, 2, "")
    path = ["", "firing", "acknowledged", "resolved", "firing"]
    assert place.moves() == list(itertools.pairwise(path))


def test_alerts_are_listed_by_endpoint_and_state(place: Place):
    place.report(rows=300, kinds=YOUNG)
    place.watch("endpoint_2", "p", "idle", "")

    def found(**asked: object) -> int:
        return len(place.room.list_alerts(ListAlerts(**asked), ANN).items)

    assert [found(endpoint=name) for name in ("digits", "endpoint_1", "idle")] == [1, 1, 0]
    assert [found(state=state) for state in AlertState] == [1, 0, 0]
    with pytest.raises(NotWatched):
        found(endpoint="unknown")


def test_errors_and_slow_answers_raise_their_own_alerts(place: Place):
    place.report(rows=100, errors=5, slow=3)
    assert {alert.signal for alert in place.alerts()} == {Signal.ERROR_RATE, Signal.LATENCY_P99_S}


def test_restart_of_the_control_plane_keeps_the_alert_and_makes_no_second_one(place: Place):
    place.report(rows=300, kinds=YOUNG)
    place.start()
    for _ in range(3):
        place.report(rows=300, kinds=YOUNG)
    assert len(place.alerts()) == 1
    assert place.moves() == [("", "firing")]


def test_restart_of_the_control_plane_counts_nothing_twice(place: Place):
    place.report(rows=300)
    place.start()
    place.report(rows=7)  # only a base now
    place.report(rows=5)
    assert place.monitor().rows == 5


def test_unwatched_endpoint_ends_its_alerts(place: Place):
    place.report(rows=300, kinds=YOUNG)
    place.store.write(lambda tx: place.room.unwatch(tx, "endpoint_1"))
    place.store.write(lambda tx: place.room.unwatch(tx, "endpoint_1"))
    assert [alert.state for alert in place.alerts()] == [AlertState.RESOLVED]
    place.report(rows=300, kinds=YOUNG)
    assert place.moves() == [("", "firing"), ("firing", "resolved")]


def test_deploying_the_same_again_changes_no_record(place: Place):
    before = place.store.write(lambda tx: place.room.watch(tx, "p", "endpoint_1", "digits", place.profile))
    assert before.version == 1


@pytest.mark.parametrize("content", [None, b"{", b'{"features": 7}'])
def test_unreadable_profile_stops_only_its_own_drift(place: Place, content: bytes | None):
    place.profile = place.blobs.put([content])[0] if content else f"sha256:{'0' * 64}"
    place.watch("endpoint_1", "p", "digits", place.profile)
    place.report()
    place.report(rows=300, kinds=YOUNG, errors=30)
    assert [alert.signal for alert in place.alerts()] == [Signal.ERROR_RATE]
    assert (place.monitor().server_errors, place.monitor().drift) == (30, ())


def test_monitor_shows_rates_over_the_true_window(place: Place):
    for _ in range(10):
        place.report(rows=100, errors=1)
    seen = place.monitor()
    assert (seen.requests, seen.window_s, seen.requests_per_s, seen.error_rate) == (1_000, 10, 100, 0.01)
    assert (seen.replicas, seen.drift[0].rows) == (1, 200)
    assert seen.latency_p50_s == pytest.approx(1e-6 * 1.25**41)


def test_monitor_of_an_endpoint_without_traffic_is_empty_and_not_an_error(place: Place):
    place.watch("endpoint_2", "p", "idle", profile="")
    seen = place.room.get(GetMonitor(name="idle"), ANN)
    assert (seen.requests, seen.requests_per_s, seen.latency_p99_s, seen.drift) == (0, 0, None, ())


def test_another_project_sees_nothing(place: Place):
    place.report(rows=300, kinds=YOUNG)
    (alert,) = place.alerts()
    assert place.alerts(EVE) == []
    with pytest.raises(NotWatched):
        place.room.get(GetMonitor(name="endpoint_1"), EVE)
    with pytest.raises(AlertMissing):
        place.acknowledge(alert.id, EVE)


def set_rules(place: Place, *rules: AlertRule) -> Watch:
    return place.store.write(lambda tx: place.room.set_rules(tx, SetAlertRules(name="digits", rules=rules), ANN))


def test_rules_of_an_endpoint_are_kept_when_it_is_deployed_again(place: Place):
    patient = AlertRule(signal=Signal.ERROR_RATE, threshold=0.5)
    set_rules(place, patient)
    place.watch("endpoint_1", "p", "digits", "")
    place.watch("endpoint_1", "p", "digits", place.profile)
    place.report(rows=100, errors=40)
    assert place.alerts() == []
    place.report(rows=100, errors=90)
    assert [(alert.signal, alert.threshold) for alert in place.alerts()] == [(Signal.ERROR_RATE, 0.5)]


def test_rules_taken_away_end_their_alerts(place: Place):
    place.report(rows=300, kinds=YOUNG)
    set_rules(place)
    place.report()
    assert [alert.state for alert in place.alerts()] == [AlertState.RESOLVED]


def test_two_rules_for_one_signal_are_refused(place: Place):
    rule = AlertRule(signal=Signal.DRIFT, threshold=0.3)
    with pytest.raises(RulesUnclear):
        set_rules(place, rule, rule)
