"""Texts that end at certain words, however they are cut into pieces."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.inference.services.stopping import PieceReader, StopWords

texts = st.text("abc", max_size=30)


@settings(max_examples=40)
@given(texts, st.lists(texts, max_size=3), st.lists(st.integers(0, 30), max_size=5))
def test_text_ends_before_its_first_stop_word_however_it_is_cut(text, stops, cuts) -> None:
    words = StopWords(stops)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    given_away = ""
    for start, end in itertools.pairwise(places):
        given_away += words.feed(text[start:end])
        assert text.startswith(given_away)
    given_away += words.rest()
    assert not any(stop in given_away for stop in stops if stop)
    assert words.is_stopped == any(stop in text for stop in stops if stop)
    rest = text.removeprefix(given_away)
    assert any(rest.startswith(stop) for stop in stops if stop) if words.is_stopped else not rest


@settings(max_examples=40)
@given(st.text(max_size=20), st.integers(1, 4))
def test_half_characters_wait_for_their_other_half(text, size) -> None:
    raw, reader = text.encode("utf-8", "replace"), PieceReader()
    made = "".join(reader.feed(raw[place : place + size]) for place in range(0, len(raw), size)) + reader.rest()
    assert made == raw.decode()
