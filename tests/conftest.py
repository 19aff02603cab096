from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane import ControlPlane


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A started control plane in an empty folder; everything it runs is ended afterwards. For tests that kill, count or list."""
    plane = ControlPlane(tmp_path / "home").start().ready()
    yield plane
    plane.end_everything()


@pytest.fixture(scope="session")
def cloud_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for all tests that only add to it and look at what they added."""
    plane = ControlPlane(tmp_path_factory.mktemp("cloud") / "home").start().ready()
    yield plane
    plane.end_everything()
