"""Pools, the rules of scheduling, and quotas from Python."""

from collections.abc import Mapping

from skyloom.core.operation import Page
from skyloom.rooms.pools import model as pools
from skyloom.rooms.scheduling import rulebook
from skyloom.rooms.scheduling.model import Allotment, Policy, Renting, Rulebook
from skyloom.sdk.transport import Transport


class PoolCalls:
    """``cloud.pools``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(
        self,
        name: str,
        address: str,
        *,
        token: str = "",
        labels: Mapping[str, str] | None = None,
        advertised_url: str = "",
        shared_folder: str = "",
    ) -> pools.PoolStatus:
        """Add a pool (``ray://host:port``); it is reached before it is added. Raises `Unavailable`, `Denied`, `AlreadyExists`.

        Args:
            token: what the pool wants to be shown; kept in a private file, never told again.
            labels: what its machines are known by: ``{"zone": "eu"}``.
            advertised_url: where its machines reach this control plane.
            shared_folder: absolute folder that all its machines share.
        """
        ask = pools.AddPool(
            name=name,
            address=address,
            token=token,
            labels=dict(labels or {}),
            advertised_url=advertised_url,
            shared_folder=shared_folder,
        )
        return self._transport.send(ask)

    def get(self, name: str) -> pools.PoolStatus:
        """A pool, its machines, and what they are used for."""
        return self._transport.send(pools.GetPool(name=name))

    def list(self, limit: int = 100) -> Page[pools.PoolStatus]:
        """All pools, this machine first."""
        return self._transport.send(pools.ListPools(limit=limit))

    def remove(self, name: str, *, gone: bool = False) -> pools.PoolRemoved:
        """Remove a pool. Raises `PoolBusy` while jobs run there.

        Args:
            gone: it will never answer again: its tasks end as lost, and are retried elsewhere where that was asked for. Raises
                `PoolNotGone` while it answers, and until it has been silent for a minute.
        """
        return self._transport.send(pools.RemovePool(name=name, gone=gone))


class SchedulingCalls:
    """``cloud.scheduling``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> Rulebook:
        """How the cloud schedules."""
        return self._transport.send(rulebook.GetScheduling())

    def set(
        self,
        *,
        policy: Policy | None = None,
        las_limits_gpu_s: tuple[float, ...] | None = None,
        min_run_s: float | None = None,
        restart_s: float | None = None,
        half_life_s: float | None = None,
        backfill: bool | None = None,
        preempt: bool | None = None,
        elastic: bool | None = None,
        renting: Renting | None = None,
    ) -> Rulebook:
        """Change how the cloud schedules; what is left out stays as it is. See `Rulebook`. Raises `LimitsOutOfOrder`."""
        ask = rulebook.SetScheduling(
            policy=policy,
            las_limits_gpu_s=las_limits_gpu_s,
            min_run_s=min_run_s,
            restart_s=restart_s,
            half_life_s=half_life_s,
            backfill=backfill,
            preempt=preempt,
            elastic=elastic,
            renting=renting,
        )
        return self._transport.send(ask)


class QuotaCalls:
    """``cloud.quotas``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> rulebook.ProjectQuota:
        """What a project is guaranteed, may hold at most, and weighs."""
        return self._transport.send(rulebook.GetQuota(name=name))

    def set(
        self,
        name: str,
        *,
        guaranteed: Allotment | None = None,
        ceiling: Allotment | None = None,
        weight: float = 1.0,
    ) -> rulebook.ProjectQuota:
        """Replace a project's quota."""
        return self._transport.send(rulebook.SetQuota(name=name, guaranteed=guaranteed, ceiling=ceiling, weight=weight))
