import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.cli.wording import duration, human, label, moment, safe, safe_output
from skyloom.core.money import Money
from skyloom.core.resources import Resources


@given(st.text(st.characters(), max_size=200))
def test_safe_text_has_nothing_a_terminal_would_obey(text: str):
    shown = safe(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Zl", "Zp", "Cs"}
    assert len(shown.splitlines()) <= 1
    assert safe(shown) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain name", "plain name"),
        ("Zürich 東京 🚀", "Zürich 東京 🚀"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nERROR b", r"a\nERROR b"),
        ("exe.\u202etxt", r"exe.\u202etxt"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u200bb\u2028c", r"a\u200bb\u2028c"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("\x7f\r\t", r"\x7f\r\t"),
    ],
)
def test_safe_text_escapes_what_is_risky_and_keeps_the_rest(text: str, expected: str):
    assert safe(text) == expected


def test_safe_output_keeps_lines_and_never_overwrites_one():
    assert safe_output("one\r\ntwo\tx\rthree\x1b[A\n") == "one\ntwo\tx\nthree\\x1b[A\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.00085, "850 µs"),
        (0.0125, "12.5 ms"),
        (3.2, "3.2 s"),
        (59.99, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7_380, "2 h 03 min"),
        (3 * 86_400 + 3_600, "3 d 01 h"),
        (-5, "-5 s"),
    ],
)
def test_duration_has_the_unit_that_suits_it(seconds: float, expected: str):
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size_bytes", 1_610_612_736, "1.5 GiB"),
        ("timeout_s", 90.0, "1 min 30 s"),
        ("requests_per_s", 1234.5, "1,234/s"),
        ("started_at", 1_700_000_000.0, "2023-11-14 22:13:20Z"),
        ("error_rate", 0.0213, "2.13%"),
        ("error_rate", 0.0, "0%"),
        ("error_rate", 0.5, "50%"),
        ("rows", 1_234_567, "1,234,567"),
        ("psi", 0.123456, "0.1235"),
        ("psi", float("nan"), "nan"),
        ("drifted", True, "yes"),
        ("message", "", "–"),
        ("ended_at", None, "–"),
        ("cost", Money(1_500_000_000), "$1.50"),
        ("labels", {"a\n": "b"}, r"a\n=b"),
        ("features", ("x", "y"), "x, y"),
        ("resources", Resources(cpus=2, gpus=1, memory_bytes=2**30), "2 CPUs, 1 GPUs, 1 GiB"),
        ("started_at", 1e300, "1e+300"),
    ],
)
def test_human_form_follows_the_unit_in_the_name(name: str, value: object, expected: str):
    assert human(name, value) == expected


def test_label_drops_the_unit_and_moment_is_utc():
    assert [label(name) for name in ("size_bytes", "started_at", "num_tasks")] == ["size", "started", "num tasks"]
    assert moment(0) == "1970-01-01 00:00:00Z"
