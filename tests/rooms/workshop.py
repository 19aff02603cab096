"""The rooms of training over stores and an engine in memory."""

from skyloom.blobs.memory import MemoryBlobs
from skyloom.core import digests
from skyloom.core.errors import NotFound
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Change, Outbox
from skyloom.ports.store import Snapshot
from skyloom.rooms.jobs.plans import Plans
from skyloom.rooms.registry.bundle import (
    MODEL_FILE,
    PROFILE_FILE,
    BundleFile,
    Datatype,
    Manifest,
    ModelKind,
    Signature,
    TensorSpec,
)
from skyloom.rooms.registry.service import Registry
from skyloom.rooms.tracking.model import RunProgress
from skyloom.rooms.tracking.service import Tracking
from skyloom.rooms.training.model import FoundVersion, Train
from skyloom.rooms.training.service import Training
from skyloom.series.memory import MemorySeries
from skyloom.stores.memory import MemoryStore
from tests.rooms.job_rooms import job_rooms

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())
BOB = Caller(principal="bob", project="q", scope="q", rights=frozenset())


class Workshop:
    """Jobs, tracking, training and registry; one dataset "digits" with versions 1 and 2 in project p."""

    def __init__(self) -> None:
        self.store, self.clock, self.ids = MemoryStore(), MemoryClock(1_000.0), CountingIds()
        ids, self.outbox = self.ids, Outbox(self.clock)
        self.blobs, self.series = MemoryBlobs(), MemorySeries()
        self.engine = MemoryEngine(Resources(cpus=4, memory_bytes=8 * 2**30), now=self.clock.now)
        plans = self.plans = Plans(
            self.blobs, "/shared", lambda task_id: f"secret of {task_id}", lambda: "http://127.0.0.1:1"
        )
        self.jobs, self.loop = job_rooms(self.store, self.clock, ids, self.outbox, self.engine, self.blobs, plans)
        self.tracking = Tracking(self.store, self.series, self.jobs)
        self.training = Training(self.store, self.clock, ids, self.jobs, find_version, "1.2.3")
        self.registry = Registry(self.store, self.clock, ids, Outbox(self.clock), self.blobs)

    def train(self, ask: Train, by: Caller = ANN) -> RunProgress:
        """Ask as the door does: checks first, then the transaction."""
        handler = self.training.handlers()[Train]
        assert isinstance(handler, Change) and handler.before
        handler.before(ask, by)
        return self.store.write(lambda tx: handler.run(tx, ask, by))  # type: ignore[no-any-return]


def find_version(_view: Snapshot, project: str, dataset: str, reference: str) -> FoundVersion:
    numbers = {"newest": 2, "1": 1, "2": 2}
    if project != "p" or dataset not in ("digits", "raw") or reference not in numbers:
        raise NotFound(f"There is no dataset {dataset!r}.", next_action="List yours.")
    number = numbers[reference]
    columns = ("path", "image", "label", *(("split",) if dataset == "digits" else ()))
    return FoundVersion(dataset=dataset, number=number, table="p/set", columns=columns, identifiers=("path",))


def manifest(blobs: MemoryBlobs, weights: bytes = b"weights", **changes: object) -> Manifest:
    """A bundle whose files are uploaded."""
    files = []
    for path, content in ((MODEL_FILE, weights), (PROFILE_FILE, b"{}")):
        blobs.put([content])
        files.append(BundleFile(path=path, digest=digests.of_bytes(content), size_bytes=len(content)))
    image = TensorSpec(name="image", datatype=Datatype.UINT8, shape=(-1, 28, 28))
    scores = TensorSpec(name="probabilities", datatype=Datatype.FP32, shape=(-1, 2))
    fields: dict[str, object] = {
        "kind": ModelKind.CLASSIFICATION,
        "signature": Signature(inputs=(image,), outputs=(scores,)),
        "files": tuple(files),
        "labels": ("cat", "dog"),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]
