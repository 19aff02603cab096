"""How good an endpoint's answers are, by revision and over time, from the labels that were given for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Count, Id, Text
from skyloom.core.operation import Caller, Operation, Right, operation
from skyloom.ports.clock import Clock
from skyloom.ports.door import Handlers, Query
from skyloom.ports.store import Snapshot, Store
from skyloom.rooms.quality import rules
from skyloom.rooms.quality.model import BUCKET_S, ConfidenceBin, QualityBucket, QualityCount
from skyloom.rooms.quality.reading import buckets_since
from skyloom.rooms.serving.evidence import interval
from skyloom.rooms.serving.model import Endpoint, Revision
from skyloom.rooms.serving.ports import REVISIONS

MAX_WINDOW_S = 90 * 86_400.0
_MAX_CLASSES = 50
_MAX_POINTS = 500


class QualityPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time of one revision. ``right`` is None for a regression, ``mean_error`` for a classification."""

    at: float
    labelled: Count
    right: float | None = None
    mean_error: float | None = None


class ConfusionRow(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were of one class: how many, and how many of them were said to be of which."""

    actual: str
    labelled: Count
    said: dict[str, Count]


class RevisionQuality(msgspec.Struct, frozen=True, kw_only=True):
    """How good one revision's answers are.

    Attributes:
        labelled: rows with a label.
        accuracy: share of right ones, None for a regression; low and high hold the true one with 95 %, however often one looks.
        mean_error, root_mean_square: of a regression, absolute; in units of what it predicts.
        calibration_error: how far confidence is from being right, on average.
        confusion: the classes with most labels.
        calibration: by tenths of confidence.
        points: over time, oldest first.
    """

    number: int
    version_label: str
    labelled: Count
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    mean_error: float | None = None
    root_mean_square: float | None = None
    calibration_error: float | None = None
    confusion: Annotated[tuple[ConfusionRow, ...], Meta(max_length=_MAX_CLASSES)] = ()
    calibration: Annotated[tuple[ConfidenceBin, ...], Meta(max_length=10)] = ()
    points: Annotated[tuple[QualityPoint, ...], Meta(max_length=_MAX_POINTS)] = ()


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """How good an endpoint's answers are, as far as somebody said what was true.

    Attributes:
        window_s: how far back, by the time of the answers.
        message: what to do when there are no labels.
    """

    endpoint: Id
    endpoint_name: str
    window_s: float
    message: Text = ""
    revisions: Annotated[tuple[RevisionQuality, ...], Meta(max_length=1_000)] = ()


@operation("endpoints.quality", Right.READ, "GET /endpoints/{name}/quality")
class GetQuality(Operation[QualityReport], frozen=True, kw_only=True):
    """Show how good an endpoint's answers are, by revision and over time, from the labels that were given by `feedback.give`."""

    name: Id
    window_s: Annotated[float, Meta(gt=0, le=MAX_WINDOW_S)] = 7 * 86_400.0
    points: Annotated[int, Meta(ge=1, le=_MAX_POINTS)] = 60


class QualityReports:
    """Answers `endpoints.quality`."""

    def __init__(self, store: Store, clock: Clock, find: Callable[[Snapshot, str, str], Endpoint]) -> None:
        self._store = store
        self._clock = clock
        self._find = find

    def handlers(self) -> Handlers:
        return {GetQuality: Query(self.get)}

    def get(self, ask: GetQuality, by: Caller) -> QualityReport:
        now = self._clock.now()

        def work(view: Snapshot) -> tuple[Endpoint, list[QualityBucket], list[Revision]]:
            endpoint = self._find(view, ask.name, by.project)
            buckets = buckets_since(view, endpoint.id, now - ask.window_s, now)
            numbers = tuple({bucket.revision for bucket in buckets})
            revisions = view.select(REVISIONS, {"endpoint_id": endpoint.id, "number": numbers}) if numbers else []
            return endpoint, buckets, revisions

        endpoint, buckets, revisions = self._store.read(work)
        return report_of(endpoint, buckets, {one.number: one for one in revisions}, ask.window_s, ask.points)


def report_of(
    endpoint: Endpoint,
    buckets: Sequence[QualityBucket],
    revisions: Mapping[int, Revision],
    window_s: float,
    num_points: int,
) -> QualityReport:
    """Put buckets together by revision, and by stretches of time that are whole buckets."""
    stretch_s = max(BUCKET_S, -(-int(window_s) // num_points // BUCKET_S) * BUCKET_S)
    by_revision: dict[int, list[QualityBucket]] = {}
    for bucket in buckets:
        if bucket.count.labelled:
            by_revision.setdefault(bucket.revision, []).append(bucket)
    message = ""
    if not by_revision:
        message = (
            f"No answer of this time has a label. Give some: skyloom feedback {endpoint.name} PREDICTION_ID --label X"
        )
    return QualityReport(
        endpoint=endpoint.id,
        endpoint_name=endpoint.name,
        window_s=window_s,
        message=message,
        revisions=tuple(
            _line(number, some, revisions.get(number), stretch_s) for number, some in sorted(by_revision.items())
        ),
    )


def _line(number: int, buckets: Sequence[QualityBucket], revision: Revision | None, stretch_s: int) -> RevisionQuality:
    count = rules.merged(bucket.count for bucket in buckets)
    parts: dict[int, list[QualityCount]] = {}
    for bucket in buckets:
        parts.setdefault(bucket.begins_at // stretch_s * stretch_s, []).append(bucket.count)
    low, high = interval(count.right, count.wrong) if count.judged else (None, None)
    return RevisionQuality(
        number=number,
        version_label=revision.version_label if revision else "",
        labelled=count.labelled,
        accuracy=count.right / count.judged if count.judged else None,
        accuracy_low=low,
        accuracy_high=high,
        mean_error=count.absolute / count.errors if count.errors else None,
        root_mean_square=(count.squared / count.errors) ** 0.5 if count.errors else None,
        calibration_error=rules.calibration_error(count),
        confusion=_confusion(count),
        calibration=count.bins,
        points=tuple(_point(at, rules.merged(some)) for at, some in sorted(parts.items())[-_MAX_POINTS:]),
    )


def _point(at: int, count: QualityCount) -> QualityPoint:
    return QualityPoint(
        at=float(at),
        labelled=count.labelled,
        right=count.right / count.judged if count.judged else None,
        mean_error=count.absolute / count.errors if count.errors else None,
    )


def _confusion(count: QualityCount) -> tuple[ConfusionRow, ...]:
    rows = [
        ConfusionRow(
            actual=actual, labelled=sum(said.values()), said=dict(sorted(said.items(), key=lambda one: -one[1]))
        )
        for actual, said in count.confusion.items()
    ]
    largest = sorted(rows, key=lambda row: (-row.labelled, row.actual))[:_MAX_CLASSES]
    return tuple(sorted(largest, key=lambda row: row.actual))


OPERATIONS = (GetQuality,)
