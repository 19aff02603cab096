"""Feedback from Python: what was true of rows that an endpoint has answered."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from skyloom.core.operation import Page
from skyloom.rooms.quality.model import (
    MAX_LABELS,
    MAX_REFUSALS,
    FeedbackReport,
    GiveFeedback,
    LabelGiven,
    LabelRefusal,
    ListFeedback,
    TruthRecord,
)
from skyloom.sdk.transport import Transport


class FeedbackCalls:
    """``cloud.feedback``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def give(self, name: str, labels: Iterable[LabelGiven]) -> FeedbackReport:
        """Say what was true. Any number of labels; safe to repeat, also after a failure half way.

        Args:
            name: of the endpoint.
            labels: one for each row: ``LabelGiven(prediction_id="pred_…", label="cat")``.
        """
        return summed(name, list(self.give_parts(name, labels)))

    def list(self, name: str, limit: int = 50, cursor: str | None = None) -> Page[TruthRecord]:
        """The labels of an endpoint's answers."""
        return self._transport.send(ListFeedback(name=name, limit=limit, cursor=cursor))

    def give_parts(self, name: str, labels: Iterable[LabelGiven]) -> Iterator[FeedbackReport]:
        """The same, with a report for every thousand labels as they are taken."""
        rest = iter(labels)
        while part := tuple(islice(rest, MAX_LABELS)):
            yield self._transport.send(GiveFeedback(name=name, labels=part))


def summed(name: str, parts: Sequence[FeedbackReport]) -> FeedbackReport:
    """One report of several."""
    if len(parts) == 1:
        return parts[0]
    numbers = Counter({"counted": 0, "corrected": 0, "repeated": 0, "late": 0, "refused": 0})
    refusals: list[LabelRefusal] = []
    for part in parts:
        refusals += part.refusals
        for field in numbers:
            numbers[field] += getattr(part, field)
    words = (
        f"{numbers['counted']:,} labels counted; {numbers['corrected']:,} contradict what was said before: the newest counts; "
        f"{numbers['repeated']:,} were there already; {numbers['late']:,} came more than a day late; {numbers['refused']:,} cannot count."
    )
    return FeedbackReport(
        endpoint=parts[0].endpoint if parts else name, refusals=tuple(refusals[:MAX_REFUSALS]), message=words, **numbers
    )
