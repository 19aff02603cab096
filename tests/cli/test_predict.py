"""What `skyloom predict` understands, and how progress looks on a terminal."""

import io

import pytest

from skyloom.cli import predict
from skyloom.cli.predict import PredictionUnclear, ProgressWriter
from skyloom.recipes.batch.progress import BatchProgress, is_line, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_order_reads_versions_columns_and_what_is_kept() -> None:
    asked = predict._order("rows@3", "toy:champion", "said", "test", ["a=b"], ["x,y", "z"])
    assert asked == {
        "dataset": "rows",
        "version": "3",
        "model_name": "toy",
        "model_version": "champion",
        "to": "said",
        "split": "test",
        "columns": {"a": "b"},
        "keep": ("x", "y", "z"),
    }
    assert "version" not in predict._order("rows", "toy", "said", "", [], [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("ep", "m", "to", "", ""), "'ep' is an endpoint"),
        (("", "", "to", "", ""), "needs --model"),
        (("", "", "", "", ""), "needs --model and --to"),
        (("", "m", "to", "nightly", ""), "--schedule and --cron"),
    ],
)
def test_half_of_an_order_is_refused(given: tuple[str, ...], words: str) -> None:
    with pytest.raises(PredictionUnclear, match=words):
        predict._check_batch(*given)


def test_options_of_a_batch_without_its_dataset_are_refused() -> None:
    with pytest.raises(PredictionUnclear, match="--to goes with --dataset"):
        predict._check_plain("ep", "[[1]]", {"--model": "", "--to": "said"})
    with pytest.raises(PredictionUnclear, match="no endpoint or no rows"):
        predict._check_plain("ep", "", {})


def test_progress_takes_the_place_of_the_last_line_on_a_terminal_only() -> None:
    half, whole = line(50, 100, 10.0), line(100, 100, 10.0)
    assert is_line(half) and not is_line("[1, 2] rows") and "0:05 left" in half and "50%" in half
    text = f"begin\n{half}\n{half}\n{whole}\ndone\n"
    screen, pipe = Terminal(), io.StringIO()
    for out in (screen, pipe):
        writer = ProgressWriter(out)
        for start in range(0, len(text), 7):  # output comes in any parts
            writer.write(text[start : start + 7])
    assert pipe.getvalue() == text
    assert screen.getvalue() == f"begin\n{half}\r\x1b[2K{half}\r\x1b[2K{whole}\ndone\n"


def test_progress_says_a_rate_of_this_attempt_once_a_second() -> None:
    now, said = [0.0], []
    progress = BatchProgress(100, 40, said.append, lambda: now[0])
    for _ in range(6):
        now[0] += 0.5
        progress.add(10)
    assert [text.split("%  ")[1].split("  ")[0] for text in said] == [
        "60 of 100 rows",
        "80 of 100 rows",
        "100 of 100 rows",
    ]
    assert "20 rows/s" in said[-1] and progress.new_rows == 60
