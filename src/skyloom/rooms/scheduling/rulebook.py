"""The rulebook as its keepers see it: how this cloud schedules, and what each project may hold."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Name
from skyloom.core.operation import Operation, Right, operation
from skyloom.rooms.scheduling.model import Allotment, Amount, HalfLife, Policy, Quota, Renting, Rulebook, Weight


class ProjectQuota(msgspec.Struct, frozen=True, kw_only=True):
    """What a project is guaranteed, may hold at most, and weighs."""

    name: str
    quota: Quota


@operation("scheduling.get", Right.ADMIN, "GET /scheduling", global_=True)
class GetScheduling(Operation[Rulebook], frozen=True, kw_only=True):
    """Show how this cloud schedules, with the quotas of the projects that the caller may see."""


@operation("scheduling.set", Right.ADMIN, "PUT /scheduling", global_=True)
class SetScheduling(Operation[Rulebook], frozen=True, kw_only=True):
    """Change how this cloud schedules, from the next round on; what is left out stays as it is. See `Rulebook`."""

    policy: Policy | None = None
    las_limits_gpu_s: Annotated[tuple[Amount, ...], Meta(min_length=1, max_length=20)] | None = None
    min_run_s: Amount | None = None
    restart_s: Amount | None = None
    half_life_s: HalfLife | None = None
    backfill: bool | None = None
    preempt: bool | None = None
    elastic: bool | None = None
    renting: Renting | None = None


@operation("quotas.get", Right.ADMIN, "GET /quotas/{name}", global_=True)
class GetQuota(Operation[ProjectQuota], frozen=True, kw_only=True):
    """Show the quota of one project."""

    name: Name


@operation("quotas.set", Right.ADMIN, "PUT /quotas/{name}", global_=True)
class SetQuota(Operation[ProjectQuota], frozen=True, kw_only=True):
    """Replace the quota of one project."""

    name: Name
    guaranteed: Allotment | None = None
    ceiling: Allotment | None = None
    weight: Weight = 1.0


OPERATIONS = (GetScheduling, SetScheduling, GetQuota, SetQuota)
