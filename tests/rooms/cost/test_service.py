from collections import defaultdict
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.events import Event, Moved
from skyloom.core.operation import Caller
from skyloom.ports.store import Snapshot, Transaction
from skyloom.rooms.cost import rules, tallies
from skyloom.rooms.cost.model import CostBy, GetOutlook, ListPrices, SetPrices, Tally
from skyloom.rooms.cost.ports import LEDGER, TALLIES
from skyloom.rooms.cost.prices import ANY_POOL, PriceBook, PricedPoolMissing, PriceUnclear, Tenure
from skyloom.rooms.cost.usage import Usage
from skyloom.rooms.tenancy.model import Project
from skyloom.rooms.tenancy.ports import PROJECTS
from tests.rooms.cost.place import ANN, Place, task

NAMES = st.sampled_from(["", "a", "b"])
LIVES = st.tuples(
    st.floats(0, 500_000), st.floats(0, 500_000), st.fixed_dictionaries(dict.fromkeys(("user", "run", "model"), NAMES))
)


@pytest.fixture
def place() -> Place:
    return Place()


def test_cost_of_an_ended_task_is_in_the_report(place: Place):
    place.publish(task("t1", 900, 960))
    assert place.report().total.cost.nano_usd == 60_000_000


def test_cost_of_an_event_told_twice_is_charged_once(place: Place):
    place.publish(task("t1", 900, 960))
    place.publish(task("t1", 900, 960))
    assert place.report().total.num_tasks == 1


def test_cost_of_a_transaction_that_fails_is_not_kept(place: Place):
    def work(tx: Transaction) -> None:
        place.outbox.publish(tx, "p", "job_1", task("t1", 900, 960))
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        place.store.write(work)
    assert place.store.read(lambda view: view.entries(LEDGER)) == []
    assert place.store.read(lambda view: view.select(TALLIES)) == []


def test_cost_of_a_running_task_grows_and_is_not_counted_again_when_it_ends(place: Place):
    place.start("job_1")
    place.clock.advance(10)
    first = place.report().total
    place.clock.advance(10)
    second = place.report().total
    still = place.jobs["job_1"]
    place.end("job_1")
    place.jobs["job_1"] = still  # the two rooms are asked about one snapshot, but suppose not
    third = place.report().total
    assert [row.duration_s for row in (first, second, third)] == [10, 20, 20]
    assert (second.num_running, third.num_running, third.num_tasks) == (1, 0, 1)


def test_cost_of_another_project_is_not_shown(place: Place):
    place.publish(task("t1", 900, 960), project="q")
    assert place.report().total.num_tasks == 0


def test_cost_by_project_shows_all_that_a_token_opens_and_no_more(place: Place):
    place.store.write(lambda tx: [tx.insert(PROJECTS, Project(id=name, project=name, created_at=0)) for name in "pq"])
    place.publish(task("t1", 900, 960))
    place.publish(task("t2", 900, 990), project="q")
    assert {row.name: row.duration_s for row in place.report(CostBy.PROJECT).rows} == {"q": 90, "p": 60}
    member = msgspec.structs.replace(ANN, scope="p")
    assert [row.name for row in place.report(CostBy.PROJECT, who=member).rows] == ["p"]
    assert place.report(CostBy.JOB).total.duration_s == 60


def test_cost_since_the_far_future_is_nothing(place: Place):
    place.publish(task("t1", 900, 960))
    assert place.report(since=1e12).total.num_tasks == 0


def test_cost_of_other_events_is_nothing(place: Place):
    place.publish(Moved(before="queued", after="running"))
    assert place.report().rows == ()


def test_cost_of_more_tasks_than_one_chunk_adds_them_all(place: Place):
    def work(tx: Transaction) -> None:
        for number in range(2_001):
            event = Event(at=0, project="p", subject="job_1", body=task(f"t{number}", 0, 1))
            place.cost.on_task_ended(tx, event)

    place.store.write(work)
    assert place.report().total.num_tasks == 2_001
    assert place.report(since=0.5).total.duration_s == 2_001 / 2  # the day that is cut is read from the ledger


