"""Several pools under one control plane, with engines in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skyloom.core.errors import Unavailable
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.core.resources import Resources
from skyloom.engines.memory import MemoryEngine
from skyloom.ports.door import Change, Outbox
from skyloom.ports.engine import Command, GangPlan, Machine, Observation
from skyloom.rooms.cost.pricing import Prices
from skyloom.rooms.jobs.hands import Hands, OwnHands
from skyloom.rooms.jobs.model import JobSpec, JobStatus, SubmitJob
from skyloom.rooms.jobs.reading import occupancy
from skyloom.rooms.jobs.stranded import Stranded
from skyloom.rooms.jobs.writing import JobWriter
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import AddPool, Pool
from skyloom.rooms.pools.ports import pool_names, stored_in
from skyloom.rooms.pools.service import Pools
from skyloom.stores.pool_tokens import LocalPoolTokens
from tests.rooms.job_rooms import job_rooms
from tests.rooms.workshop import ANN, Workshop

OWNER = Caller(principal="owner", project="", scope="*", rights=frozenset())
TOKEN = "the-token-of-the-cluster"


class Cluster(MemoryEngine):
    """A pool of two machines that can be down."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Resources(cpus=16, gpus=4, memory_bytes=2**36), **options)
        self.down = False
        self.closed = False

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("Nobody answers.", next_action="Start it.")

    def machines(self) -> Sequence[Machine]:
        self._reach()
        half = Resources(cpus=8, gpus=2, memory_bytes=2**35)
        return (Machine(name="one", total=half), Machine(name="two", total=half, labels={"disk": "fast"}))

    def launch(self, gang: GangPlan) -> None:
        self._reach()
        super().launch(gang)

    def observe(self, task_ids: Sequence[str]) -> dict[str, Observation]:
        self._reach()
        return dict(super().observe(task_ids))

    def stop(self, task_ids: Sequence[str], *, force: bool = False) -> None:
        self._reach()
        super().stop(task_ids, force=force)

    def close(self) -> None:
        self.closed = True


class Land(Workshop):
    """A workshop whose jobs may also run on clusters, by address."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.clusters = {f"ray://{name}:10001": Cluster(now=self.clock.now) for name in "abc"}
        self.hands: Hands = OwnHands()
        self.eyes: Hands = OwnHands()
        self.start()

    def start(self) -> None:
        """A new control plane over what is stored."""
        self.tokens = LocalPoolTokens(self.folder)
        self.fleet = Fleet(self.engine, self.reach, self.tokens, stored_in(self.store))
        outbox = Outbox(self.clock)
        stranded = Stranded(self.clock, JobWriter(self.clock, outbox))
        self.pools = Pools(self.store, self.clock, self.fleet, self.tokens, occupancy, stranded)
        self.prices = Prices(self.store, self.clock, CountingIds())
        self.prices.pools = pool_names
        self.jobs, self.loop = job_rooms(
            self.store,
            self.clock,
            self.ids,
            outbox,
            self.engine,
            self.blobs,
            self.plans,
            self.fleet,
            hands=self.hands,
            eyes=self.eyes,
        )
        self.launches = self.loop._launches

    def reach(self, pool: Pool, token_file: Path, *, check: bool) -> Cluster:
        if pool.address not in self.clusters:
            raise Unavailable(f"Nobody answers at {pool.address}.", next_action="Check the address.")
        if token_file.read_text() != TOKEN:
            raise Unavailable(f"{pool.address} wants another token.", next_action="Give that.")
        return self.clusters[pool.address]

    def do(self, ask: Any, by: Caller = OWNER) -> Any:
        handler = self.pools.handlers()[type(ask)]
        if not isinstance(handler, Change):
            return handler.run(ask, by)
        if handler.before:
            handler.before(ask, by)
        return self.store.write(lambda tx: handler.run(tx, ask, by))

    def add(self, name: str, host: str = "a", **options: Any) -> Any:
        fields = {"address": f"ray://{host}:10001", "token": TOKEN, "shared_folder": "/nfs", **options}
        return self.do(AddPool(name=name, **fields))

    def submit(self, cpus: float = 1, gpus: int = 0, memory_bytes: int = 2**20, **options: Any) -> str:
        resources = Resources(cpus=cpus, gpus=gpus, memory_bytes=memory_bytes)
        ask = SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), resources=resources, **options))
        self.jobs.check(ask, ANN)
        return self.store.write(lambda tx: self.jobs.submit(tx, ask, ANN)).job.id

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            self.pools.tick()
            self.loop.tick()
            self.clock.advance(1)

    def of(self, job_id: str) -> JobStatus:
        return self.store.read(lambda view: self.jobs.status(view, job_id, "p"))

    def where(self, job_id: str) -> list[str]:
        return [f"{task.pool}/{task.machine}" for task in self.of(job_id).tasks]
