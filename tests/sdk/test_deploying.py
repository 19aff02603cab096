"""What a deployment leaves out is what the endpoint has, or what a new one gets."""

from types import SimpleNamespace

import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.registry.model import GetModelVersion
from skyloom.rooms.serving.model import Deploy, EndpointMissing, GetEndpoint
from skyloom.sdk.serving import EndpointCalls

FILES = (SimpleNamespace(size_bytes=100 * 2**20),)
VERSION = SimpleNamespace(manifest=SimpleNamespace(files=FILES))
HAS = SimpleNamespace(number=2, resources=Resources(cpus=2.0, gpus=1, memory_bytes=4 * 2**30))


class Asked:
    """A cloud with one endpoint, or none."""

    def __init__(self, *revisions: SimpleNamespace) -> None:
        self.revisions = revisions
        self.deployed: Deploy | None = None

    def send(self, ask: object) -> object:
        if isinstance(ask, GetEndpoint):
            if not self.revisions:
                raise EndpointMissing("There is none.", next_action="Make it.")
            return SimpleNamespace(revisions=self.revisions)
        if isinstance(ask, GetModelVersion):
            return VERSION
        assert isinstance(ask, Deploy)
        self.deployed = ask
        return None


@pytest.mark.parametrize(
    ("revisions", "given", "resources"),
    [
        ((), {}, None),
        ((), {"cpus": 2.0}, Resources(cpus=2.0, memory_bytes=812 * 2**20)),
        ((), {"memory": "1GiB"}, Resources(cpus=0.5, memory_bytes=2**30)),
        ((HAS,), {"cpus": 1.0}, Resources(cpus=1.0, gpus=1, memory_bytes=4 * 2**30)),
        ((HAS,), {"memory": "1GiB"}, Resources(cpus=2.0, gpus=1, memory_bytes=2**30)),
    ],
)
def test_one_resource_alone_leaves_the_others_as_they_are(revisions, given, resources) -> None:
    cloud = Asked(*revisions)
    EndpointCalls(cloud).deploy("smol", **given)
    assert cloud.deployed is not None and cloud.deployed.resources == resources
