import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.events import TaskEnded
from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.rooms.cost.model import CostBy, CostReport, LedgerEntry, PriceBook
from skyloom.rooms.cost.rules import OTHERS, ledger_entry, report, worth

PRICES = PriceBook(cpu_usd_per_hour=0.04, gpu_usd_per_hour=2.5, memory_gib_usd_per_hour=0.005)
NOW = 10_000.0
LABELS = st.fixed_dictionaries({key: st.sampled_from(["", "a", "b"]) for key in ("user", "run", "model", "endpoint")})
TASKS = st.builds(
    TaskEnded,
    job_id=st.sampled_from(["job_1", "job_2", "job_3"]),
    task_id=st.sampled_from([f"task_{number}" for number in range(12)]),
    resources=st.builds(Resources, cpus=st.floats(0, 64), gpus=st.integers(0, 8), memory_bytes=st.integers(0, 2**38)),
    started_at=st.floats(0, NOW),
    ended_at=st.floats(0, NOW),
    labels=LABELS,
)


def entry(task: TaskEnded) -> LedgerEntry:
    return ledger_entry("p", task, PRICES)


def task(task_id: str, started_at: float, ended_at: float, **labels: str) -> LedgerEntry:
    ended = TaskEnded(
        job_id="job_1",
        task_id=task_id,
        resources=Resources(cpus=2, gpus=1, memory_bytes=2**31),
        started_at=started_at,
        ended_at=ended_at,
        labels=labels,
    )
    return entry(ended)


def summed(
    ended: list[LedgerEntry], running: list[LedgerEntry], by: CostBy = CostBy.JOB, **bounds: float
) -> CostReport:
    limits = {"since": 0.0, "until": NOW, **bounds}
    return report(by, ended, running, limit=int(limits.pop("limit", 100)), prices=PRICES, **limits)


def test_worth_of_an_hour_is_the_price_list():
    assert worth(Resources(cpus=2, gpus=1, memory_bytes=2**32), 3600, PRICES) == Money(2_600_000_000)


def test_worth_of_a_clock_set_back_is_nothing():
    assert worth(Resources(cpus=2), -5, PRICES) == Money(0)


@given(st.lists(TASKS), st.lists(TASKS), st.sampled_from(CostBy), st.integers(1, 4), st.floats(0, NOW))
def test_report_parts_sum_to_the_total_exactly(
    ended: list[TaskEnded], running: list[TaskEnded], by: CostBy, limit: int, since: float
):
    made = summed([*map(entry, ended)], [*map(entry, running)], by, limit=limit, since=since)
    assert Money(sum(row.cost.nano_usd for row in made.rows)) == made.total.cost
    assert sum(row.num_tasks for row in made.rows) == made.total.num_tasks
    assert sum(row.duration_s for row in made.rows) == pytest.approx(made.total.duration_s, abs=1e-9)
    assert len(made.rows) <= limit
    assert all(row.cost.nano_usd >= 0 and row.duration_s >= 0 for row in made.rows)


@given(st.lists(TASKS), st.lists(TASKS))
def test_report_meters_each_attempt_once_for_the_time_it_ran(ended: list[TaskEnded], running: list[TaskEnded]):
    lives: dict[str, TaskEnded] = {}
    for one in [*ended, *running]:
        lives.setdefault(one.task_id, one)
    expected_s = sum(max(0.0, one.ended_at - one.started_at) for one in lives.values())
    made = summed([*map(entry, ended)], [*map(entry, running)])
    assert made.total.duration_s == pytest.approx(expected_s, abs=1e-4)
    assert made.total.cost == Money(sum(entry(one).cost.nano_usd for one in lives.values()))


@given(st.lists(TASKS, max_size=8), st.lists(st.floats(0, NOW), max_size=4))
def test_report_of_consecutive_times_meters_as_much_as_the_whole(ended: list[TaskEnded], cuts: list[float]):
    entries, borders = [*map(entry, ended)], [0.0, *sorted(cuts), NOW]
    pieces = [summed(entries, [], since=start, until=end).total for start, end in itertools.pairwise(borders)]
    whole = summed(entries, []).total
    assert sum(piece.duration_s for piece in pieces) == pytest.approx(whole.duration_s, abs=1e-4)
    assert sum(piece.cost.nano_usd for piece in pieces) == pytest.approx(whole.cost.nano_usd, abs=100)


def test_report_counts_only_the_part_of_a_life_since_then():
    made = summed([task("t", 0, 100)], [], since=75)
    assert made.total.duration_s == 25
    assert made.total.cost == worth(Resources(cpus=2, gpus=1, memory_bytes=2**31), 25, PRICES)
    assert summed([task("t", 0, 100)], [], since=200).total.num_tasks == 0


def test_report_names_what_did_not_fit_others():
    entries = [task(f"t{number}", 0, 10 * number, user=f"user{number}") for number in range(1, 6)]
    made = summed(entries, [], CostBy.USER, limit=3)
    assert [row.name for row in made.rows] == ["user5", "user4", OTHERS]
    assert made.rows[-1].num_tasks == 3


def test_report_of_running_tasks_says_how_many():
    made = summed([task("t1", 0, 10, model="m")], [task("t2", 0, NOW, model="m")], CostBy.MODEL)
    assert (made.rows[0].name, made.rows[0].num_tasks, made.rows[0].num_running) == ("m", 2, 1)
