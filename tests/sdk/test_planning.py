import msgspec
import pytest

from skyloom.sdk.planning import _times_in
from tests.rooms.planning.trial_kit import trial


@pytest.mark.parametrize(
    "told", ["null", "[1]", "no JSON", '{"model": "m"}', '{"trial": 5}', '{"trial": {"total_steps": -1}}']
)
def test_result_in_which_no_trial_left_its_times_has_none(told: str):
    assert _times_in(told) is None


def test_times_that_a_trial_left_are_found_beside_what_the_program_left():
    times = trial().times
    assert _times_in(msgspec.json.encode({"model": "m", "trial": times}).decode()) == times