@settings(max_examples=60, deadline=None)
@given(st.lists(LIVES, max_size=12), st.sampled_from(CostBy), st.floats(0, 500_000))
def test_report_from_sums_is_what_the_whole_ledger_says(
    lives: list[tuple[float, float, dict[str, str]]], by: CostBy, since: float
):
    place = Place(now=500_000.0)
    for number, (start, end, labels) in enumerate(lives):
        place.publish(task(f"t{number}", start, end, f"job_{number % 3}", **labels))
    expected: dict[str, Usage] = defaultdict(Usage)
    for _, entry in place.store.read(lambda view: view.entries(LEDGER)):
        name = rules.name_of(by, entry)
        expected["" if rules.run_of(name) else name] += rules.usage_of(entry, since if since else -1, 1e9)
    made = place.report(by, since)
    assert {row.name: (row.cost, row.num_tasks) for row in made.rows} == {
        name: (usage.cost, usage.num_tasks) for name, usage in expected.items() if usage != Usage()
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LIVES, st.booleans()), max_size=12))
def test_sums_are_those_of_the_ledger_whatever_was_rolled_back(
    history: list[tuple[tuple[float, float, dict[str, str]], bool]],
):
    place = Place()
    for number, ((start, end, labels), crashes) in enumerate(history):
        event = Event(at=0, project="p", subject="job_1", body=task(f"t{number % 9}", start, end, **labels))

        def work(tx: Transaction, event: Event = event, crashes: bool = crashes) -> None:
            place.cost.on_task_ended(tx, event)
            if crashes:
                raise InterruptedError

        try:
            place.store.write(work)
        except InterruptedError:
            continue
    kept = sums(place)
    place.store.write(tallies.rebuild)
    assert sums(place) == kept
    total = sum((rules.usage_of(entry) for _, entry in place.store.read(lambda view: view.entries(LEDGER))), Usage())
    assert place.store.read(lambda view: tallies.ever(view, "p", CostBy.PROJECT, "p")) == total


def sums(place: Place) -> dict[str, tuple[Usage, int, int]]:
    found: list[Tally] = place.store.read(lambda view: view.select(TALLIES))
    return {tally.id: (tally.usage, tally.first_entry, tally.last_entry) for tally in found}


def test_sums_of_an_older_ledger_are_made_once_at_the_start(place: Place):
    place.publish(task("t1", 900, 960))
    kept = sums(place)
    place.store.write(lambda tx: [tx.delete(TALLIES, key) for key in kept])
    assert place.report().total.cost.nano_usd == 0
    place.cost.install()
    assert sums(place) == kept


def test_cost_of_a_model_is_its_training_and_its_serving(place: Place):
    place.publish(task("t1", 0, 10, run="run_1"))  # a script that said only later what it made
    place.publish(task("t2", 0, 20, run="run_2", model="digits"))
    place.publish(task("t3", 0, 30, endpoint="ep_1", model="digits"))
    place.publish(task("t4", 0, 40, run="run_3"))

    def models(view: Snapshot, project: str, runs: Iterable[str]) -> dict[str, str]:
        assert (project, set(runs)) == ("p", {"run_1", "run_3"})
        return {"run_1": "digits"}

    place.cost.models_of_runs = models
    assert {row.name: row.duration_s for row in place.report(CostBy.MODEL).rows} == {"digits": 60, "": 40}


def test_costs_by_job_say_what_each_is_called(place: Place):
    place.publish(task("t1", 0, 60, "job_1"))
    place.publish(task("t2", 0, 30, "job_2"))
    place.cost.titles = {CostBy.JOB: lambda view, jobs: {"job_1": "train.py"} if "job_1" in jobs else {}}
    assert [(row.name, row.title) for row in place.report().rows] == [("job_1", "train.py"), ("job_2", "")]
    assert [row.title for row in place.report(CostBy.POOL).rows] == [""]


def set_prices(place: Place, cpu: float, pool: str = "local", valid_from: float | None = None) -> None:
    ask = SetPrices(pool=pool, cpu_usd_per_hour=cpu, valid_from=valid_from)
    place.store.write(lambda tx: place.prices.set(tx, ask, ANN))


