"""How labels and what they say of revisions are shown."""

from collections.abc import Mapping, Sequence

from skyloom.cli.columns import Column, of
from skyloom.cli.plots import spark
from skyloom.cli.quality_page import accuracy_interval
from skyloom.cli.wording import NOTHING, moment, safe
from skyloom.rooms.quality.model import FeedbackReport, LabelRefusal
from skyloom.rooms.sampling.model import SamplingStatus
from skyloom.rooms.serving.judging import QualityReport, RevisionQuality
from skyloom.rooms.serving.samples import RequestSampling

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


def _which(sampling: RequestSampling) -> str:
    words = ["all" if sampling.share == 1 else f"{100 * sampling.share:g}% of all"]
    if sampling.uncertain_below is not None:
        words.append(f"all of confidence below {sampling.uncertain_below:g}")
    return ", ".join([*words, *(f"{100 * share:g}% of {safe(name)}" for name, share in sampling.by_class.items())])


def _redacted(sampling: RequestSampling) -> str:
    words = [f"{safe(name)} dropped" for name in sampling.drop] + [f"{safe(name)} hashed" for name in sampling.hash]
    words += [f"{', '.join(patterns)} crossed out in {safe(name)}" for name, patterns in sampling.mask.items()]
    return "; ".join(words) or "nothing"


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
    SamplingStatus: (
        (
            of("log.endpoint_name", "endpoint"),
            of("log.dataset", "dataset"),
            of("log.active", "keeps requests"),
            Column("rows", lambda status: _which(status.log.sampling), "log.sampling"),
            Column("redacted", lambda status: _redacted(status.log.sampling), "log.sampling"),
            of("waiting_bytes", "waits"),
            of("draft", "being taken"),
            of("newest", "version"),
            of("num_rows", "rows in it"),
            Column("next", lambda status: moment(status.next_at) if status.next_at else NOTHING, "next_at"),
            of("message"),
        ),
        (),
    ),
    FeedbackReport: ((of("endpoint"), of("message")), ("refusals",)),
}
