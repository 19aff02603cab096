"""One gateway a project while one is needed; what it tells of other projects is nobody's business."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ports.store import changed
from skyloom.rooms.monitoring.model import Alert, Signal
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.serving.change import GatewayRun
from skyloom.rooms.serving.gateways import SeenGateway, gateway_steps
from skyloom.rooms.serving.model import ReportRoutes
from skyloom.rooms.serving.ports import GATEWAYS
from skyloom.rooms.serving.routes import RevisionTraffic, RouteTraffic
from skyloom.rooms.serving.rules import SILENT_S
from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.rooms.serving.split import CanaryPlan, CanaryState, SplitTally
from skyloom.rooms.serving.tallying import handed_on, since_split
from tests.rooms.serving.bench import ME, Bench
from tests.rooms.serving.test_change import canary, start_canary

NOW = 10_000.0


def run(number=0, **changes) -> GatewayRun:
    return changed(
        GatewayRun(id=f"gw_{number}", project="p", job_id=f"job_{number}", created_at=float(number)), changes
    )


SEEN = st.lists(
    st.builds(
        lambda number, over, silent, told: SeenGateway(
            run(number, stopped_at=5.0 if told else None), over, SILENT_S + 1 if silent else 0.0, "segfault"
        ),
        st.integers(0, 1_000),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    max_size=4,
    unique_by=lambda item: item.gateway.id,
)


@given(SEEN, st.integers(0, 4), st.integers(0, 8))
def test_exactly_as_many_gateways_are_left_as_are_needed(seen, needed, failures):
    failed = [run(2_000 + number, failed=True, ended_at=NOW - 1) for number in range(failures)]
    steps = gateway_steps(seen, failed, needed, NOW)
    told = {item.id for item in steps.stop}
    left = [item for item in seen if item.wanted and item.gateway.id not in told]
    assert len(left) + steps.start <= needed
    assert {item.id for item in steps.ended} == {item.gateway.id for item in seen if item.over}
    if needed and not failures and not steps.ended:
        assert len(left) + steps.start == needed
    assert all(item.failed == (item.stopped_at is None or item.message != "") for item in steps.ended)


def test_gateway_that_ends_again_and_again_is_started_ever_more_slowly():
    def starts(count):
        failed = [run(n, created_at=NOW - 1, failed=True, ended_at=NOW) for n in range(count)]
        return gateway_steps((), failed, True, NOW).start

    assert [starts(count) for count in range(4)] == [True, True, False, False]
    old = [run(n, failed=True, ended_at=NOW - 1_000) for n in range(9)]
    assert gateway_steps((), old, True, NOW).start


def test_gateway_that_is_killed_after_it_had_worked_is_replaced_at_once_however_often():
    killed = [run(n, created_at=NOW - 20, failed=True, ended_at=NOW) for n in range(20)]
    assert gateway_steps((), killed, True, NOW).start


def test_second_gateway_that_dies_again_and_again_is_replaced_every_second_while_the_first_works():
    failed = [run(n, created_at=NOW - 1, failed=True, ended_at=NOW) for n in range(9)]
    (good,) = [SeenGateway(run(50), over=False)]
    assert gateway_steps([good], failed, 2, NOW).start == 0
    assert gateway_steps([good], failed, 2, NOW + 1).start == 1
    assert gateway_steps([], failed, 2, NOW + 1).start == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=8))
def test_tally_of_two_gateways_of_which_one_may_be_replaced_any_time_counts_all(seconds):
    """Each second both answer some; then the second one may die, and another stands in its place."""
    counted = {"gw_a": {"rev": RevisionTraffic(requests=7)}, "gw_0": {"rev": RevisionTraffic(requests=3)}}
    tally = SplitTally(id="ep", project="p", since=0.0, bases={name: dict(seen) for name, seen in counted.items()})
    total = 0
    for number, (requests, dies) in enumerate(seconds):
        counted = {
            name: {"rev": RevisionTraffic(requests=seen["rev"].requests + requests)} for name, seen in counted.items()
        }
        total += 2 * requests
        assert since_split(tally, counted)["rev"].requests == total
        if dies:
            last, counted = counted, {"gw_a": counted["gw_a"], f"gw_{number + 1}": {"rev": RevisionTraffic()}}
            tally = handed_on(tally, counted.keys(), last)
            assert since_split(tally, counted)["rev"].requests == total


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(0, 20))
def test_tally_counts_what_all_gateways_saw_since_the_split(lives, before):
    """Each number is what one gateway answered in its life; the split came into force when the first had answered ``before``."""
    tally = SplitTally(id="ep", project="p", since=0.0, bases={"gw_0": {"rev": RevisionTraffic(requests=before)}})
    for number, requests in enumerate(lives):
        counted = {"rev": RevisionTraffic(requests=requests + (before if number == 0 else 0))}
        assert since_split(tally, {f"gw_{number}": counted})["rev"].requests == sum(lives[: number + 1])
        tally = handed_on(tally, [f"gw_{number + 1}"], {f"gw_{number}": counted})
    assert tally.carried["rev"].requests == sum(lives)


def test_canary_goes_back_when_drift_fires_that_did_not_before():
    bench = Bench()
    bench.deploy()
    bench.settle()
    endpoint = bench.status().endpoint
    alert = Alert(
        id="alert_1",
        project="default",
        endpoint=endpoint.id,
        signal=Signal.DRIFT,
        value=1.0,
        threshold=0.2,
        message="the mean of x has moved",
        fired_at=bench.clock.now() - 5,
    )
    stored = bench.disk.write(lambda tx: tx.insert(ALERTS, alert))
    bench.register(weights=b"two")
    start_canary(bench, CanaryPlan(steps=(50.0,), step_s=60.0))
    bench.serving.tick()
    assert canary(bench).state is CanaryState.STEPPING, "it was there before"
    bench.disk.write(lambda tx: tx.update(ALERTS, changed(stored, {"fired_at": bench.clock.now()})))
    bench.serving.tick()
    assert canary(bench).state is CanaryState.ROLLED_BACK
    assert "the mean of x has moved" in canary(bench).message


def test_request_that_waits_wakes_the_loop_and_only_for_endpoints_of_the_gateways_project():
    bench = Bench()
    asked = Autoscaling(min_replicas=0, max_replicas=2, window_s=6.0, scale_to_zero_after_s=6.0, scale_down_delay_s=0.0)
    bench.deploy(scaling=asked)
    bench.settle(30)
    assert bench.status().endpoint.num_replicas == 0
    noticed: list[set[str]] = []
    bench.serving.notice = noticed.append
    (gateway,) = [
        item for item in bench.disk.read(lambda view: view.select(GATEWAYS, {"ended_at": None})) if not item.stopped_at
    ]
    me = msgspec.structs.replace(ME, task_id=f"{gateway.job_id}.1.0")

    def report(endpoint: str) -> None:
        routes = (RouteTraffic(endpoint=endpoint, arrived=1, held=1),)
        bench.serving.report_routes(ReportRoutes(gateway=gateway.id, ready=True, routes=routes), me)

    report("ep_of_somebody_else")
    assert noticed == []
    report(bench.status().endpoint.id)
    assert noticed == [{"endpoints"}]
    bench.settle(2)
    assert bench.status().endpoint.num_replicas == 1
