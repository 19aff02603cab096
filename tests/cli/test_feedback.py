"""Labels as files have them, what is refused by its line, and the page that one looks at."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyloom.cli import feedback, quality_page, sampling_options
from skyloom.cli.feedback import LabelsUnreadable
from skyloom.cli.values import UnreadableOption
from skyloom.core.errors import InvalidInput
from skyloom.rooms.quality.model import ConfidenceBin, FeedbackReport, LabelGiven
from skyloom.rooms.serving.judging import ConfusionRow, QualityPoint, QualityReport, RevisionQuality
from skyloom.rooms.serving.samples import Pattern
from skyloom.sdk.feedback import summed

CSV = "prediction_id,label,row\npred_a_1,cat,\npred_a_2,3,2\n"
GIVEN = [LabelGiven(prediction_id="pred_a_1", label="cat"), LabelGiven(prediction_id="pred_a_2", label="3", row=2)]


def test_labels_are_read_from_csv_parquet_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbf" + CSV.encode())
    table = pa.table({"prediction_id": ["pred_a_1", "pred_a_2"], "label": ["cat", "3"], "row": [None, 2], "x": [1, 2]})
    pq.write_table(table, tmp_path / "l.parquet")
    monkeypatch.setattr("sys.stdin", io.StringIO(CSV))
    for name in (str(tmp_path / "l.csv"), str(tmp_path / "l.parquet"), "-"):
        assert list(feedback._from_file(name)) == GIVEN


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"prediction_id\npred_a_1\n", "Row 1 of .* has no label"),
        (b"prediction_id,label\npred_a_1,x\n,y\n", "Row 2 of .* has no prediction_id"),
        (b"prediction_id,label\nno id!,y\n", "Label 1 cannot be meant"),
        (b"prediction_id,label,row\npred_a_1,y,-1\n", "Label 1 cannot be meant"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_label_that_cannot_be_read_is_named_by_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(LabelsUnreadable, match=words):
        list(feedback._from_file(str(tmp_path / "l.csv")))


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.parquet").write_bytes(b"x")
    with pytest.raises(LabelsUnreadable):
        list(feedback._from_file(str(tmp_path / "l.parquet")))


def test_reports_of_parts_add_up() -> None:
    parts = [FeedbackReport(endpoint="shop", counted=3, refused=1), FeedbackReport(endpoint="shop", counted=2, late=1)]
    report = summed("shop", parts)
    assert (report.counted, report.refused, report.late) == (5, 1, 1) and "5 labels counted" in report.message


def test_page_shows_what_there_is_and_names_are_text_in_it(tmp_path: Path) -> None:
    line = RevisionQuality(
        number=1,
        version_label="1",
        labelled=4,
        accuracy=0.75,
        accuracy_low=0.2,
        accuracy_high=0.9,
        confusion=(ConfusionRow(actual="<b>cat", labelled=4, said={"<b>cat": 3, "dog": 1}),),
        calibration=(ConfidenceBin(), ConfidenceBin(labelled=4, right=3, confidence=3.2)),
        points=(QualityPoint(at=300.0, labelled=3, right=1.0), QualityPoint(at=600.0, labelled=1, right=0.0)),
    )
    errors = RevisionQuality(number=2, version_label="2", labelled=1, mean_error=0.5, points=())
    report = QualityReport(endpoint="ep", endpoint_name="shop", window_s=900.0, revisions=(line, errors))
    quality_page.write_page(report, tmp_path / "q.html")
    text = (tmp_path / "q.html").read_text()
    assert "Accuracy over time" in text and "&lt;b&gt;cat" in text and "<b>cat" not in text and "75%" in text
    empty = QualityReport(endpoint="ep", endpoint_name="shop", window_s=900.0, message="No labels.")
    assert "No labels." in quality_page.page(empty)
    with pytest.raises(InvalidInput):
        quality_page.check_page(tmp_path / "q.txt")


def test_words_of_sampling_are_read_and_refused() -> None:
    read = sampling_options.sampling(0.5, 0.6, ["dog=0.2"], ["a,b"], ["c"], ["t=email,link", "u"])
    assert (read.by_class, read.drop, read.hash) == ({"dog": 0.2}, ("a", "b"), ("c",))
    assert read.mask == {"t": (Pattern.EMAIL, Pattern.LINK), "u": tuple(Pattern)}
    for words in (
        {"of_class": ["dog"]},
        {"of_class": ["dog=2"]},
        {"mask": ["t=ssn"]},
    ):
        asked = {"of_class": None, "mask": None} | words
        with pytest.raises(UnreadableOption):
            sampling_options.sampling(0.5, None, asked["of_class"], None, None, asked["mask"])
    with pytest.raises(UnreadableOption):
        sampling_options.check_alone("x", True, False)
