"""Pure: whether an answer was right, and adding up what labels say."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from skyloom.rooms.quality.model import (
    BUCKET_S,
    MAX_REFUSALS,
    NUM_BINS,
    AnsweredRow,
    AnsweredRows,
    Cells,
    ConfidenceBin,
    FeedbackReport,
    LabelOutcome,
    LabelRefusal,
    QualityCount,
)

MAX_CELLS = 2_000
OTHER = "…"
LATE_S = 86_400.0
_SHOWN_CLASSES = 10


def bucket_of(at: float) -> int:
    """When the five minutes began that a moment lies in."""
    return int(at // BUCKET_S) * BUCKET_S


def label_of(answer: AnsweredRows, text: str) -> str | None:
    """A label as it is compared with what the model said; None when it cannot be one of this model."""
    if not answer.num_classes:
        try:
            number = float(text)
        except ValueError:
            return None
        return repr(number) if math.isfinite(number) else None
    if answer.classes and text in answer.classes:
        return text
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= answer.num_classes:
        return None
    return answer.classes[int(text)] if answer.classes else str(int(text))


def misfit_words(answer: AnsweredRows, text: str) -> str:
    """Why a label is none of the model."""
    if not answer.num_classes:
        return f"{text[:80]!r} is no number."
    named = ", ".join(answer.classes[:_SHOWN_CLASSES]) + (" …" if len(answer.classes) > _SHOWN_CLASSES else "")
    return f"{text[:80]!r} is no class of the model: {named or f'0 to {answer.num_classes - 1}'}."


def said_words(row: AnsweredRow) -> str:
    """What a model said, as it is compared with a label."""
    return repr(row.value) if row.value is not None else row.said


def counted(count: QualityCount, actual: str, said: str, confidence: float | None, is_class: bool) -> QualityCount:
    """One row more."""
    return _with(count, actual, said, confidence, is_class, 1)


def uncounted(count: QualityCount, actual: str, said: str, confidence: float | None, is_class: bool) -> QualityCount:
    """One row less, which was counted before."""
    return _with(count, actual, said, confidence, is_class, -1)


def merged(counts: Iterable[QualityCount]) -> QualityCount:
    """All of them together."""
    labelled = right = errors = 0
    absolute = squared = 0.0
    cells: Cells = {}
    bins = [[0, 0, 0.0] for _ in range(NUM_BINS)]
    for count in counts:
        labelled, right, errors = labelled + count.labelled, right + count.right, errors + count.errors
        absolute, squared = absolute + count.absolute, squared + count.squared
        for actual, row in count.confusion.items():
            for said, number in row.items():
                _put(cells, actual, said, number)
        for place, one in enumerate(count.bins):
            bins[place][0] += one.labelled
            bins[place][1] += one.right
            bins[place][2] += one.confidence
    made = tuple(ConfidenceBin(labelled=int(n), right=int(ok), confidence=total) for n, ok, total in bins)
    return QualityCount(
        labelled=labelled,
        right=right,
        confusion=cells,
        bins=made if any(one.labelled for one in made) else (),
        errors=errors,
        absolute=absolute,
        squared=squared,
    )


def calibration_error(count: QualityCount) -> float | None:
    """How far confidence is from being right, on average over the answers (expected calibration error, Naeini et al. 2015, with ten
    equal bins); None without confidences."""
    total = sum(one.labelled for one in count.bins)
    if not total:
        return None
    return sum(abs(one.confidence - one.right) for one in count.bins) / total


def report(
    endpoint: str, outcomes: Mapping[LabelOutcome, int], late: int, refusals: Iterable[LabelRefusal]
) -> FeedbackReport:
    """What became of labels, in numbers and in a sentence."""
    told = {name: outcomes.get(name, 0) for name in LabelOutcome}
    good = (LabelOutcome.COUNTED, LabelOutcome.CORRECTED, LabelOutcome.REPEATED)
    refused = sum(number for name, number in told.items() if name not in good)
    new = told[LabelOutcome.COUNTED]
    words = [f"{new:,} label{'' if new == 1 else 's'} counted"]
    if told[LabelOutcome.CORRECTED]:
        words.append(f"{told[LabelOutcome.CORRECTED]:,} contradict what was said before: the newest counts")
    if told[LabelOutcome.REPEATED]:
        words.append(f"{told[LabelOutcome.REPEATED]:,} were there already")
    if late:
        words.append(f"{late:,} came more than a day late and count at the time of the answer")
    words += [f"{told[name]:,} {_REFUSED[name]}" for name in _REFUSED if told[name]]
    return FeedbackReport(
        endpoint=endpoint,
        counted=told[LabelOutcome.COUNTED],
        corrected=told[LabelOutcome.CORRECTED],
        repeated=told[LabelOutcome.REPEATED],
        late=late,
        refused=refused,
        refusals=tuple(refusals)[:MAX_REFUSALS],
        message="; ".join(words) + ".",
    )


_REFUSED = {
    LabelOutcome.UNKNOWN: "are of no prediction of this endpoint",
    LabelOutcome.EXPIRED: "are of predictions that have expired",
    LabelOutcome.UNJUDGED: "are of predictions of which nothing is known that could be right",
    LabelOutcome.UNFIT: "cannot be labels of the model",
}


def _with(
    count: QualityCount, actual: str, said: str, confidence: float | None, is_class: bool, sign: int
) -> QualityCount:
    if not is_class:
        error = float(said) - float(actual)
        return msgspec.structs.replace(
            count,
            labelled=count.labelled + sign,
            errors=count.errors + sign,
            absolute=max(0.0, count.absolute + sign * abs(error)),
            squared=max(0.0, count.squared + sign * error * error),
        )
    is_right = actual == said
    cells = {name: dict(row) for name, row in count.confusion.items()}
    _put(cells, actual, said, sign)
    return msgspec.structs.replace(
        count,
        labelled=count.labelled + sign,
        right=count.right + (sign if is_right else 0),
        confusion=cells,
        bins=count.bins if confidence is None else _binned(count.bins, confidence, is_right, sign),
    )


def _put(cells: Cells, actual: str, said: str, number: int) -> None:
    """Add to a cell; what was never given a cell of its own is taken from where it was put."""
    known = cells.get(actual, {}).get(said, 0)
    if not known and (number < 0 or sum(map(len, cells.values())) >= MAX_CELLS):
        actual = said = OTHER
        known = cells.get(OTHER, {}).get(OTHER, 0)
    left = known + number
    row = cells.setdefault(actual, {})
    if left > 0:
        row[said] = left
    else:
        row.pop(said, None)
        if not row:
            del cells[actual]


def _binned(bins: tuple[ConfidenceBin, ...], confidence: float, is_right: bool, sign: int) -> tuple[ConfidenceBin, ...]:
    made = list(bins or (ConfidenceBin(),) * NUM_BINS)
    place = min(NUM_BINS - 1, int(confidence * NUM_BINS))
    one = made[place]
    made[place] = ConfidenceBin(
        labelled=one.labelled + sign,
        right=one.right + (sign if is_right else 0),
        confidence=max(0.0, one.confidence + sign * confidence),
    )
    return tuple(made)
