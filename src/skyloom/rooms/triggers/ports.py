"""What triggers need stored."""

from skyloom.ports.store import Collection, Record
from skyloom.rooms.triggers.model import Delivery, Trigger


class HookSeen(Record, frozen=True, kw_only=True):
    """A call of a signed address that was taken, so that the same bytes again are no second event. Its id is a digest of both."""

    at: float
    trigger_id: str = ""


TRIGGERS = Collection("triggers", Trigger, indexes=("name", "state"), unique=("name",))
DELIVERIES = Collection("deliveries", Delivery, indexes=("trigger_id", "number"))
HOOKS_SEEN = Collection("hooks_seen", HookSeen, indexes=("at", "trigger_id"))

COLLECTIONS = (TRIGGERS, DELIVERIES, HOOKS_SEEN)
