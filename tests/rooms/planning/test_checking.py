import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.planning.checking import read_csv
from skyloom.rooms.planning.model import Measurement, MeasurementsUnusable

HEAD = "workers,data_fraction,seconds\n"


def test_csv_is_read_with_blanks_other_orders_and_a_byte_order_mark() -> None:
    expected = (Measurement(workers=2, data_fraction=0.5, seconds=30.0),)
    assert read_csv("\ufeff" + HEAD + "2, 0.5, 30\n\n") == expected
    assert read_csv("seconds , workers,data_fraction\r\n30,2.0,5e-1\r\n") == expected
    assert read_csv("workers,data_fraction,seconds,batch_size\n2,0.5,30,64")[0].batch_size == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "The file is empty"),
        ("\n", "The file is empty"),
        ("workers,data_fraction,seconds,gpus,rows\n", "Unknown columns: gpus, rows"),
        ("workers,seconds\n1,2\n", "Missing column: data_fraction"),
        ("workers,data_fraction,seconds,workers\n1,1,1,1\n", "twice"),
        (HEAD + "1,1\n", "Line 2 has 2 values, not 3"),
        (HEAD + "1,1,5\n2,1,NaN\n", "Line 3: seconds is nan"),
        (HEAD + "1,1,-5\n", "Line 2: seconds is -5"),
        (HEAD + "1,0,5\n", "Line 2: data_fraction is 0"),
        (HEAD + "0,1,5\n", "Line 2: workers is 0"),
        (HEAD + "1.5,1,5\n", "Line 2: workers is 1.5, not whole"),
        (HEAD + "1,1,fast\n", "Line 2: seconds is 'fast', no number"),
        (HEAD + "1,1,1e400\n", "Line 2: seconds is inf"),
        (HEAD + "1e9,1,1\n", "Line 2 cannot be meant"),
        (HEAD + '"1,1,1\n', "Line 2"),
    ],
)
def test_csv_that_cannot_be_read_names_the_line(text: str, words: str) -> None:
    with pytest.raises(MeasurementsUnusable, match=words.replace(".", r"\.")):
        read_csv(text)


@given(st.text(max_size=60))
def test_csv_of_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert all(one.seconds > 0 for one in read_csv(HEAD + text))
    except MeasurementsUnusable as error:
        assert error.next_action
