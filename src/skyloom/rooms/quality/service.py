"""The service of quality: takes in labels, joins each to what was answered, and keeps the count."""

from collections import Counter, OrderedDict
from threading import Lock

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.operation import Caller, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed
from skyloom.ports.store import Store, Transaction, changed
from skyloom.rooms.quality import rules
from skyloom.rooms.quality.model import (
    BUCKET_S,
    AnsweredRows,
    FeedbackReport,
    GiveFeedback,
    LabelGiven,
    LabelOutcome,
    LabelRefusal,
    ListFeedback,
    QualityBucket,
    QualityCount,
    TruthRecord,
)
from skyloom.rooms.quality.ports import QUALITY, TRUTHS, Answers

KEEP_S = 90 * 86_400.0
_TICK_S = 600.0
_TRIMMED = 500  # records of one round
_MAX_KNOWN = 20_000
_EXPIRED = "prediction_expired"
Joined = AnsweredRows | LabelRefusal


class Feedback:
    """Labels of all projects.

    Args:
        answers: knows what endpoints said.
    """

    def __init__(self, store: Store, clock: Clock, answers: Answers) -> None:
        self._store = store
        self._clock = clock
        self._answers = answers
        # What was read before the transaction, for the transaction: request logs are files, and an answer never changes.
        self._known: OrderedDict[tuple[str, str], Joined] = OrderedDict()
        self._lock = Lock()

    def handlers(self) -> Handlers:
        return {GiveFeedback: Change(self.give, before=self.look), ListFeedback: Query(self.list)}

    def look(self, ask: GiveFeedback, by: Caller) -> None:
        """Read the answers that labels are about."""
        self._answers.endpoint(ask.name, by.project)
        for prediction_id in {label.prediction_id for label in ask.labels}:
            found = self._read(prediction_id, by)
            with self._lock:
                self._known[by.project, prediction_id] = found
                while len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)

    def give(self, tx: Transaction, ask: GiveFeedback, by: Caller) -> FeedbackReport:
        endpoint, name = self._answers.endpoint(ask.name, by.project)
        outcomes: Counter[LabelOutcome] = Counter()
        refusals: list[LabelRefusal] = []
        buckets: dict[str, QualityBucket] = {}
        late, now = 0, self._clock.now()
        for label in ask.labels:
            found = self._joined(endpoint, label, by, now)
            if isinstance(found, LabelRefusal):
                outcomes[found.outcome] += 1
                refusals.append(found)
                continue
            outcome = self._take(tx, buckets, found, label, by, now)
            outcomes[outcome] += 1
            late += outcome is not LabelOutcome.REPEATED and now - found.at > rules.LATE_S
        for bucket in buckets.values():
            tx.update(QUALITY, bucket)
        return rules.report(name, outcomes, late, refusals)

    def list(self, ask: ListFeedback, by: Caller) -> Page[TruthRecord]:
        endpoint, _ = self._answers.endpoint(ask.name, by.project)
        where = {"endpoint_id": endpoint}
        return self._store.read(lambda view: listed(view, TRUTHS, where, ask, newest_first=False))

    def trim(self) -> float:
        """Remove labels and counts that are too old. Returns the seconds after which to do so again."""
        oldest = self._clock.now() - KEEP_S

        def work(tx: Transaction) -> int:
            truths = [one for one in tx.select(TRUTHS, order="given_at", limit=_TRIMMED) if one.given_at < oldest]
            for truth in truths:
                tx.delete(TRUTHS, truth.id)
            # As long as a label of an answer in it may be corrected, its old one has to be there to be taken out.
            some = tx.select(QUALITY, order="day", limit=_TRIMMED)
            buckets = [one for one in some if one.begins_at + BUCKET_S < oldest]
            for bucket in buckets:
                tx.delete(QUALITY, bucket.id)
            return max(len(truths), len(buckets))

        return 0.0 if self._store.write(work) == _TRIMMED else _TICK_S

    def _read(self, prediction_id: str, by: Caller) -> Joined:
        try:
            return self._answers.answer(prediction_id, by)
        except (NotFound, InvalidInput) as error:
            outcome = LabelOutcome.EXPIRED if error.code == _EXPIRED else LabelOutcome.UNKNOWN
            return LabelRefusal(prediction_id=prediction_id, row=0, outcome=outcome, message=error.message)

    def _joined(self, endpoint: str, label: LabelGiven, by: Caller, now: float) -> Joined:
        """What a label is about, or why it cannot count."""
        with self._lock:
            found = self._known.get((by.project, label.prediction_id))
        if found is None:
            found = self._read(label.prediction_id, by)
        if isinstance(found, LabelRefusal):
            return _refusal(label, found.outcome, found.message)
        if found.endpoint != endpoint:
            return _refusal(label, LabelOutcome.UNKNOWN, f"{label.prediction_id} is of another endpoint.")
        if now - found.at > KEEP_S:
            return _refusal(label, LabelOutcome.EXPIRED, f"{label.prediction_id} is older than labels are kept.")
        if not found.rows:
            return _refusal(label, LabelOutcome.UNJUDGED, found.trouble)
        if label.row >= len(found.rows):
            return _refusal(
                label, LabelOutcome.UNFIT, f"The answer has {len(found.rows)} rows, and no row {label.row}."
            )
        if rules.label_of(found, label.label) is None:
            return _refusal(label, LabelOutcome.UNFIT, rules.misfit_words(found, label.label))
        return found

    def _take(
        self,
        tx: Transaction,
        buckets: dict[str, QualityBucket],
        answer: AnsweredRows,
        label: LabelGiven,
        by: Caller,
        now: float,
    ) -> LabelOutcome:
        actual, row = rules.label_of(answer, label.label), answer.rows[label.row]
        assert actual is not None, "it was found to fit"
        truth_id = f"{label.prediction_id}.{label.row}"
        known = tx.get(TRUTHS, truth_id)
        if known is not None and known.actual == actual:
            return LabelOutcome.REPEATED
        said, is_class = rules.said_words(row), answer.num_classes > 0
        bucket = self._bucket(tx, buckets, answer, by)
        count = bucket.count
        if known is not None:
            count = rules.uncounted(count, known.actual, known.said, known.confidence, is_class)
        count = rules.counted(count, actual, said, row.confidence, is_class)
        buckets[bucket.id] = changed(bucket, {"count": count})
        if known is not None:
            news = {"actual": actual, "given_at": now, "given_by": by.principal, "num_changes": known.num_changes + 1}
            tx.update(TRUTHS, changed(known, news))
            return LabelOutcome.CORRECTED
        truth = TruthRecord(
            id=truth_id,
            project=by.project,
            endpoint_id=answer.endpoint,
            revision=answer.revision,
            at=answer.at,
            given_at=now,
            given_by=by.principal,
            actual=actual,
            said=said,
            confidence=row.confidence,
        )
        tx.insert(TRUTHS, truth)
        return LabelOutcome.COUNTED

    def _bucket(
        self, tx: Transaction, buckets: dict[str, QualityBucket], answer: AnsweredRows, by: Caller
    ) -> QualityBucket:
        begins_at = rules.bucket_of(answer.at)
        bucket_id = f"{answer.endpoint}.{answer.revision}.{begins_at}"
        found = buckets.get(bucket_id) or tx.get(QUALITY, bucket_id)
        if found is not None:
            return found
        made = QualityBucket(
            id=bucket_id,
            project=by.project,
            endpoint_id=answer.endpoint,
            revision=answer.revision,
            begins_at=begins_at,
            day=begins_at // 86_400,
            count=QualityCount(),
        )
        return tx.insert(QUALITY, made)


def _refusal(label: LabelGiven, outcome: LabelOutcome, message: str) -> LabelRefusal:
    return LabelRefusal(prediction_id=label.prediction_id, row=label.row, outcome=outcome, message=message)
