import pytest

from skyloom.rooms.planning import trials
from skyloom.rooms.planning.model import MeasurementsUnusable
from tests.rooms.planning.trial_kit import trial


def test_trial_becomes_the_time_of_the_whole_training() -> None:
    found = trials.measurements([trial()])
    # start 2 + 1,000 steps of 0.1 + 4 checkpoints of 0.5 + finish 3
    assert [one.seconds for one in found] == pytest.approx([107, 107, 107])
    assert {(one.workers, one.data_fraction, one.batch_size) for one in found} == {(1, 1.0, None)}


def test_trial_with_a_disturbed_part_is_read_by_its_middle() -> None:
    disturbed = trial(step_s=[0.1] * 14 + [5.0] * 4)
    assert trials.breakdowns([disturbed])[0].step_s == pytest.approx(0.1)
    times = sorted(one.seconds for one in trials.measurements([disturbed]))
    assert times[0] == times[1] == pytest.approx(107)
    assert times[2] > 1_000, "the spread is not hidden"


def test_trial_whose_every_tenth_step_is_longer_counts_that() -> None:
    steps = [1.0 if place % 10 == 9 else 0.1 for place in range(90)]
    assert trials.breakdowns([trial(step_s=steps)])[0].step_s == pytest.approx(0.19)


def test_start_that_was_slower_than_that_of_more_workers_was_an_accident() -> None:
    parts = trials.breakdowns([trial(1, startup_s=9), trial(2, startup_s=2, finish_s=1), trial(4, startup_s=3)])
    assert [part.startup_s for part in parts] == [2, 2, 3]
    assert [part.finish_s for part in parts] == [1, 1, 3]


def test_script_that_only_reports_has_no_start_up_of_its_steps() -> None:
    assert trials.breakdowns([trial(startup_s=3, first_step=10)])[0].startup_s == pytest.approx(2)


def test_trials_that_say_too_little_are_refused() -> None:
    with pytest.raises(MeasurementsUnusable, match="how many steps it has in all"):
        trials.check([trial(steps=0)])
    with pytest.raises(MeasurementsUnusable, match="timed 2 steps; it needs 3"):
        trials.check([trial(step_s=[0.1, 0.1])])
    with pytest.raises(MeasurementsUnusable, match="timed"):
        trials.check([trial(step_s=[0.0] * 10)])
    trials.check([trial()])


def test_batch_sizes_are_told_only_where_they_change() -> None:
    some = [trial(batch_size=32), trial(batch_size=64)]
    assert [one.batch_size for one in trials.measurements(some, by_batch=True)][::3] == [32, 64]
    assert {one.batch_size for one in trials.measurements(some)} == {None}
