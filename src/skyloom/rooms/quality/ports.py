"""What quality needs stored, and whom it asks what was answered."""

from typing import Protocol

from skyloom.core.operation import Caller
from skyloom.ports.store import Collection
from skyloom.rooms.quality.model import AnsweredRows, QualityBucket, TruthRecord

TRUTHS = Collection("truths", TruthRecord, indexes=("endpoint_id", "given_at"))
QUALITY = Collection("quality", QualityBucket, indexes=("endpoint_id", "day"))

COLLECTIONS = (TRUTHS, QUALITY)


class Answers(Protocol):
    """Who knows what endpoints answered."""

    def endpoint(self, name: str, project: str) -> tuple[str, str]:
        """Id and name of an endpoint, by either. Raises `NotFound`."""
        ...

    def answer(self, prediction_id: str, by: Caller) -> AnsweredRows:
        """What was said under an id. Raises `NotFound` (one that is called `PredictionExpired` where it is gone), `InvalidInput`."""
        ...
