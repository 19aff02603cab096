"""Nouns of pools: a pool is some machines behind one engine; what a pool is known by; operations on them.

A pool's token is no part of its record: it lies behind `ports.PoolTokens`, and nothing here shows it.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Limit, Name
from skyloom.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.core.resources import Resources
from skyloom.ports.store import Record

LOCAL = "local"  # the machine of the control plane; always there, never stored

LabelText = Annotated[str, Meta(max_length=200)]
Labels = Annotated[dict[LabelText, LabelText], Meta(max_length=50)]
Address = Annotated[
    str,
    Meta(
        max_length=300,
        description="Where the pool is reached: ray://host:port.",
    ),
]
Url = Annotated[str, Meta(max_length=300, pattern=r"^(https?://[^\s/?#]+)?/?$(?!\n)")]


class PoolMissing(NotFound):
    """No such pool."""


class PoolReserved(InvalidInput):
    """The name is that of the control plane's own machine."""


class NotAPoolAddress(InvalidInput):
    """No ``ray://host:port``."""


class PoolDown(Unavailable):
    """A pool cannot be reached now."""


class PoolBusy(Conflict):
    """Jobs run on the pool."""


class PoolNotGone(Conflict):
    """A pool that is said to be gone for good answers, or has not been silent for long."""


class Pool(Record, frozen=True, kw_only=True):
    """Machines behind one engine. Its id is its name.

    Attributes:
        address: ``ray://host:port``.
        labels: what all of its machines are known by, beside their own: ``zone=eu``.
        advertised_url: where its machines reach this control plane; empty for the address that the control plane itself knows.
        shared_folder: absolute folder that all of its machines share; empty when they share none, and then a gang stays on one machine.
    """

    address: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    advertised_url: str = ""
    shared_folder: str = ""
    added_at: float
    added_by: str

    @property
    def name(self) -> str:
        """Its name, which is its id."""
        return self.id


class PoolHeard(Record, frozen=True, kw_only=True):
    """When a pool was last heard of; its id is the pool's name. Exact when the pool falls silent, else at most a minute old."""

    at: float


class PoolState(enum.StrEnum):
    """Whether a pool can be reached; seen, never stored."""

    UP = "up"
    DOWN = "down"


class MachineUse(msgspec.Struct, frozen=True, kw_only=True):
    """One machine: what it has, and what tasks hold of it."""

    name: str
    total: Resources
    used: Resources
    num_tasks: int = 0
    labels: dict[str, str] = {}


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A pool and how it stands.

    Attributes:
        pool: as it was added.
        message, next_action: why it is down and what to do; empty when it is up.
        total, used: over its machines, the last that were seen if it is down.
        heard_at: when it last answered, in Unix seconds; None for this machine, and for a pool that never did.
    """

    pool: Pool
    state: PoolState
    message: str = ""
    next_action: str = ""
    total: Resources
    used: Resources
    num_tasks: int = 0
    machines: tuple[MachineUse, ...] = ()
    heard_at: float | None = None


class PoolRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that is no more, and what became of what ran there.

    Attributes:
        num_lost: tasks that were given up.
        num_again: jobs among them that are queued again, to run elsewhere.
    """

    name: str
    num_lost: int = 0
    num_again: int = 0


@operation("pools.add", Right.ADMIN, "POST /pools", global_=True, private=True)
class AddPool(Operation[PoolStatus], frozen=True, kw_only=True):
    """Add a pool of machines; it is reached before it is added. Jobs are placed on it from then on.

    Attributes:
        token: what the pool wants to be shown; kept apart, never told again.
    """

    name: Name
    address: Address
    token: Annotated[str, Meta(max_length=4_096)] = ""
    labels: Labels = msgspec.field(default_factory=dict)
    advertised_url: Url = ""
    shared_folder: Annotated[str, Meta(max_length=1_000, pattern=r"^(/[^\x00\n]*)?$(?!\n)")] = ""


@operation("pools.get", Right.ADMIN, "GET /pools/{name}", global_=True)
class GetPool(Operation[PoolStatus], frozen=True, kw_only=True):
    """Show a pool with its machines and what they are used for."""

    name: Name


@operation("pools.list", Right.ADMIN, "GET /pools", global_=True)
class ListPools(Operation[Page[PoolStatus]], frozen=True, kw_only=True):
    """List all pools, this machine first."""

    limit: Limit = 100


@operation("pools.remove", Right.ADMIN, "DELETE /pools/{name}", global_=True)
class RemovePool(Operation[PoolRemoved], frozen=True, kw_only=True):
    """Remove a pool. Refused while jobs run there. Its machines go on; only this cloud lets go of them.

    Attributes:
        gone: it will never answer again: what ran there is given up as lost at the moment when it was last heard of, and retried
            elsewhere where that was asked for. Refused while it answers, and until it has been silent for a minute.
    """

    name: Name
    gone: bool = False


OPERATIONS = (AddPool, GetPool, ListPools, RemovePool)
