"""Labels joined to what was answered: which count, which cannot and why, and a canary that goes back for its wrong answers."""

from itertools import chain

import msgspec
import pytest

from skyloom.core.operation import Caller, Right
from skyloom.rooms.quality.model import GiveFeedback, LabelGiven, LabelOutcome, ListFeedback
from skyloom.rooms.quality.ports import QUALITY, TRUTHS
from skyloom.rooms.quality.service import KEEP_S, Feedback
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.serving import change
from skyloom.rooms.serving.answers import RequestAnswers
from skyloom.rooms.serving.judging import GetQuality
from skyloom.rooms.serving.model import EndpointMissing
from skyloom.rooms.serving.ports import CANARIES, REPLICAS
from skyloom.rooms.serving.predictions import Prediction, name_prediction
from skyloom.rooms.serving.split import CanaryPlan, CanaryState
from tests.rooms.serving.bench import ME, Bench

STRANGER = Caller(principal="x", project="other", scope="other", rights=frozenset(Right))
CLASSES = ("cat", "dog", "cow")
CHANCES = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]


class Farm(Bench):
    """A bench whose model tells animals apart."""

    def __init__(self) -> None:
        super().__init__()
        self.animals(b"animals")
        self.deploy()
        self.settle()

    def start(self, phase: str = "", number: int = 0) -> None:
        super().start(phase, number)
        answers = RequestAnswers(self.store, self.serving.find, self.serving.find_prediction)
        self.feedback = Feedback(self.store, self.clock, answers)

    def animals(self, weights: bytes, kind: ModelKind = ModelKind.CLASSIFICATION) -> None:
        labels = CLASSES if kind is ModelKind.CLASSIFICATION else ()
        self.register(weights=weights, kind=kind, labels=labels)

    def answer(self, rows=CHANCES, status: int = 200, revision: int = 0, tensor=None) -> str:
        """A replica answers; returns the prediction's id."""
        live = self.disk.read(lambda view: view.select(REPLICAS, {"ended_at": None}))
        replica = next(item for item in live if not revision or item.revision_number == revision)
        log = self.files.logs.setdefault(replica.id, b"")
        outputs = tensor or (
            [{"name": "y", "datatype": "FP32", "shape": [len(rows), 3], "data": list(chain(*rows))}] if rows else None
        )
        line = Prediction(
            prediction_id=name_prediction(replica.id, len(log)),
            at=self.clock.now(),
            revision=replica.revision_id,
            rows=len(rows) or 1,
            latency_us=5,
            status=status,
            outputs=msgspec.Raw(msgspec.json.encode(outputs)),
        )
        self.files.logs[replica.id] = log + msgspec.json.encode(line) + b"\n"
        return line.prediction_id

    def give(self, *labels: tuple[str, str, int], by: Caller = ME, name: str = "toy"):
        given = tuple(LabelGiven(prediction_id=one, label=label, row=row) for one, label, row in labels)
        ask = GiveFeedback(name=name, labels=given)
        self.feedback.look(ask, by)
        return self.store.write(lambda tx: self.feedback.give(tx, ask, by))

    def quality(self):
        return self.ask(GetQuality(name="toy"))


@pytest.fixture
def farm():
    return Farm()


def test_labels_count_by_row_and_the_same_again_changes_nothing(farm):
    made = farm.answer()
    report = farm.give((made, "cat", 0), (made, "cat", 1))
    assert (report.counted, report.refused) == (2, 0)
    again = farm.give((made, "cat", 0), (made, "0", 1))
    assert (again.counted, again.repeated) == (0, 2) and "were there already" in again.message
    (line,) = farm.quality().revisions
    first = farm.feedback.list(ListFeedback(name="toy", limit=1), ME)
    rest = farm.feedback.list(ListFeedback(name="toy", cursor=first.next_cursor), ME)
    assert [(one.id, one.actual, one.said) for one in (*first.items, *rest.items)] == [
        (f"{made}.0", "cat", "cat"),
        (f"{made}.1", "cat", "dog"),
    ]
    assert (line.number, line.labelled, line.accuracy) == (1, 2, 0.5)
    assert [(row.actual, row.said) for row in line.confusion] == [("cat", {"cat": 1, "dog": 1})]
    assert line.calibration_error == pytest.approx((0.3 + 0.8) / 2)
    assert line.accuracy_low < 0.5 < line.accuracy_high


def test_label_that_contradicts_takes_the_place_of_the_one_before(farm):
    made = farm.answer()
    farm.give((made, "cow", 0))
    report = farm.give((made, "cat", 0))
    assert (report.corrected, report.counted) == (1, 0) and "contradict" in report.message
    (line,) = farm.quality().revisions
    assert (line.labelled, line.accuracy) == (1, 1.0)
    (truth,) = farm.disk.read(lambda view: view.select(TRUTHS))
    assert (truth.actual, truth.said, truth.num_changes) == ("cat", "cat", 1)
    both = farm.give((made, "cow", 1), (made, "dog", 1))
    assert (both.counted, both.corrected) == (1, 1), "within one request too, the later one counts"
    assert farm.quality().revisions[0].accuracy == 1.0


