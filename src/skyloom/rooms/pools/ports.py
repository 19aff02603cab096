"""What pools need stored, made and told."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from skyloom.core.resources import NOTHING, Resources
from skyloom.ports.engine import Engine
from skyloom.ports.store import Collection, Snapshot, Store, Transaction
from skyloom.rooms.pools.model import LOCAL, Pool, PoolHeard

POOLS = Collection("pools", Pool)
HEARD = Collection("pools_heard", PoolHeard)

COLLECTIONS = (POOLS, HEARD)


def pool_names(view: Snapshot) -> tuple[str, ...]:
    """The names of all pools, this machine's first."""
    return (LOCAL, *sorted(pool.id for pool in view.select(POOLS)))


def stored_in(store: Store) -> Callable[[str], Pool | None]:
    """Finds a pool by its name."""
    return lambda name: store.read(lambda view: view.get(POOLS, name))


class Engines(Protocol):
    """Makes the engine of a pool; the composition root knows the classes."""

    def __call__(self, pool: Pool, token_file: Path, *, check: bool) -> Engine:
        """Make the engine; with ``check`` reach every machine of the pool first, which blocks for some seconds.

        Raises `Unavailable` when nobody answers there, or not to this token, or a machine cannot be used; `InvalidInput` when this
        installation has no engine for such an address. Without ``check`` nothing is reached, and only the last is raised.
        """
        ...


class PoolTokens(Protocol):
    """Keeps the tokens of pools where only the control plane's user may read them. Thread-safe."""

    def keep(self, pool: str, token: str) -> None:
        """Store a token; on disk when this returns. Replaces an earlier one. An empty one is not stored. Raises `StorageFull`."""
        ...

    def file(self, pool: str) -> Path:
        """Where the token of a pool is, or would be."""
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


class GivenUp(NamedTuple):
    """How many tasks were given up, and how many of their jobs are queued again."""

    num_tasks: int = 0
    num_again: int = 0


class Abandon(Protocol):
    """Ends what runs on a pool that is gone for good; the jobs room does, wired by the composition root."""

    def __call__(self, tx: Transaction, pool: str, heard_at: float | None, message: str) -> GivenUp:
        """End every task there as lost at ``heard_at`` (None: nobody ever heard of them), inside the caller's transaction.

        ``message`` is the evidence, for people.
        """
        ...
