"""When a keeper leaves its node: after a while without questions, and never under a task that lives."""

import threading

from skyloom.engines.ray.stay import Stay
from tests.contracts.engine_contract import until


def test_keeper_leaves_once_nobody_asks_and_nothing_runs() -> None:
    needed, left = [True], threading.Event()
    looked: list[bool] = []

    def is_needed() -> bool:
        looked.append(needed[0])
        return needed[0]

    stay = Stay(0.02, is_needed, left.set)
    until(lambda: len(looked) > 1, "two looks at its tasks")
    assert not left.is_set()
    needed[0] = False
    assert left.wait(10)
    stay.close()


def test_keeper_stays_while_a_question_is_open_and_when_it_cannot_leave() -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise ConnectionError("no head")

    stay = Stay(0.02, lambda: False, fail)
    with stay.question():
        before = len(tried)
        assert not threading.Event().wait(0.2) and len(tried) == before
    until(lambda: len(tried) > before + 1, "it to try again")
    with stay.question():
        stay.close()


def test_keeper_that_is_to_stay_starts_no_thread() -> None:
    before = threading.active_count()
    Stay(0.0, lambda: False, lambda: None)
    assert threading.active_count() == before
