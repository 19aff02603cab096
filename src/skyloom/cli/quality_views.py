"""How labels and what they say of revisions are shown."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.plots import spark
from skyloom.cli.quality_page import accuracy_interval
from skyloom.cli.wording import NOTHING, safe
from skyloom.rooms.quality.model import FeedbackReport, LabelRefusal
from skyloom.rooms.serving.judging import QualityReport, RevisionQuality

_MAX_MIXED = 3


def _over_time(line: RevisionQuality) -> str:
    return spark([point.right if point.right is not None else point.mean_error for point in line.points])


def _mixed_up(line: RevisionQuality) -> str:
    """The classes that are most often taken for others."""
    pairs = [
        (count, f"{safe(row.actual)} → {safe(said)} ({count:,})")
        for row in line.confusion
        for said, count in row.said.items()
        if said != row.actual
    ]
    return ", ".join(words for _, words in sorted(pairs, reverse=True)[:_MAX_MIXED]) or NOTHING


QUALITY_COLUMNS: Mapping[type, Sequence[Column]] = {
    RevisionQuality: (
        of("number", "revision"),
        of("version_label", "model version"),
        of("labelled", "labels"),
        of("accuracy"),
        Column("accuracy, 95% sure", accuracy_interval, "accuracy_low"),
        Column("over time", _over_time, "points"),
        of("mean_error"),
        of("root_mean_square", "rms error"),
        of("calibration_error"),
        Column("mixed up (true → said)", _mixed_up, "confusion"),
    ),
    LabelRefusal: (of("prediction_id", "prediction"), of("row"), of("outcome"), of("message", "why")),
}
QUALITY_PAGES: Mapping[type, tuple[Sequence[Column], Sequence[str]]] = {
    QualityReport: ((of("endpoint_name", "endpoint"), of("window_s", "of the last"), of("message")), ("revisions",)),
    FeedbackReport: ((of("endpoint"), of("message")), ("refusals",)),
}