def test_price_of_a_pool_counts_from_when_it_was_set_and_never_before(place: Place):
    place.publish(task("t1", 900, 960))
    place.start("job_2")
    place.clock.advance(10)
    set_prices(place, 36.0)
    place.clock.advance(10)
    assert place.report().total.cost.nano_usd == 60_000_000 + 10_000_000 + 100_000_000
    place.end("job_2")
    assert place.report().total.cost.nano_usd == 170_000_000
    assert place.report().total.num_tasks == 2
    assert {row.name: row.num_tasks for row in place.report(CostBy.POOL).rows} == {"local": 2}


def test_price_of_the_past_is_refused(place: Place):
    with pytest.raises(PriceUnclear, match="in the past"):
        set_prices(place, 1.0, valid_from=5.0)


def test_price_that_is_not_named_stays_as_it_is(place: Place):
    place.prices.install(PriceBook(cpu_usd_per_hour=1.0, gpu_usd_per_hour=2.0, memory_gib_usd_per_hour=3.0))
    set_prices(place, 36.0)
    made = place.prices.list(ListPrices(), ANN).items[-1]
    assert (made.pool, made.tenure) == ("local", Tenure.OWNED)
    assert made.prices == PriceBook(cpu_usd_per_hour=36.0, gpu_usd_per_hour=2.0, memory_gib_usd_per_hour=3.0)
    free = SetPrices(pool="local", gpu_usd_per_hour=0.0, tenure=Tenure.SPOT, valid_from=place.clock.now() + 50)
    assert place.store.write(lambda tx: place.prices.set(tx, free, ANN)).prices.gpu_usd_per_hour == 0.0
    later = SetPrices(pool="local", cpu_usd_per_hour=4.0, valid_from=place.clock.now() + 60)
    after = place.store.write(lambda tx: place.prices.set(tx, later, ANN))
    assert (after.tenure, after.prices.gpu_usd_per_hour) == (Tenure.SPOT, 0.0)


def test_price_of_a_pool_that_is_not_there_is_refused_naming_those_that_are(place: Place):
    with pytest.raises(PricedPoolMissing, match="'nowhere'") as refused:
        set_prices(place, 1.0, pool="nowhere")
    assert "default, local, spot" in (refused.value.next_action or "")
    set_prices(place, 1.0, pool=ANY_POOL)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_price_that_is_no_amount_is_refused(wrong: float):
    with pytest.raises(PriceUnclear, match="no amount"):
        SetPrices(pool="local", gpu_usd_per_hour=wrong)


def test_prices_of_settings_change_only_when_they_do(place: Place):
    place.prices.install(PriceBook(cpu_usd_per_hour=3.6))
    assert len(place.prices.list(ListPrices(history=True), ANN).items) == 1
    place.prices.install(PriceBook(cpu_usd_per_hour=4.0))
    newest, first = place.prices.list(ListPrices(history=True), ANN).items
    assert (newest.valid_from, first.valid_from) == (1_000.0, 0.0)
    assert [item.pool for item in place.prices.list(ListPrices(), ANN).items] == [ANY_POOL]
    place.publish(task("t1", 0, 1_000))
    assert place.report().total.cost.nano_usd == 1_000_000_000


def test_outlook_has_every_day_and_adds_up_to_the_report():
    place = Place(now=rules.start_of("2026-03-10") + 3_600)
    place.publish(task("t1", rules.start_of("2026-03-07"), rules.start_of("2026-03-09") + 60))
    place.start("job_2")
    place.clock.advance(60)
    made = place.cost.outlook(GetOutlook(num_days=5), ANN)
    assert [day.day for day in made.days] == [f"2026-03-{number:02}" for number in (6, 7, 8, 9, 10)]
    assert [day.cost.nano_usd // 10**6 for day in made.days] == [0, 86_400, 86_400, 60, 60]
    assert made.forecast.num_days == 3
    assert made.forecast.spent == place.report().total.cost
    assert (
        place.cost.outlook(
            GetOutlook(), Caller(principal="bob", project="q", scope="q", rights=frozenset())
        ).forecast.spent.nano_usd
        == 0
    )
