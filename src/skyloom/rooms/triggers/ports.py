"""What triggers need stored."""

from skyloom.ports.store import Collection, Record
from skyloom.rooms.triggers.model import Delivery, Trigger


class HookSeen(Record, frozen=True, kw_only=True):
    """A call of a signed address that was taken, so that the same bytes again are no second event. Its id is a digest of both."""

    at: float
    trigger_id: str = ""


class HookBody(Record, frozen=True, kw_only=True):
    """What was sent to a signed address, until it is delivered. Its id is that of the call.

    Attributes:
        size_bytes: what it takes here, the record around it included.
        refused: its delivery was refused, and may be asked for again.
        job_id: of the job that it set off, whose tasks are given it; it goes when that has ended.
    """

    trigger_id: str
    at: float
    size_bytes: int
    text: str
    refused: bool = False
    job_id: str = ""


class HookRoom(Record, frozen=True, kw_only=True):
    """How much all bodies take together; one record."""

    num_bytes: int


TRIGGERS = Collection("triggers", Trigger, indexes=("name", "state"), unique=("name",))
DELIVERIES = Collection("deliveries", Delivery, indexes=("trigger_id", "number"))
HOOKS_SEEN = Collection("hooks_seen", HookSeen, indexes=("at", "trigger_id"))
HOOK_BODIES = Collection(
    "hook_bodies", HookBody, indexes=("at", "trigger_id", "refused", "job_id"), ordered=(("refused", "at"),)
)
HOOK_ROOM = Collection("hook_room", HookRoom)

COLLECTIONS = (TRIGGERS, DELIVERIES, HOOKS_SEEN, HOOK_BODIES, HOOK_ROOM)
