"""Whom to let go: never more than is needed, never who is busy, and never beyond a bound."""

from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.packing.room import Resident, victims

residents = st.lists(
    st.builds(Resident, st.just(""), st.integers(1, 50), st.integers(0, 100), st.booleans()), max_size=12
).map(lambda found: [one._replace(name=f"m{place}") for place, one in enumerate(found)])


@given(residents, st.integers(0, 80), st.integers(0, 200), st.integers(1, 12))
def test_room_is_made_of_the_least_recently_used_that_are_idle_and_of_no_more(there, needed, memory, count):
    leaving = victims(there, needed, memory, count)
    idle = sorted((one for one in there if not one.is_busy), key=lambda one: one.used)

    def fits(left: list[Resident]) -> bool:
        held = sum(one.memory_bytes for one in left)
        return len(left) < count and (not memory or held + needed <= memory)

    if leaving is None:
        assert not fits([one for one in there if one.is_busy])
        return
    assert leaving == [one.name for one in idle[: len(leaving)]]
    assert fits([one for one in there if one.name not in leaving])
    assert not leaving or not fits([one for one in there if one.name not in leaving[:-1]])
