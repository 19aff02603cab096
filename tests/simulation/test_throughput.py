"""Measured speeds: between measurements a straight line, and what cannot be is refused."""

from pathlib import Path

import pytest

from skyloom.simulation.throughput import read_throughput
from skyloom.simulation.trace import TraceUnreadable


def written(folder: Path, rows: str, head: str = "model,num_gpus,samples_per_s") -> Path:
    path = folder / "speeds.csv"
    path.write_text(f"{head}\n{rows}")
    return path


def test_speeds_between_measurements_lie_on_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "bert,4,100\nbert,1,40\nresnet,2,10\n")
    assert read_throughput(path) == {"bert": (40.0, 60.0, 80.0, 100.0), "resnet": (5.0, 10.0)}


@pytest.mark.parametrize(
    ("rows", "where", "why"),
    [
        ("bert,1,0", "samples_per_s", "more than 0"),
        ("bert,1,-4", "samples_per_s", "negative"),
        ("bert,1,nan", "samples_per_s", "finite"),
        ("bert,0,4", "num_gpus", "less than 1"),
        (",1,4", "model", "empty"),
        (f"{'x' * 300},1,4", "model", "longer"),
        ("bert,1,4\nbert,1,5", "num_gpus", "already"),
    ],
)
def test_speed_that_cannot_be_names_line_and_column(tmp_path: Path, rows: str, where: str, why: str) -> None:
    with pytest.raises(TraceUnreadable) as caught:
        read_throughput(written(tmp_path, rows))
    assert f"column {where}" in caught.value.message
    assert why in caught.value.message


def test_speeds_without_measurements_or_with_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceUnreadable, match="no measurements"):
        read_throughput(written(tmp_path, ""))
    with pytest.raises(TraceUnreadable, match="column speed unknown"):
        read_throughput(written(tmp_path, "bert,1,4", "model,num_gpus,speed"))


def test_speeds_of_more_models_than_one_file_may_have_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"model-{number},1,4\n" for number in range(1_001))
    with pytest.raises(TraceUnreadable, match=r"line 1002, column model: a file has at most 1,000 models"):
        read_throughput(written(tmp_path, rows))
