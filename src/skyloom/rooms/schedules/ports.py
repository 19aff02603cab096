"""What schedules need stored."""

from skyloom.ports.store import Collection
from skyloom.rooms.schedules.model import Schedule

SCHEDULES = Collection("schedules", Schedule, indexes=("paused", "next_at"), unique=("name",))

COLLECTIONS = (SCHEDULES,)
