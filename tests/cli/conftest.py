from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from skyloom.cli import main
from tests.control_plane import ControlPlane


@dataclass(frozen=True)
class Said:
    """What a command line answered."""

    code: int
    out: str
    err: str


Terminal = Callable[..., Said]


@pytest.fixture
def terminal(
    cloud_process: ControlPlane, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Terminal:
    """Runs command lines in this process against the shared cloud."""
    monkeypatch.setenv("SKYLOOM_HOME", str(cloud_process.home))

    def run(*words: str) -> Said:
        capfd.readouterr()
        return Said(run_main(words), *capfd.readouterr())

    return run


def run_main(words: Sequence[str]) -> int:
    return main(list(words))
