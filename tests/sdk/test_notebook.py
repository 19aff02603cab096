"""What a notebook's job is told."""

from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.sdk import notebook


@pytest.mark.parametrize(("idle_s", "told"), [(0, "1"), (0.4, "1"), (90.5, "91"), (3_600, "3600")])
def test_notebook_ends_after_its_idle_time_and_none_means_at_once_not_never(idle_s: float, told: str) -> None:
    cloud: Any = SimpleNamespace(jobs=SimpleNamespace(submit=lambda spec: spec))
    spec: Any = notebook.start(cloud, idle_s=idle_s)
    assert spec.entry.args == ("--idle-s", told)
