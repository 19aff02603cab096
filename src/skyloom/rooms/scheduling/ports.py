"""What scheduling needs stored: how this cloud schedules, as one record."""

from skyloom.ports.store import Collection, Record, Snapshot
from skyloom.rooms.scheduling.model import Rulebook

RULEBOOK_ID = "rulebook"


class StoredRulebook(Record, frozen=True, kw_only=True):
    """The rulebook in force, and who wrote it."""

    rulebook: Rulebook
    written_by: str
    written_at: float


RULEBOOKS = Collection("rulebooks", StoredRulebook)

COLLECTIONS = (RULEBOOKS,)


def current_rulebook(view: Snapshot) -> Rulebook:
    """The rulebook in force; the defaults while nobody wrote one."""
    stored = view.get(RULEBOOKS, RULEBOOK_ID)
    return stored.rulebook if stored else Rulebook()
