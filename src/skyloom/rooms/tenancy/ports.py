"""What tenancy needs stored."""

from skyloom.ports.store import Collection, Log, Record
from skyloom.rooms.tenancy.model import AuditEntry, Project, Token


class Replay(Record, frozen=True, kw_only=True):
    """The answer that an idempotency key got. The id is project, principal and key.

    Attributes:
        request: digest of the request, so that the key cannot be used for another one.
        answer: the answer as JSON.
    """

    request: str
    answer: bytes
    made_at: float


class AuditStart(Record, frozen=True, kw_only=True):
    """Where the audit log begins since old entries went; one record.

    Attributes:
        number: of the newest entry that went; ``hash`` is its own, to which the first that is left is linked.
    """

    number: int
    hash: str


PROJECTS = Collection("projects", Project)
TOKENS = Collection("tokens", Token, indexes=("digest",))
REPLAYS = Collection("replays", Replay, indexes=("made_at",))
AUDIT_STARTS = Collection("audit_starts", AuditStart)
AUDIT = Log("audit", AuditEntry, keys=("project",))

COLLECTIONS = (PROJECTS, TOKENS, REPLAYS, AUDIT_STARTS)
LOGS = (AUDIT,)
