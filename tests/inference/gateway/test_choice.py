"""Which revision takes a request: rules, then the sticky header, then chance."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.gateway.choice import RouteSplit, rendezvous
from skyloom.rooms.serving.routes import HeaderRule
from tests.inference.gateway.gateways import make_route, share

NAMES = ("rev_a", "rev_b", "rev_c", "rev_d")
weights = st.lists(st.floats(min_value=0.01, max_value=100), min_size=2, max_size=4)
values = st.binary(min_size=1, max_size=40)


def weighted(parts) -> list[tuple[str, float]]:
    return list(zip(NAMES, parts, strict=False))


def split_of(parts, **changes) -> RouteSplit:
    return RouteSplit(make_route(*(share(name, weight=part) for name, part in weighted(parts)), **changes))


@given(
    weights,
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_header_rule_that_fits_wins_over_weights_and_the_first_one_holds(parts, draw, other):
    rules = (
        HeaderRule(header="x-lane", value="gone", revision="rev_missing"),
        HeaderRule(header="x-lane", value="canary", revision="rev_b"),
        HeaderRule(header="x-lane", value="canary", revision="rev_a"),
    )
    split = split_of([*parts[:1], 0.0, *parts[2:]], rules=rules, sticky_header="x-user")
    assert split.choose({b"x-lane": b"canary", b"x-user": b"me"}, draw) == "rev_b"
    for headers in ({b"x-lane": b"gone"}, {b"x-lane": b"Canary"}, {}):
        assert split.choose(headers, other) != "rev_b", "weight 0 takes only what a rule sends"


@given(weights, values, st.floats(min_value=0, max_value=1, exclude_max=True), st.floats(0, 0.999))
def test_sticky_value_stays_whatever_chance_says(parts, value, draw, other):
    split = split_of(parts, sticky_header="x-user")
    assert split.choose({b"x-user": value}, draw) == split.choose({b"x-user": value}, other)


@given(weights, st.integers(0, 3), st.floats(min_value=0.01, max_value=100), st.lists(values, min_size=1, max_size=50))
def test_sticky_values_move_only_to_what_grew_or_from_what_shrank(parts, place, weight, users):
    place %= len(parts)
    before, changed = weighted(parts), weighted([*parts[:place], weight, *parts[place + 1 :]])
    for user in users:
        old, new = rendezvous(user, before), rendezvous(user, changed)
        if old != new:
            assert (new if weight > parts[place] else old) == NAMES[place]


def test_sticky_and_random_shares_are_the_weights():
    count, chance = 20_000, random.Random(7)
    sticky, free = split_of([0.7, 0.2, 0.1], sticky_header="x-user"), split_of([7, 2, 1])
    picked = {
        "sticky": [sticky.choose({b"x-user": b"user-%d" % n}, 0.0) for n in range(count)],
        "random": [free.choose({}, chance.random()) for _ in range(count)],
    }
    for names in picked.values():
        for name, part in weighted([0.7, 0.2, 0.1]):
            assert abs(names.count(name) - count * part) < 4 * math.sqrt(count * part * (1 - part))


def test_nobody_is_chosen_where_nobody_takes_any():
    assert RouteSplit(make_route()).choose({}, 0.5) == ""
    assert split_of([0.0, 0.0]).choose({b"x": b"y"}, 0.5) == ""
