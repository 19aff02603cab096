"""What planning needs stored, and what it needs to be told."""

from collections.abc import Callable

from skyloom.core.resources import Resources
from skyloom.ports.store import Collection, Snapshot
from skyloom.rooms.planning.model import PlanOutcome, TimePlan

TIME_PLANS = Collection("time_plans", TimePlan, indexes=("job_id", "open"))
PLAN_OUTCOMES = Collection("plan_outcomes", PlanOutcome)

COLLECTIONS = (TIME_PLANS, PLAN_OUTCOMES)

HourPrice = Callable[[Snapshot, Resources, str, float], float]
"""What a worker with these resources costs in an hour on a pool at a moment, in USD: (view, resources, pool, now)."""
