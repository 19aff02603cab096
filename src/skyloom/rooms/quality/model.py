"""Nouns of quality: what was true of a row that a model answered, and what all such labels say of a revision.

A label is joined to its answer by the prediction's id. It counts at the time of the prediction, however late it comes. One row has
one label: the same again changes nothing, another one takes its place.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Cursor, Id, Limit, Text
from skyloom.core.operation import Operation, Page, Right, operation
from skyloom.ports.store import Record

NUM_BINS = 10  # of confidence, each a tenth wide
BUCKET_S = 300
MAX_LABELS = 1_000  # of one request
MAX_REFUSALS = 20  # shown
LabelText = Annotated[str, Meta(min_length=1, max_length=400)]
Cells = dict[str, dict[str, Count]]


class LabelOutcome(enum.StrEnum):
    """What became of one label."""

    COUNTED = "counted"
    CORRECTED = "corrected"  # another one was there, and has gone
    REPEATED = "repeated"  # the same was there
    UNKNOWN = "unknown"  # no such prediction of this endpoint
    EXPIRED = "expired"  # the request log does not reach back so far
    UNJUDGED = "unjudged"  # nothing is known of what the model said
    UNFIT = "unfit"  # it cannot be a label of this model, or there is no such row


class LabelGiven(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was true of one row.

    Attributes:
        prediction_id: of the answer.
        label: a class by its name, or by its number where classes have no names; a number for a regression.
        row: of the answer, from 0.
    """

    prediction_id: Id
    label: LabelText
    row: Annotated[int, Meta(ge=0, le=2**20)] = 0


class LabelRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A label that does not count, and why."""

    prediction_id: str
    row: int
    outcome: LabelOutcome
    message: Text


class FeedbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of labels.

    Attributes:
        counted: new ones; ``corrected`` took the place of another label, ``repeated`` was there already.
        late: of the first two, those that came more than a day after the answer.
        refused: count for nothing; ``refusals`` are the first of them.
        message: all of it in a sentence.
    """

    endpoint: str
    counted: Count = 0
    corrected: Count = 0
    repeated: Count = 0
    late: Count = 0
    refused: Count = 0
    refusals: Annotated[tuple[LabelRefusal, ...], Meta(max_length=MAX_REFUSALS)] = ()
    message: Text = ""


@operation("feedback.give", Right.WRITE, "POST /endpoints/{name}/feedback")
class GiveFeedback(Operation[FeedbackReport], frozen=True, kw_only=True):
    """Say what was true of rows that an endpoint has answered. Labels that cannot count are told apart and hold up no others. Safe to
    repeat: a row has one label, the newest."""

    name: Id
    labels: Annotated[tuple[LabelGiven, ...], Meta(min_length=1, max_length=MAX_LABELS)]


class AnsweredRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a model said of one row.

    Attributes:
        said: the class that it chose; empty for a regression.
        value: the number that it said; None for a classification.
        confidence: from 0 to 1 in what it said; None where its scores are none.
    """

    said: str = ""
    value: float | None = None
    confidence: float | None = None


class AnsweredRows(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was found in a request log. It never changes.

    Attributes:
        endpoint, revision: id of the one, number of the other.
        rows: what was said of each; empty when that is not known, and ``trouble`` says why.
        classes: the names that a label may have; empty when classes are numbers below ``num_classes``, or for a regression.
        num_classes: 0 for a regression.
    """

    endpoint: str
    revision: int
    at: float
    rows: tuple[AnsweredRow, ...] = ()
    trouble: str = ""
    classes: tuple[str, ...] = ()
    num_classes: int = 0


class TruthRecord(Record, frozen=True, kw_only=True):
    """The label of one row. Its id is the prediction's id and the row.

    Attributes:
        at: Unix seconds of the prediction; ``given_at`` of the newest label.
        actual, said: classes, or numbers as text.
        num_changes: how often another label took the place of one.
    """

    endpoint_id: str
    revision: int
    at: float
    given_at: float
    given_by: str
    actual: str
    said: str
    confidence: float | None = None
    num_changes: int = 0


@operation("feedback.list", Right.READ, "GET /endpoints/{name}/feedback")
class ListFeedback(Operation[Page[TruthRecord]], frozen=True, kw_only=True):
    """List the labels of an endpoint's answers, in the order of their ids."""

    name: Id
    limit: Limit = 50
    cursor: Cursor | None = None


class ConfidenceBin(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of about the same confidence: how many, how many of them right, and their confidences added up."""

    labelled: Count = 0
    right: Count = 0
    confidence: float = 0.0


class QualityCount(msgspec.Struct, frozen=True, kw_only=True):
    """What labels say of answers. Adds up.

    Attributes:
        labelled: rows with a label; ``right`` of them were said as they are (a regression is never counted so).
        confusion: actual class → class that was said → rows. Beyond `rules.MAX_CELLS` kinds they are counted under "…".
        bins: by confidence, of answers that have one.
        errors: rows of a regression; sums of their absolute and squared errors.
    """

    labelled: Count = 0
    right: Count = 0
    confusion: Cells = {}
    bins: tuple[ConfidenceBin, ...] = ()
    errors: Count = 0
    absolute: float = 0.0
    squared: float = 0.0

    @property
    def judged(self) -> int:
        """Rows that are right or wrong."""
        return self.labelled - self.errors

    @property
    def wrong(self) -> int:
        """Rows that are not as they were said."""
        return self.judged - self.right


class QualityBucket(Record, frozen=True, kw_only=True):
    """The labels of answers that one revision gave in five minutes.

    Attributes:
        begins_at: Unix seconds, a multiple of `BUCKET_S`; ``day`` is that in days.
    """

    endpoint_id: str
    revision: int
    begins_at: int
    day: int
    count: QualityCount = QualityCount()


OPERATIONS = (GiveFeedback, ListFeedback)
