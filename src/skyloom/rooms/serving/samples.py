"""What is kept of requests and their answers, for monitoring, labelling and training: the rule, and the lines that replicas write.

A rule lies in a file that only this user can read, because the key of its hashes lies beside it; a replica looks at it once a second.
"""

import enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

ColumnName = Annotated[str, Meta(min_length=1, max_length=200)]
ColumnNames = Annotated[tuple[ColumnName, ...], Meta(max_length=1_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
CONFIDENCE, PREDICTION, LABEL = "confidence", "prediction", "label"
OWN_COLUMNS = ("prediction_id", "row", "at", "model_version", "revision", PREDICTION, CONFIDENCE, LABEL)


class Pattern(enum.StrEnum):
    """What is recognised in texts. Each is found in a time that grows with the text and no faster."""

    EMAIL = "email"
    NUMBER = "number"  # of cards, accounts, telephones: seven digits and more, with blanks, dots and dashes between
    ADDRESS = "ip"
    LINK = "link"


class RequestSampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are kept, and what of them. Nothing else of a request reaches a disk.

    Attributes:
        share: of all rows, by chance.
        uncertain_below: rows whose confidence is below are kept always.
        by_class: the share of rows that are said to be of a class, in place of ``share``.
        drop: columns that are not kept.
        hash: columns of which a keyed hash is kept; the key is the endpoint's own, so equal values are equal still, and no more is told.
        mask: texts in which what the patterns find is crossed out.
        max_row_bytes: larger rows are not kept, but counted.
    """

    share: Share = 0.1
    uncertain_below: Annotated[float, Meta(gt=0, le=1)] | None = None
    by_class: Annotated[dict[ColumnName, Share], Meta(max_length=1_000)] = {}
    drop: ColumnNames = ()
    hash: ColumnNames = ()
    mask: Annotated[
        dict[ColumnName, Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=10)]], Meta(max_length=1_000)
    ] = {}
    max_row_bytes: Annotated[int, Meta(ge=256, le=4 * 2**20)] = 64 * 2**10


class SamplingRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the replicas of one endpoint are told.

    Attributes:
        columns: all that a row had when somebody said what is redacted. A replica whose rows have others keeps nothing: nobody has said
            yet what may be kept of them.
        key: of hashes, in hexadecimal.
        max_bytes: of one replica's samples that nobody has collected yet; beyond it rows are counted and not kept.
    """

    sampling: RequestSampling
    columns: tuple[str, ...]
    key: str
    max_bytes: int


class SampledRow(msgspec.Struct, frozen=True, kw_only=True, tag="row"):
    """One row, as it may be kept.

    Attributes:
        at: Unix seconds of the answer.
        said: the class; empty for other models.
        values: column → number, text, or list of numbers.
    """

    prediction_id: str
    row: int
    at: float
    said: str = ""
    confidence: float | None = None
    values: dict[str, Any]


class RowsNotKept(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """Rows that were chosen and are not there, and why."""

    reason: str
    count: int


SampleLine = SampledRow | RowsNotKept
