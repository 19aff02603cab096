import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.events import TaskEnded
from skyloom.core.money import Money
from skyloom.core.resources import Resources
from skyloom.rooms.cost import rules
from skyloom.rooms.cost.model import CostBy, CostReport, LedgerEntry
from skyloom.rooms.cost.prices import ANY_POOL, PriceBook, PriceHistory, PriceList
from skyloom.rooms.cost.rules import OTHERS, ledger_entries, report
from skyloom.rooms.cost.usage import Usage, worth

PRICES = PriceBook(cpu_usd_per_hour=0.04, gpu_usd_per_hour=2.5, memory_gib_usd_per_hour=0.005)
NOW = 400_000.0
LABELS = st.fixed_dictionaries({key: st.sampled_from(["", "a", "b"]) for key in ("user", "run", "model", "endpoint")})
MOMENTS = st.floats(0, NOW)
TASKS = st.builds(
    TaskEnded,
    job_id=st.sampled_from(["job_1", "job_2", "job_3"]),
    task_id=st.sampled_from([f"task_{number}" for number in range(12)]),
    resources=st.builds(Resources, cpus=st.floats(0, 64), gpus=st.integers(0, 8), memory_bytes=st.integers(0, 2**38)),
    started_at=MOMENTS,
    ended_at=MOMENTS,
    labels=LABELS,
)
BOOKS = st.builds(PriceBook, cpu_usd_per_hour=st.floats(0, 100), gpu_usd_per_hour=st.floats(0, 100))


def price_list(moment: float, book: PriceBook = PRICES, pool: str = ANY_POOL) -> PriceList:
    return PriceList(id=f"price_{moment}", project="*", pool=pool, prices=book, valid_from=moment)


HISTORY = PriceHistory([price_list(0.0)])
HISTORIES = st.lists(st.tuples(MOMENTS, BOOKS, st.sampled_from([ANY_POOL, "local"])), max_size=5).map(
    lambda changes: PriceHistory([price_list(0.0), *(price_list(*change) for change in changes)])
)


def entry(task: TaskEnded) -> LedgerEntry:
    (made,) = ledger_entries("p", task, HISTORY)
    return made


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
    used: dict[str, Usage] = {}
    for one in ended:
        name = rules.name_of(by, one)
        used[name] = used.get(name, Usage()) + rules.usage_of(one, limits["since"], limits["until"])
    return report(by, used, running, limit=int(limits.pop("limit", 100)), prices=PRICES, **limits)


def test_worth_of_an_hour_is_the_price_list():
    assert worth(Resources(cpus=2, gpus=1, memory_bytes=2**32), 3600, PRICES) == Money(2_600_000_000)


def test_worth_of_a_clock_set_back_is_nothing():
    assert worth(Resources(cpus=2), -5, PRICES) == Money(0)


@given(TASKS, HISTORIES)
def test_entries_of_a_life_under_changing_prices_cover_it_without_gap_or_overlap(
    ended: TaskEnded, history: PriceHistory
):
    entries = ledger_entries("p", ended, history)
    assert (entries[0].started_at, entries[-1].ended_at) == (ended.started_at, ended.ended_at)
    assert all(before.ended_at == after.started_at for before, after in itertools.pairwise(entries))
    assert [one.is_last for one in entries] == [False] * (len(entries) - 1) + [True]
    assert all(one.prices == history.book("local", one.started_at) for one in entries)
    assert all(one.cost == worth(one.resources, one.duration_us / 1e6, one.prices) for one in entries)


def test_entry_of_a_task_is_not_changed_by_a_later_price():
    dearer = PriceHistory([price_list(0.0), price_list(1_000.0, PriceBook(cpu_usd_per_hour=99.0))])
    ended = TaskEnded(job_id="j", task_id="t", resources=Resources(cpus=1), started_at=0, ended_at=1_000)
    assert ledger_entries("p", ended, dearer) == ledger_entries("p", ended, HISTORY)


def test_prices_of_a_pool_go_before_those_of_any():
    spot = price_list(50.0, PriceBook(cpu_usd_per_hour=1.0), "spot")
    history = PriceHistory([price_list(0.0), spot])
    assert (history.book("spot", 49.0), history.book("spot", 50.0)) == (PRICES, spot.prices)
    assert history.book("other", 50.0) == PRICES


@given(TASKS, st.lists(MOMENTS, max_size=5))
def test_usage_of_neighbouring_times_adds_up_to_the_whole_exactly(ended: TaskEnded, cuts: list[float]):
    one = entry(ended)
    borders = [-math.inf, *sorted(cuts), math.inf]
    parts = [rules.usage_of(one, since, until) for since, until in itertools.pairwise(borders)]
    assert sum(parts, Usage()) == rules.usage_of(one)
    assert rules.usage_of(one).cost == one.cost
    assert rules.usage_of(one).num_tasks == 1


@given(TASKS)
def test_days_of_an_entry_add_up_to_the_whole_exactly(ended: TaskEnded):
    days = list(rules.by_day(entry(ended)))
    assert sum((usage for _, usage in days), Usage()) == rules.usage_of(entry(ended))
    assert [day for day, _ in days] == sorted({day for day, _ in days})
    assert all(0 <= usage.duration_us <= 86_400 * 10**6 for _, usage in days)


@pytest.mark.parametrize(
    ("moment", "month", "end"),
    [
        ("2026-01-31", "2026-01", "2026-02-01"),
        ("2024-02-29", "2024-02", "2024-03-01"),
        ("2026-12-01", "2026-12", "2027-01-01"),
    ],
)
def test_month_of_a_day_ends_where_the_next_begins(moment: str, month: str, end: str):
    at = rules.start_of(moment) + 86_399.0
    assert rules.month_of(at) == month
    assert rules.day_of(rules.end_of_month(at)) == end
    assert rules.month_so_far(at)[-1] == moment


@given(st.lists(TASKS), st.lists(TASKS), st.sampled_from(CostBy), st.integers(1, 4), MOMENTS)
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
def test_report_meters_each_task_for_the_time_it_ran(ended: list[TaskEnded], running: list[TaskEnded]):
    made = summed([*map(entry, ended)], [*map(entry, running)])
    lives = [*ended, *running]
    assert made.total.duration_s == pytest.approx(
        sum(max(0.0, one.ended_at - one.started_at) for one in lives), abs=1e-4
    )
    assert made.total.cost == Money(sum(entry(one).cost.nano_usd for one in lives))


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
