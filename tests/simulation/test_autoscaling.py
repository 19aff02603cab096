"""Replicas that are imagined, against oracles that share no code with them; logs in the formats in which they are published."""

import heapq
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.cli import main
from skyloom.cli.simulate_autoscale import read_policy
from skyloom.cli.values import UnreadableOption
from skyloom.rooms.serving.scaling import Autoscaling, ScaleSignal, ScalingUnclear
from skyloom.simulation import replicas
from skyloom.simulation.autoscaling import NamedScaling, ServiceGoal, compare
from skyloom.simulation.load_figure import load_figure, load_page, write_load_figure
from skyloom.simulation.optimum import optimum
from skyloom.simulation.replicas import ReplicaKind, answer
from skyloom.simulation.requests import RequestTrace, Speeds, read_requests
from skyloom.simulation.trace import TraceMissing, TraceUnreadable

requests = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 6)), min_size=1, max_size=12)


def log_of(pairs) -> RequestTrace:
    ordered = sorted((float(at), float(took)) for at, took in pairs)
    return RequestTrace("log", [at for at, _ in ordered], [took for _, took in ordered])


def cheapest(log: RequestTrace, concurrency: int, cold_s: int) -> float:
    """The optimum by trying all sizes at every second."""
    end = int(max(at + took for at, took in zip(log.arrivals, log.services, strict=True)))
    needed = []
    for second in range(end):
        busy = sum(at <= second < at + took for at, took in zip(log.arrivals, log.services, strict=True))
        needed.append(-(-busy // concurrency))
    top = max(needed, default=0)
    costs = {0: 0.0}
    for least in needed:
        costs = {
            size: min(cost + max(0, size - before) * cold_s for before, cost in costs.items()) + size
            for size in range(least, top + 1)
        }
    return min(costs.values())


@given(requests, st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_optimum_is_what_trying_everything_finds(pairs, concurrency, cold_s) -> None:
    log = log_of(pairs)
    found = optimum(log, concurrency, cold_s)
    assert found.replica_s == pytest.approx(cheapest(log, concurrency, cold_s))
    assert found.work_s <= found.replica_s + 1e-9


@given(requests, st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_fixed_replicas_are_a_queue_with_that_many_servers(pairs, concurrency, num_replicas) -> None:
    log = log_of(pairs)
    fixed = Autoscaling(min_replicas=num_replicas, max_replicas=num_replicas)
    answered = answer(log, fixed, ReplicaKind(concurrency=concurrency))
    free = [0.0] * (concurrency * num_replicas)
    waits = []
    for at, took in zip(log.arrivals, log.services, strict=True):
        begins = max(at, heapq.heappop(free))
        waits.append(begins - at)
        heapq.heappush(free, begins + took)
    assert list(answered.waits) == pytest.approx(waits)
    assert answered.replica_s == pytest.approx(num_replicas * (answered.ended_at - log.begin))
    assert (answered.num_moves, answered.num_starts, answered.peak) == (0, 0, num_replicas)


@given(
    requests,
    st.sampled_from([signal for signal in ScaleSignal if signal is not ScaleSignal.GPU]),
    st.integers(0, 2),
    st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_every_request_is_answered_and_paid_for(pairs, signal, least, cold_s) -> None:
    log = log_of(pairs)
    target = 0.5 if signal is ScaleSignal.UTILISATION else 1.0
    scaling = Autoscaling(min_replicas=least, max_replicas=3, signal=signal, target=target)
    told: list[int] = []
    answered = answer(log, scaling, ReplicaKind(concurrency=2, cold_start_s=cold_s), told.append)
    assert sum(told) == len(log.arrivals) == len(answered.waits)
    assert min(answered.waits) >= 0
    assert answered.replica_s >= sum(log.services) / 2 - 1e-6
    assert answered.num_turns <= answered.num_moves
    if not least:
        assert answered.waits[0] == pytest.approx(cold_s)
        assert answered.num_cold >= 1


def test_one_request_to_a_sleeping_endpoint_pays_a_cold_start() -> None:
    log = log_of([(0, 2), (1, 1)])
    answered = answer(log, Autoscaling(min_replicas=0), ReplicaKind(cold_start_s=3.0))
    assert list(answered.waits) == [3.0, 2.0]
    assert answered.replica_s == 5.0
    assert (answered.num_cold, answered.num_starts, answered.num_moves) == (2, 1, 1)


def test_replica_that_is_let_go_finishes_what_it_has() -> None:
    log = log_of([(0, 40), (1, 300)])
    scaling = Autoscaling(min_replicas=0, max_replicas=5, target=1.2, scale_down_delay_s=0.0)
    answered = answer(log, scaling, ReplicaKind(concurrency=1, cold_start_s=0.0))
    began = 1.0 + answered.waits[1]
    assert answered.ended_at == began + 300  # by the younger one, which was let go when the load was one again
    assert answered.num_turns == 1
    assert answered.points[-1].ready == 1
    assert answered.points[-1].paid == 2.0


def test_log_that_would_never_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_MAX_PLAYED_S", 100.0)
    with pytest.raises(replicas.LogTooLong, match="1 requests"):
        answer(log_of([(0, 1), (1_000, 1)]), Autoscaling(), ReplicaKind())


def test_comparison_holds_each_policy_against_the_goal_and_the_optimum() -> None:
    log = log_of([(at, 1) for at in range(60)])
    ways = [
        NamedScaling(name="one", scaling=Autoscaling(min_replicas=1, max_replicas=1)),
        NamedScaling(name="two", scaling=Autoscaling(min_replicas=2, max_replicas=2)),
    ]
    report, answered = compare(
        log, ways, ReplicaKind(concurrency=1, cold_start_s=0.0), ServiceGoal(latency_s=1.0), ways[1:]
    )
    assert [row.policy for row in report.rows] == ["one", "two"]
    assert [row.over_optimum for row in report.rows] == [1.0, 2.0]
    assert [row.in_time for row in report.rows] == [1.0, 1.0]
    assert (report.optimum_replica_s, report.work_replica_s, report.needed_at_once) == (60.0, 60.0, 1)
    assert report.what_if[0].replica_s == 120.0
    assert set(answered) == {"one", "two"}


def test_own_columns_in_any_order_are_read_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("service_s,arrived_s\n0.5,3\n0.25,1\n")
    log = read_requests([path], Speeds())
    assert (list(log.arrivals), list(log.services)) == ([1.0, 3.0], [0.25, 0.5])
    path.write_text("arrived_s\n3\n1\n")
    assert list(read_requests([path], Speeds(service_s=0.2)).services) == [0.2, 0.2]


def test_published_logs_are_read_as_they_are(tmp_path: Path) -> None:
    llm = tmp_path / "llm.csv"
    llm.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,5000,50\n2023-11-16 18:18:04.5,10,0\n"
    )
    log = read_requests([llm], Speeds(context_per_s=5_000, generated_per_s=50))
    assert list(log.arrivals) == pytest.approx([1_700_158_623.97996, 1_700_158_684.5])
    assert list(log.services) == pytest.approx([2.0, 0.002])
    functions = tmp_path / "functions.csv"
    functions.write_text("app,func,end_timestamp,duration\na,f,10.5,0.5\na,g,9,8\n")
    log = read_requests([functions], Speeds())
    assert (list(log.arrivals), list(log.services)) == ([1.0, 10.0], [8.0, 0.5])


def test_request_logs_of_skyloom_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rep_1.jsonl"
    line = {
        "prediction_id": "pred_x",
        "at": 12.5,
        "revision": "rev_1",
        "rows": 1,
        "latency_us": 500_000,
        "outputs": None,
    }
    path.write_text(json.dumps(line) + "\n")
    log = read_requests([path], Speeds())
    assert (list(log.arrivals), list(log.services)) == ([12.0], [0.5])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("arrived_s,service_s\n1,-1\n", "line 2, column service_s: -1 is negative"),
        ("arrived_s,service_s\n1\n", "line 2: it has 1 cells"),
        ("arrived_s,service_s\nnan,1\n", "is not a finite number"),
        ("arrived_s\n1\n", "does not say how long"),
        ("when\n1\n", "column when unknown"),
        ("arrived_s,service_s\n", "has no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03,1,1\n", "is not a time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03+02:00,1,1\n", "is not a time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,many\n", "column GeneratedTokens"),
        ("", "is empty"),
    ],
)
def test_logs_that_cannot_be_read_are_refused_by_line_and_column(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(TraceUnreadable, match=where):
        read_requests([path], Speeds())


def test_missing_and_damaged_request_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceMissing):
        read_requests([tmp_path / "none.jsonl"], Speeds())
    path = tmp_path / "bad.jsonl"
    path.write_text('{"at": 1, "latency_us": 2000000}\n')
    with pytest.raises(TraceUnreadable, match="line 1"):
        read_requests([path], Speeds())


def test_figure_holds_every_policy_and_no_markup_of_names(tmp_path: Path) -> None:
    log = log_of([(at, 1) for at in range(20)])
    ways = [NamedScaling(name="<b>", scaling=Autoscaling(min_replicas=0))]
    report, answered = compare(log, ways, ReplicaKind(), ServiceGoal())
    drawn = load_figure(msgspec.structs.replace(report, log="<i>"), answered)
    assert [panel.title for panel in drawn.panels] == [
        "requests in the system",
        "replicas paid",
        "longest wait, seconds",
    ]
    assert drawn.panels[1].top == pytest.approx(1.0)
    page = load_page(drawn)
    assert "&lt;b&gt;" in page and "<b>" not in page and "<i>" not in page
    write_load_figure(report, answered, tmp_path / "load.html")
    assert (tmp_path / "load.html").read_text().count("<polyline") == 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("best", UnreadableOption),
        ("concurrency,max", UnreadableOption),
        ("concurrency,max=0", UnreadableOption),
        ("concurrency,colour=1", UnreadableOption),
        ("concurrency,foresight=x", UnreadableOption),
        ("concurrency,min=8,max=2", ScalingUnclear),
        ("latency,foresight=3", ScalingUnclear),
    ],
)
def test_policies_that_cannot_be_meant_are_refused(text: str, error: type) -> None:
    with pytest.raises(error):
        read_policy(text, ReplicaKind(), ServiceGoal(), 1.0)


def test_policies_have_targets_that_suit_their_replicas() -> None:
    kind, goal = ReplicaKind(concurrency=10), ServiceGoal(latency_s=0.3)
    targets = [read_policy(name, kind, goal, 0.5).scaling.target for name in ("concurrency", "rate", "latency")]
    assert targets == pytest.approx([7.0, 14.0, 0.3])
    fixed = read_policy("fixed,max=3", kind, goal, 0.5).scaling
    assert (fixed.min_replicas, fixed.max_replicas) == (3, 3)
    assert read_policy("knative,window=30,foresight=3", kind, goal, 0.5).scaling.foresight.num_days == 3


def test_example_of_the_page_is_what_the_command_answers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "scaling.md").read_text()
    command, answer = re.findall(r"```sh\n(skyloom simulate-autoscale .*?)```\n\n```\n(.*?)```", page, flags=re.DOTALL)[
        0
    ]
    monkeypatch.chdir(root)
    assert main(command.split()[1:]) == 0
    assert capfd.readouterr().out == answer
