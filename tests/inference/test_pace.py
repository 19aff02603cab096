"""How many rows travel together, by machines whose batches cost what the test says."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.pace import Pace


class Machine:
    """A clock that only running batches moves on."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.now = 0.0
        self.cost = cost

    def rehearsal(self, rows: int) -> Callable[[], None]:
        def run() -> None:
            self.now += self.cost(rows)

        return run

    def measure(self, **options: float) -> Pace:
        return Pace.measure(self.rehearsal, clock=lambda: self.now, **options)


@pytest.mark.parametrize(
    ("cost", "limit"),
    [
        (lambda rows: 8e-6 + 1e-7 * rows, 256),  # small matrices: nearly all of it is the call
        (lambda rows: 1e-3 * rows, 1),  # nothing is saved
        (lambda rows: 1e-3 * rows * (1 if rows < 2 else 2.5), 1),  # batches leave the cache
        (lambda rows: 1e-3 * (1 + rows) if rows <= 8 else 3e-3 * rows, 8),  # cheaper up to eight
    ],
)
def test_batches_are_as_large_as_pays(cost: Callable[[int], float], limit: int) -> None:
    pace = Machine(cost).measure()
    assert pace.limit <= limit
    assert cost(pace.limit) / pace.limit <= cost(limit) / limit / 0.95
    assert pace.joins == (limit > 1)


def test_slow_model_is_measured_for_a_moment_only() -> None:
    machine = Machine(lambda rows: 0.4 + 0.01 * rows)
    pace = machine.measure(budget_s=0.3)
    assert machine.now < 2
    assert pace.limit == 2


def test_busy_machine_does_not_make_large_batches_look_cheap() -> None:
    """Batches cost the more by the row the larger they are; on the wall each waits for its core, for as long as luck wants."""
    machine = Machine(lambda rows: 1e-3 * rows * (1 + rows / 50))
    waits = random.Random(3)
    waited = 0.0

    def clock() -> float:
        nonlocal waited
        waited += waits.random() * 0.03
        return machine.now + waited

    pace = Pace.measure(machine.rehearsal, clock=clock, work=lambda: machine.now)
    assert pace.limit == 1
    for _ in range(2_000):
        rows = pace.take()
        pace.saw(rows, machine.cost(rows) + waits.expovariate(50), machine.cost(rows))
        assert pace.limit == 1
    assert pace.expect_s(1, 1) > 0.01  # what waits for it waits on the wall


def test_one_batch_that_cost_far_too_much_does_not_make_others_look_cheap() -> None:
    pace = Machine(lambda rows: 1e-3 * rows).measure()
    pace.saw(1, 10.0, 10.0)
    assert pace.limit == 1


def test_what_a_batch_costs_beside_the_model_is_shared_by_its_rows() -> None:
    pace = Machine(lambda rows: 1e-3 * rows).measure()
    for _ in range(100):
        pace.answered(1e-3)
        pace.saw(1, 1e-3, 1e-3)
    assert pace.limit > 1


def test_limit_follows_what_is_seen() -> None:
    pace = Machine(lambda rows: 1e-3 * (1 + rows)).measure(max_rows=64)
    first = pace.limit
    assert first > 8
    for _ in range(3_000):  # another load on the machine: whatever has more than four rows falls out of its caches
        rows = pace.take()
        pace.saw(rows, 1e-3 * (1 + rows) * (1 if rows <= 4 else rows))
    assert pace.limit <= 4
    for _ in range(3_000):
        rows = pace.take()
        pace.saw(rows, 1e-3 * (1 + rows))
    assert pace.limit > 8


@given(
    costs=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8),
    max_rows=st.integers(1, 256),
    seen=st.lists(st.tuples(st.integers(1, 512), st.floats(1e-9, 1e3)), max_size=50),
)
def test_limit_and_expectation_stay_within_bounds(
    costs: list[float], max_rows: int, seen: list[tuple[int, float]]
) -> None:
    pace = Pace({2**number: cost for number, cost in enumerate(costs)}, max_rows)
    for rows, duration_s in seen:
        assert 1 <= pace.take() <= max_rows
        assert 1 <= pace.limit <= max_rows
        assert 0 < pace.expect_s(1, rows) < float("inf")
        pace.saw(rows, duration_s)


def test_expectation_grows_with_rows_and_with_what_was_seen() -> None:
    pace = Pace({1: 0.010, 16: 0.025})
    assert pace.expect_s(1, 1) == pytest.approx(0.010)
    assert pace.expect_s(1, 16) == pytest.approx(0.025)
    for _ in range(200):
        pace.saw(3, 10 * pace.expect_s(1, 3) / (pace.expect_s(1, 1) / 0.010))
    assert pace.expect_s(1, 1) == pytest.approx(0.1, rel=0.05)
