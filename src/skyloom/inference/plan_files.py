"""Reading the plan file of a data-plane process: its size, its fields, and where it may listen."""

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.rooms.serving.plan import ServePlan
from skyloom.rooms.serving.routes import GatewayPlan

_MAX_PLAN_BYTES = 2**20
PlanT = TypeVar("PlanT", ServePlan, GatewayPlan)


def read_plan_file(path: Path, kind: type[PlanT], refused: Callable[[str], SkyloomError]) -> tuple[PlanT, bool]:
    """A plan, and whether it listens on loopback. Raises what ``refused`` makes of the reason."""
    try:
        if path.stat().st_size > _MAX_PLAN_BYTES:
            raise refused("it is too large")
        plan = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise refused(os.strerror(error.errno or 0)) from error
    except msgspec.MsgspecError as error:
        raise refused(str(error)) from error
    try:
        return plan, ipaddress.ip_address(plan.host).is_loopback
    except ValueError:
        raise refused(f"host {plan.host!r} is not an address") from None
