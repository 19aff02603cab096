"""Scaling inside the serving room, by reports that a gateway would send."""

import msgspec
import pytest

from skyloom.core.errors import InvalidInput
from skyloom.ports.door import EVENTS
from skyloom.rooms.jobs.model import JobState
from skyloom.rooms.monitoring.model import Latency
from skyloom.rooms.schedules.model import CronUnreadable, TimeZoneUnknown
from skyloom.rooms.serving.autoscaler import _Followed, check_gpu
from skyloom.rooms.serving.model import Endpoint, EndpointState, Replica
from skyloom.rooms.serving.ports import GATEWAYS
from skyloom.rooms.serving.routes import RevisionTraffic, RouteTraffic
from skyloom.rooms.serving.rules import Seen
from skyloom.rooms.serving.scaling import (
    Autoscaling,
    Foresight,
    ScaleReason,
    ScaleSignal,
    ScalingUnclear,
    ScheduledFloor,
)
from tests.rooms.serving.bench import Bench

SLEEPY = Autoscaling(min_replicas=0, max_replicas=4, target=8.0, scale_to_zero_after_s=30.0)


class Gateway:
    """What a gateway counts: requests at once that go on all the time, each a second long."""

    def __init__(self, bench: Bench, endpoint: str) -> None:
        self.bench, self.endpoint = bench, endpoint
        bench.loads_told = True
        self.arrived = 0

    def second(self, at_once: int, bin_of_latency: int = 50) -> bool:
        self.arrived += at_once
        counts = {bin_of_latency: self.arrived} if self.arrived else {}
        held = 0 if self.bench.status().endpoint.num_replicas else at_once
        route = RouteTraffic(
            endpoint=self.endpoint,
            arrived=self.arrived,
            held=held,
            in_flight=at_once - held,
            mean_in_flight=float(at_once),
            revisions={"rev_1": RevisionTraffic(requests=self.arrived, latency=Latency(counts=counts))},
        )
        waits = self.bench.serving.autoscaler.hear("gw_1", route)
        self.bench.round()
        return waits

    def sizes(self, at_once: int, seconds: int) -> list[int]:
        found = []
        for _ in range(seconds):
            self.second(at_once)
            found.append(self.bench.status().endpoint.num_replicas)
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def start(bench: Bench, scaling: Autoscaling, **what) -> Gateway:
    status = bench.deploy(scaling=scaling, **what)
    bench.settle()
    return Gateway(bench, status.endpoint.id)


def test_load_follows_with_replicas_events_and_a_reason(bench: Bench) -> None:
    gateway = start(bench, Autoscaling(max_replicas=4, target=8.0))
    gateway.sizes(20, 40)
    status = bench.status()
    assert status.endpoint.num_replicas == 3
    assert status.state is EndpointState.READY
    assert len(bench.running()) == 3
    assert status.scale is not None and "20 requests at once" in status.scale.why
    events = bench.disk.read(lambda view: view.entries(EVENTS, {"subject": status.endpoint.id}))
    told = [event.body for _, event in events if getattr(event.body, "after", "").endswith("replicas")]
    assert (told[-1].after, told[-1].reason in {"load", "panic"}) == ("3 replicas", True)
    assert "at a target of 8" in told[-1].message


def test_quiet_endpoint_sleeps_and_the_next_request_wakes_it(bench: Bench) -> None:
    gateway = start(bench, SLEEPY)
    gateway.sizes(4, 10)
    sizes = gateway.sizes(0, 90)
    assert sizes[-1] == 0
    assert sizes.index(0) >= 29
    bench.settle()
    assert not bench.running()
    assert bench.status().state is EndpointState.READY
    assert not gateway.second(0)
    assert gateway.second(1)  # look at once
    assert bench.status().endpoint.num_replicas == 1
    assert bench.status().scale.reason is ScaleReason.WAKE
    bench.settle()
    assert len(bench.running()) == 1


