"""What serving needs stored, and what it needs of the machine that its replicas run on."""

from collections.abc import Collection as Several
from collections.abc import Iterable, Mapping
from typing import Protocol

from skyloom.core.bounds import Digest
from skyloom.ports.store import Collection, Snapshot
from skyloom.rooms.serving.change import GatewayRun
from skyloom.rooms.serving.load import LoadMemory
from skyloom.rooms.serving.model import Endpoint, Replica, Revision
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.routes import RoutingTable
from skyloom.rooms.serving.samples import SamplingRule
from skyloom.rooms.serving.split import Canary, SplitTally

ENDPOINTS = Collection("endpoints", Endpoint, indexes=("name", "stopped_by"), unique=("name",))
REVISIONS = Collection("revisions", Revision, indexes=("endpoint_id", "number", "model_version"))
REPLICAS = Collection(
    "replicas",
    Replica,
    indexes=("endpoint_id", "ended_at", "failed"),
    ordered=(("endpoint_id", "failed"), ("endpoint_id", "ended_at")),
)
CANARIES = Collection("canaries", Canary, indexes=("endpoint_id", "state"))
TALLIES = Collection("split_tallies", SplitTally)
GATEWAYS = Collection("gateways", GatewayRun, indexes=("ended_at",))

COLLECTIONS = (ENDPOINTS, REVISIONS, REPLICAS, CANARIES, TALLIES, GATEWAYS)


def titles(view: Snapshot, endpoints: Iterable[str]) -> dict[str, str]:
    """Endpoint id → its name, for those that are known."""
    found = (view.get(ENDPOINTS, one) for one in endpoints if one.startswith("ep_"))
    return {one.id: one.name for one in found if one is not None}


class ReplicaFiles(Protocol):
    """The files that the control plane and the replicas of this machine share. Thread-safe.

    Attributes:
        log_folder: request logs, in segments, by replica.
        port_folder: lock files of the ports.
        python: interpreter that data planes run with.
        reads_gpu: replicas can say how busy their GPUs are.
    """

    python: str
    reads_gpu: bool
    log_folder: str
    port_folder: str

    def access_path(self, project: str) -> str:
        """Where the list of a project's accepted tokens is."""
        ...

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        """Replace that list, whole or not at all; does nothing when it is the same already. Raises `StorageFull`."""
        ...

    def urgent_path(self, endpoint: str) -> str:
        """Where the list of tokens is that may go first at an endpoint."""
        ...

    def publish_urgent(self, endpoint: str, digests: tuple[str, ...]) -> None:
        """Replace that list, whole or not at all; does nothing when it is the same already. Raises `StorageFull`."""
        ...

    def routes_path(self, project: str) -> str:
        """Where the table of a project's gateway is."""
        ...

    def publish_routes(self, project: str, table: RoutingTable) -> None:
        """Replace that table, whole or not at all; does nothing when it is the same already. Raises `StorageFull`."""
        ...

    def read_routes(self, project: str) -> RoutingTable:
        """The table as it was last published; empty when none was, or when it cannot be read."""
        ...

    def pack_path(self, endpoint: str) -> str:
        """Where the table of an endpoint's pack is."""
        ...

    def publish_pack(self, endpoint: str, table: PackTable) -> None:
        """Replace that table, whole or not at all; does nothing when it is the same already. Raises `StorageFull`."""
        ...

    def lay_out(self, manifest: Digest, files: Mapping[str, Digest]) -> str:
        """Put the files of a bundle into a folder that replicas can read, whole or not at all; returns it. Does nothing where it lies
        already. Whoever loads them compares its bytes with their digests. Raises `BlobMissing`, `StorageFull`."""
        ...

    def read_log(self, replica: str, offset: int) -> bytes | None:
        """Some bytes of a replica's request log from an offset on, at least one whole line if there is one; empty behind its end. None
        when the segment of that offset is not there: it was removed, or the replica has written none."""
        ...

    def trim_logs(self, live: Several[str]) -> int:
        """Remove segments of request logs that are kept for long enough, and the oldest of too many bytes, but of the replicas in ``live``
        never the newest, which grows. Returns how many."""
        ...

    def keep_load(self, endpoint: str, memory: LoadMemory) -> None:
        """Keep what was seen of an endpoint's load, in place of what was kept before. Raises `StorageFull`."""
        ...

    def read_load(self, endpoint: str) -> LoadMemory | None:
        """What was kept of an endpoint's load; None when nothing was, or when it cannot be read."""
        ...

    def sampling_path(self, endpoint: str) -> str:
        """Where the rule of an endpoint's sampling is."""
        ...

    def publish_sampling(self, endpoint: str, rule: SamplingRule | None) -> None:
        """Replace that rule, whole or not at all, or remove it; does nothing when it is the same already. Raises `StorageFull`."""
        ...

    def samples_folder(self, endpoint: str) -> str:
        """Where the replicas of an endpoint keep what they sample."""
        ...

    def samples(self, endpoint: str) -> dict[str, tuple[int, int]]:
        """Replica → where its samples begin that are there, and where their last whole line ends."""
        ...

    def remove_samples(self, endpoint: str, taken: Mapping[str, int], live: Several[str]) -> None:
        """Remove the segments that were taken whole, up to the byte given by replica; never the newest of a replica in ``live``."""
        ...

    def free_port(self) -> int:
        """A port on loopback that nobody listens on now. Somebody may be quicker: who binds it must still check."""
        ...
