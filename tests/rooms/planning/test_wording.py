import pytest

from skyloom.rooms.planning.wording import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "0.0123 s"), (90, "90 s"), (218, "3.633 min"), (7_200, "2 h"), (36_000, "10 h"), (1e9, "11,574 d")],
)
def test_duration_in_a_sentence_has_four_digits_and_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
