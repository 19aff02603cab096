"""What pools need stored, made and told."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from skyloom.core.resources import NOTHING, Resources
from skyloom.ports.engine import Engine
from skyloom.ports.store import Collection, Snapshot
from skyloom.rooms.pools.model import Pool

POOLS = Collection("pools", Pool)

COLLECTIONS = (POOLS,)


class Engines(Protocol):
    """Makes the engine of a pool; the composition root knows the classes."""

    def __call__(self, pool: Pool, token: str) -> Engine:
        """Reach the pool. Blocks for some seconds at most. Raises `Unavailable` when nobody answers there, `Denied` when it wants
        another token, `InvalidInput` when this installation has no engine for such an address."""
        ...


class PoolTokens(Protocol):
    """Keeps the tokens of pools where only the control plane's user may read them. Thread-safe."""

    def keep(self, pool: str, token: str) -> None:
        """Store a token; on disk when this returns. Replaces an earlier one. An empty one is not stored. Raises `StorageFull`."""
        ...

    def token(self, pool: str) -> str:
        """The token of a pool, or ""."""
        ...

    def drop(self, pool: str) -> None:
        """Forget a token. Idempotent."""
        ...


class Use(NamedTuple):
    """What tasks hold of one machine."""

    resources: Resources = NOTHING
    num_tasks: int = 0


class Occupancy(Protocol):
    """Tells what live tasks hold, by (pool, machine); the jobs room does, wired by the composition root."""

    def __call__(self, view: Snapshot) -> Mapping[tuple[str, str], Use]:
        """Reads ``view`` and nothing else."""
        ...