def test_restarted_control_plane_goes_on_from_its_size_and_takes_nothing_away_unseen(bench: Bench) -> None:
    gateway = start(bench, Autoscaling(max_replicas=4, target=8.0))
    gateway.sizes(30, 40)
    assert bench.status().endpoint.num_replicas == 4
    bench.start()
    bench.settle(30)
    assert bench.status().endpoint.num_replicas == 4
    assert bench.status().scale.reason is ScaleReason.UNSEEN
    assert set(gateway.sizes(0, 40)) == {4}
    assert gateway.sizes(0, 100)[-1] == 1


@pytest.mark.parametrize("phase", ["before", "after"])
def test_crash_at_the_commit_of_a_size_repeats_or_keeps_it(bench: Bench, phase: str) -> None:
    gateway = start(bench, Autoscaling(max_replicas=4, target=8.0))
    bench.start()
    for number in range(1, 8):
        bench.start(phase, number)
        try:
            gateway.sizes(30, 12)
        except BaseException as crash:
            assert type(crash).__name__ == "Crash"
    bench.start()
    gateway.sizes(30, 20)
    assert bench.status().endpoint.num_replicas == 4
    assert len(bench.running()) == 4


def test_restarted_gateway_counts_from_nothing_and_does_no_harm(bench: Bench) -> None:
    gateway = start(bench, Autoscaling(signal=ScaleSignal.RATE, target=10.0, max_replicas=4))
    gateway.sizes(25, 90)
    assert bench.status().endpoint.num_replicas == 3
    gateway.arrived = 0
    gateway.sizes(25, 90)
    assert bench.status().endpoint.num_replicas == 3


def test_slow_answers_grow_an_endpoint_that_scales_on_latency(bench: Bench) -> None:
    gateway = start(bench, Autoscaling(signal=ScaleSignal.LATENCY, target=0.1, max_replicas=3))
    for _ in range(60):
        gateway.second(2, bin_of_latency=60)  # 1 µs · 1.25^61: 0.8 s
    assert bench.status().endpoint.num_replicas == 3


def test_deploy_without_scaling_keeps_it_and_a_number_alone_ends_it(bench: Bench) -> None:
    start(bench, SLEEPY)
    assert bench.deploy().endpoint.scaling == SLEEPY
    both = bench.deploy(scaling=SLEEPY, num_replicas=9).endpoint
    assert (both.scaling, both.num_replicas) == (SLEEPY, 4)
    alone = bench.deploy(num_replicas=2).endpoint
    assert (alone.scaling, alone.num_replicas) == (None, 2)


def test_stopped_and_deployed_again_begins_awake(bench: Bench) -> None:
    gateway = start(bench, SLEEPY)
    gateway.sizes(0, 100)
    assert bench.status().endpoint.num_replicas == 0
    bench.stop()
    assert bench.deploy().endpoint.num_replicas == 1


@pytest.mark.parametrize(
    ("scaling", "error"),
    [
        (Autoscaling(min_replicas=5), ScalingUnclear),
        (Autoscaling(floors=(ScheduledFloor(start="nonsense", end="0 8 * * *"),)), CronUnreadable),
        (Autoscaling(floors=(ScheduledFloor(start="0 7 30 2 *", end="0 8 * * *"),)), InvalidInput),
        (
            Autoscaling(floors=(ScheduledFloor(start="0 7 * * *", end="0 8 * * *", time_zone="No/Where"),)),
            TimeZoneUnknown,
        ),
    ],
)
def test_scaling_that_can_never_be_is_refused_at_the_door(bench: Bench, scaling: Autoscaling, error: type) -> None:
    with pytest.raises(error):
        bench.deploy(scaling=scaling)


