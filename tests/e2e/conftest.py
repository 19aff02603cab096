from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane import ControlPlane


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A started control plane in an empty folder; everything it runs is ended afterwards."""
    plane = ControlPlane(tmp_path / "home").start().ready()
    yield plane
    plane.end_everything()
