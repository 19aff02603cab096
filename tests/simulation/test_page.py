"""The page on simulating shows what its command really answers."""

import re
from pathlib import Path

import pytest

from skyloom.cli import main
from skyloom.simulation.throughput import read_throughput

ROOT = Path(__file__).parents[2]


def test_example_of_the_page_is_what_the_command_answers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "simulation.md").read_text()
    command, answer = re.findall(r"```\w*\n(.*?)```", page, flags=re.DOTALL)[:2]
    monkeypatch.chdir(ROOT)
    assert main(command.split()[1:]) == 0
    assert capfd.readouterr().out == answer


def test_example_speeds_can_be_read() -> None:
    assert set(read_throughput(ROOT / "examples" / "simulation" / "speeds.csv")) == {"bert", "resnet"}
