"""Reading what labels say of revisions, inside a snapshot; for whoever decides by it."""

from skyloom.ports.store import Snapshot
from skyloom.rooms.quality import rules
from skyloom.rooms.quality.model import BUCKET_S, QualityBucket, QualityCount
from skyloom.rooms.quality.ports import QUALITY

_DAY_S = 86_400


def buckets_since(view: Snapshot, endpoint_id: str, since: float, now: float) -> list[QualityBucket]:
    """The buckets of an endpoint that end after a moment, oldest first."""
    days = tuple(range(int(since // _DAY_S), int(now // _DAY_S) + 1))
    found = view.select(QUALITY, {"endpoint_id": endpoint_id, "day": days})
    kept = [bucket for bucket in found if bucket.begins_at + BUCKET_S > since]
    return sorted(kept, key=lambda bucket: (bucket.begins_at, bucket.revision))


def counts_since(view: Snapshot, endpoint_id: str, since: float, now: float) -> dict[int, QualityCount]:
    """What labels say of each revision's answers since a moment, to five minutes."""
    parts: dict[int, list[QualityCount]] = {}
    for bucket in buckets_since(view, endpoint_id, since, now):
        parts.setdefault(bucket.revision, []).append(bucket.count)
    return {revision: rules.merged(some) for revision, some in parts.items()}
