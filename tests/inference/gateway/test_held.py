"""Requests that wait: in their order, bounded, and gone when nobody waits for them."""

from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.gateway.held import HeldRequests
from skyloom.inference.gateway.passage import Passage
from skyloom.inference.wire.messages import Request
from tests.inference.gateway.stand_ins import POST


def passage(revision: str, number: int, size: int) -> Passage:
    request = Request(POST)
    request.arrived_at, request.body = float(number), b"x" * size
    made = Passage(request, None, 0.0, is_call=False)
    made.revision = revision
    return made


moves = st.lists(
    st.tuples(st.sampled_from(["add", "back", "next", "leave"]), st.sampled_from("abc"), st.integers(0, 60)),
    max_size=80,
)


@given(moves)
def test_whatever_comes_and_goes_each_line_keeps_its_order_and_the_bounds_hold(story):
    held, lines, number = HeldRequests(8, 100), {"a": [], "b": [], "c": []}, 0
    for what, revision, size in story:
        line = lines[revision]
        everybody = [each for every in lines.values() for each in every]
        assert set(held.revisions()) == {name for name, every in lines.items() if every}
        if what == "add":
            number += 1
            fits = len(everybody) < 8 and (not everybody or sum(each.size_bytes for each in everybody) + size <= 100)
            assert held.has_room(size) is fits
            if fits:
                line.append(passage(revision, number, size))
                held.add(line[-1])
        elif what == "back" and line:  # it was sent, and comes back
            first = line[0]
            assert held.first(revision) is first and held.remove(first) and not held.remove(first)
            held.add(first, first=True)
        elif what == "next" and line:
            assert held.first(revision) is line[0]
            assert held.remove(line.pop(0))
        elif what == "leave" and line:
            assert held.remove(line.pop(size % len(line)))
        left = [each for every in lines.values() for each in every]
        assert (len(held), held.num_bytes) == (len(left), sum(each.size_bytes for each in left))
        assert held.waits(revision) is bool(line) and held.first(revision) is (line[0] if line else None)
    left = [each for every in lines.values() for each in every]
    assert held.take_all() == sorted(left, key=lambda each: each.arrived_at)
    assert (len(held), held.num_bytes, held.revisions()) == (0, 0, [])