def test_each_label_that_cannot_count_says_why_and_holds_up_no_other(farm):
    good, failed, large = farm.answer(), farm.answer(status=500), farm.answer(rows=())
    gone = farm.answer()
    replica = next(iter(farm.files.logs))
    other = name_prediction("rep_nobody", 4)
    report = farm.give(
        (good, "cat", 0), (good, "horse", 0), (good, "cat", 7), (failed, "cat", 0), (large, "cat", 0), (other, "cat", 0)
    )
    assert (report.counted, report.refused) == (1, 5)
    assert [one.outcome for one in report.refusals] == [
        LabelOutcome.UNFIT,
        LabelOutcome.UNFIT,
        LabelOutcome.UNJUDGED,
        LabelOutcome.UNJUDGED,
        LabelOutcome.UNKNOWN,
    ]
    assert "cat, dog, cow" in report.refusals[0].message and "no row 7" in report.refusals[1].message
    farm.files.trimmed[replica] = 10**9
    (refusal,) = farm.give((gone, "cat", 0)).refusals
    assert refusal.outcome is LabelOutcome.EXPIRED and "has expired" in refusal.message


def test_late_label_counts_at_the_time_of_the_answer_and_far_too_late_it_has_expired(farm):
    made, then = farm.answer(), farm.clock.now()
    farm.clock.advance(2 * 86_400)
    assert "more than a day late" in farm.give((made, "cat", 0)).message
    (bucket,) = farm.disk.read(lambda view: view.select(QUALITY))
    assert bucket.begins_at <= then < bucket.begins_at + 300
    farm.clock.advance(KEEP_S)
    assert farm.give((made, "dog", 1)).refusals[0].outcome is LabelOutcome.EXPIRED
    farm.feedback.trim()
    assert farm.disk.read(lambda view: (view.count(QUALITY), view.count(TRUTHS))) == (0, 1), "its label is still young"
    farm.clock.advance(KEEP_S)
    farm.feedback.trim()
    assert farm.disk.read(lambda view: view.count(TRUTHS)) == 0


def test_prediction_of_another_endpoint_or_project_is_unknown(farm):
    made = farm.answer()
    farm.deploy(name="second")
    report = farm.give((made, "cat", 0), name="second")
    assert report.refusals[0].outcome is LabelOutcome.UNKNOWN
    with pytest.raises(EndpointMissing):
        farm.give((made, "cat", 0), by=STRANGER)
    assert farm.disk.read(lambda view: view.count(TRUTHS)) == 0


def test_regression_has_errors_and_no_accuracy():
    bench = Farm()
    bench.animals(b"numbers", ModelKind.REGRESSION)
    bench.deploy()
    bench.settle(12)
    made = bench.answer(rows=[[2.5, 0.0, 0.0]], revision=2)
    assert bench.give((made, "3", 0)).counted == 1
    assert bench.give((made, "three", 0)).refusals[0].outcome is LabelOutcome.UNFIT
    (line,) = bench.quality().revisions
    assert (line.accuracy, line.mean_error, line.root_mean_square, line.confusion) == (None, 0.5, 0.5, ())


def test_canary_whose_answers_are_wrong_goes_back(farm):
    farm.animals(b"worse")
    farm.deploy(canary=CanaryPlan(steps=(50.0,), step_s=500.0, min_requests=1))
    farm.settle(15)
    for number, right in ((1, "cat"), (2, "dog")):
        for _ in range(40):
            farm.give((farm.answer(revision=number), right, 0))
    lines = {line.number: line for line in farm.ask(change.CompareRevisions(name="toy")).revisions}
    assert (lines[1].wrong, lines[2].wrong, lines[2].wrong_rate) == (0, 40, 1.0)
    (verdict,) = farm.ask(change.CompareRevisions(name="toy")).verdicts
    assert verdict.p_more_wrong < 0.01 and "More wrong answers come from revision 2" in verdict.message
    farm.settle(6)
    canary = farm.disk.read(lambda view: view.select(CANARIES, newest_first=True, limit=1))[0]
    assert canary.state is CanaryState.ROLLED_BACK and "40 of 40 rows with a label" in canary.message
    assert farm.status().endpoint.current == 1


def test_label_that_is_corrected_on_the_last_minute_of_its_time_is_taken_out_of_its_count(farm):
    farm.clock.advance(299 - farm.clock.now() % 300)
    made = farm.answer()
    farm.clock.advance(KEEP_S - 100)
    farm.give((made, "cat", 0), (made, "dog", 1))
    farm.clock.advance(99)
    farm.feedback.trim()
    assert farm.give((made, "cow", 0)).corrected == 1
    (bucket,) = farm.disk.read(lambda view: view.select(QUALITY))
    assert (bucket.count.labelled, bucket.count.right) == (2, 1)


@pytest.mark.parametrize(
    ("shape", "data"), [([2], [1, 2]), ([2], ["cat", "dog"]), ([2, 3], ["a", "b", "c", "d", "e", "f"])]
)
def test_answer_whose_first_output_is_no_scores_is_not_judged(farm, shape, data):
    tensor = [{"name": "y", "datatype": "X", "shape": shape, "data": data}]
    made = farm.answer(tensor=tensor)
    report = farm.give((made, "cat", 0))
    assert (report.counted, report.refusals[0].outcome) == (0, LabelOutcome.UNJUDGED)
