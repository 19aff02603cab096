"""Your own Python, from its file to an answering endpoint with packages of its own, on a real control plane."""

from pathlib import Path

import numpy as np
import pytest

from skyloom.rooms.serving.model import EndpointState
from skyloom.sdk.calling import CallFailed, CallRefused
from tests.control_plane import ControlPlane
from tests.engines.packages import offline, wheel

pytestmark = pytest.mark.slow

SOURCE = """
from collections.abc import Iterator
import numpy as np
from numpy.typing import NDArray
import skyloom

class Places(skyloom.Service):
    requirements = ["atlasaurus"]

    def setup(self) -> None:
        import atlasaurus, sys
        self.where = [atlasaurus.VERSION, sys.executable]

    @skyloom.endpoint
    def where_am_i(self) -> list[str]:
        return self.where

    @skyloom.endpoint
    def total(self, rows: NDArray[np.float64]) -> float:
        if rows.size > 3:
            raise RuntimeError("too many")
        return float(rows.sum())

    @skyloom.endpoint
    def spell(self, text: str) -> Iterator[str]:
        yield from text
"""


def test_service_is_deployed_with_its_packages_called_and_streamed(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "atlasaurus", "1.0")
    (tmp_path / "places.py").write_text(SOURCE)
    plane = ControlPlane(tmp_path / "home", forked=True, **offline(tmp_path / "links", tmp_path / "uv")).start()
    try:
        plane.ready()
        with plane.client() as cloud:
            status = cloud.services.deploy(f"{tmp_path / 'places.py'}:Places", "places")
            cloud.endpoints.wait("places", timeout_s=60)
            version, python = cloud.endpoints.call("places", "where_am_i")
            assert version == "1.0" and "/environments/" in python
            assert cloud.endpoints.call("places", "total", rows=np.array([1.0, 2.5])) == 3.5
            assert list(cloud.endpoints.stream("places", "spell", text="abc")) == ["a", "b", "c"]
            with pytest.raises(CallFailed, match="RuntimeError: too many"):
                cloud.endpoints.call("places", "total", rows=[1, 2, 3, 4])
            with pytest.raises(CallRefused, match="rows"):
                cloud.endpoints.call("places", "total")
            again = cloud.services.deploy(f"{tmp_path / 'places.py'}:Places", "places")
            assert again.endpoint.revision == status.endpoint.revision  # the same source is the same version
            cloud.endpoints.stop("places")
            while cloud.endpoints.get("places").state is not EndpointState.STOPPED:
                pass
    finally:
        plane.end_everything()