def test_two_gateways_are_added_up_and_one_that_dies_is_forgotten_soon(bench: Bench) -> None:
    status = bench.deploy(scaling=Autoscaling(max_replicas=9, target=8.0, window_s=6.0), num_gateways=2)
    bench.settle()
    endpoint, bench.loads_told, arrived = status.endpoint.id, True, {"gw_1": 10_000, "gw_2": 5_000}

    def second(*gateways: str) -> int:
        for name in gateways:
            arrived[name] = arrived.get(name, 0) + 12
            route = RouteTraffic(endpoint=endpoint, arrived=arrived[name], in_flight=12, mean_in_flight=12.0)
            bench.serving.autoscaler.hear(name, route)
        bench.round()
        return bench.status().endpoint.num_replicas

    assert [second("gw_1", "gw_2") for _ in range(20)][-1] == 3, "24 at once in all"
    for _ in range(60):
        left = second("gw_1")
    assert left == 2, "12 at once"
    assert bench.status().scale.seen == pytest.approx(12.0)


def test_endpoint_that_asks_for_two_gateways_has_two_and_misses_none(bench: Bench) -> None:
    def alive() -> list[str]:
        found = bench.disk.read(lambda view: view.select(GATEWAYS, {"ended_at": None}))
        return [gateway.id for gateway in found if gateway.stopped_at is None]

    bench.deploy(scaling=Autoscaling(max_replicas=2), num_gateways=2)
    bench.settle()
    first, second = alive()
    bench.engine.finish(f"{bench.disk.read(lambda view: view.get(GATEWAYS, first)).job_id}.1.0", 137)
    bench.settle(4)
    assert second in alive() and first not in alive() and len(alive()) == 2
    assert bench.status().state is EndpointState.READY
    bench.deploy(num_gateways=1)
    bench.settle(4)
    assert len(alive()) == 1


def test_foresight_remembers_earlier_days_after_a_restart_and_a_new_limit(bench: Bench) -> None:
    scaling = Autoscaling(max_replicas=9, target=4.0, window_s=6.0, foresight=Foresight(num_days=2, same_weekday=False))
    gateway = start(bench, scaling)
    gateway.sizes(20, 70)
    bench.clock.advance(300)
    gateway.sizes(0, 2)  # the memory is kept every five minutes
    bench.clock.advance(86_400 - 372)
    bench.start()
    bench.settle(3)
    assert "1 earlier day saw up to 20 requests at once" in bench.status().scale.floor_why
    bench.deploy(scaling=msgspec.structs.replace(scaling, max_replicas=7))
    bench.settle(3)
    assert "1 earlier day saw up to 20 requests at once" in bench.status().scale.floor_why
    assert bench.status().endpoint.num_replicas == 5


def test_gpu_is_scaled_on_where_replicas_have_one_and_it_can_be_read() -> None:
    bench = Bench()
    wish = Autoscaling(signal=ScaleSignal.GPU, target=0.5)
    with pytest.raises(ScalingUnclear, match="its replicas have none"):
        bench.deploy(scaling=wish)
    check_gpu(wish, 1, can_read=True)
    check_gpu(None, 0, can_read=False)
    with pytest.raises(ScalingUnclear, match="nothing here can read"):
        check_gpu(wish, 1, can_read=False)


def test_gpus_that_are_busy_ask_for_more_and_silent_ones_for_nothing() -> None:
    wish = Autoscaling(signal=ScaleSignal.GPU, target=0.5, max_replicas=9)
    replica = Replica(
        id="rep_1",
        project="p",
        endpoint_id="ep_1",
        revision_id="rev_1",
        revision_number=1,
        job_id="job_1",
        created_at=0.0,
    )
    for told, wanted in ((0.9, 2), (0.3, 1), (None, 1)):
        followed = _Followed()
        endpoint = Endpoint(
            id="ep_1",
            project="p",
            name="e",
            model="m",
            revision=1,
            num_replicas=1,
            created_at=0.0,
            created_by="me",
            scaling=wish,
        )
        seen = [Seen(replica, JobState.RUNNING, ready=True, gpu=told)]
        decision = None
        for second in range(70):
            decision = followed.decide(endpoint, seen, float(second))
            followed.settle(decision, float(second))
            followed.hear("gw", RouteTraffic(endpoint="ep_1"), float(second), float(second))
        assert decision is not None and decision.wanted == wanted, (told, decision)
