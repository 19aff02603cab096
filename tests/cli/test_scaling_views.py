"""Why an endpoint has as many replicas as it has, as people read it."""

from types import SimpleNamespace

from skyloom.cli.scaling_views import say_bounds, say_load, say_next
from skyloom.cli.wording import NOTHING
from skyloom.rooms.serving.scaling import Autoscaling, ScaleNote, ScaleReason, ScaleSignal


def status(scaling: Autoscaling | None, **facts) -> SimpleNamespace:
    note = ScaleNote(at=100.0, wanted=3, reason=ScaleReason.STEADY, why="", **facts) if facts else None
    return SimpleNamespace(endpoint=SimpleNamespace(scaling=scaling), scale=note)


def test_load_is_said_with_both_windows_the_target_and_what_it_needs():
    seen = status(Autoscaling(), seen=2.345, burst=20.0, needed=1)
    assert say_load(seen) == ("2.35 requests at once over 1 min 00 s, 20 over the last 6 s; target 8 each, so 1 needed")
    slow = status(Autoscaling(signal=ScaleSignal.LATENCY, target=0.5), seen=0.1, burst=0.2)
    assert say_load(slow) == "0.1 s to the answer over 1 min 00 s, 0.2 over the last 6 s; target 0.5"
    assert say_load(status(Autoscaling(), floor=1)) == "nothing was seen yet"
    assert say_load(status(None)) == NOTHING


def test_least_is_said_with_its_reason_where_it_is_more_than_was_asked_for():
    raised = status(Autoscaling(max_replicas=9), floor=5, floor_why="At this time, 3 earlier days saw up to 40.")
    assert say_bounds(raised) == "5 (At this time, 3 earlier days saw up to 40) to 9"
    assert say_bounds(status(Autoscaling(), floor=1, floor_why="x")) == "1 to 4"


def test_what_time_will_change_is_said():
    waiting = status(Autoscaling(), panic_until=112.0, delay_until=130.0, sleeps_at=160.0)
    assert say_next(waiting) == (
        "after the burst, none is taken away for 12 s; another number in 30 s, if it is still right; "
        "asleep in 1 min 00 s, if nobody asks"
    )
    assert say_next(status(Autoscaling(), floor=1)) == NOTHING


def test_sleep_that_is_due_and_held_back_is_not_promised():
    assert say_next(status(Autoscaling(), sleeps_at=100.0)) == NOTHING
