"""What is kept of requests: which rows, and that nothing that is redacted ever reaches the disk."""

import errno
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.blobs.memory import MemoryBlobs
from skyloom.inference import sampling as samplings
from skyloom.inference.batcher import Ticket
from skyloom.inference.journal import Journal, LogFile, RequestLogFull
from skyloom.inference.sampling import GuestLog, SampledLog, Sampler
from skyloom.inference.tensors import Call
from skyloom.rooms.registry.bundle import Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.rooms.serving.predictions import log_name, starts_of
from skyloom.rooms.serving.samples import Pattern, RequestSampling, RowsNotKept, SampledRow, SampleLine, SamplingRule
from skyloom.rooms.serving.samples_columns import columns_of
from skyloom.stores.replica_files import LocalReplicaFiles

TABULAR = Manifest(
    kind=ModelKind.CLASSIFICATION,
    signature=Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 2)),),
    ),
    columns=("age", "income", "row"),
    labels=("no", "yes"),
    files=(),
)
TEXTS = Manifest(
    kind=ModelKind.CLASSIFICATION,
    signature=Signature(
        inputs=(TensorSpec(name="text", datatype=Datatype.BYTES, shape=(-1, 1)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 2)),),
    ),
    files=(),
)


def tabular(rows, sure=0.9) -> Ticket:
    made = Ticket(Call((np.asarray(rows, np.float32),), len(rows), (0,), ""), 0.0, lambda _: None)
    made.outputs = [np.asarray([[1 - sure, sure]] * len(rows), np.float32)]
    made.prediction_id = "pred_a_1"
    return made


def text(words: str) -> Ticket:
    made = Ticket(Call((np.array([[words]], object),), 1, (0,), ""), 0.0, lambda _: None)
    made.outputs = [np.asarray([[0.5, 0.5]], np.float32)]
    return made


class Folder:
    """A rule, and what a sampler left under it."""

    def __init__(self, path, manifest=TABULAR, max_bytes=2**20, columns=None, **sampling) -> None:
        self.path, self.manifest = path, manifest
        self.rule = SamplingRule(
            sampling=RequestSampling(**{"share": 1.0, **sampling}),
            columns=columns_of(manifest) if columns is None else columns,
            key="00" * 32,
            max_bytes=max_bytes,
        )
        (path / "rule.json").write_bytes(msgspec.json.encode(self.rule))
        self.sampler = Sampler(path / "rule.json", path / "samples", "rep_a", manifest, random.Random(1).random)

    @property
    def content(self) -> bytes:
        starts = starts_of("rep_a", [path.name for path in (self.path / "samples").iterdir()])
        return b"".join((self.path / "samples" / log_name("rep_a", start)).read_bytes() for start in starts)

    def lines(self) -> list:
        return [msgspec.json.decode(line, type=SampleLine) for line in self.content.splitlines() if line]

    def rows(self) -> list[SampledRow]:
        return [line for line in self.lines() if isinstance(line, SampledRow)]


def test_row_is_kept_by_the_names_of_its_model_with_what_was_said(tmp_path):
    folder = Folder(tmp_path)
    folder.sampler.take([tabular([[30, 5, 1], [40, 6, 2]])])
    first, second = folder.rows()
    assert (first.prediction_id, first.row, second.row, second.said) == ("pred_a_1", 0, 1, "yes")
    assert first.confidence == pytest.approx(0.9)
    assert list(first.values) == ["age", "income", "row_input", "scores"]
    assert (first.values["age"], second.values["row_input"]) == (30.0, 2.0)
    assert (tmp_path / "samples").stat().st_mode & 0o777 == 0o700
    assert next((tmp_path / "samples").iterdir()).stat().st_mode & 0o777 == 0o600


def test_dropped_hashed_and_masked_columns_never_reach_the_disk(tmp_path):
    folder = Folder(tmp_path, drop=("age",), hash=("income",), mask={"scores": (Pattern.EMAIL,)})
    folder.sampler.take([tabular([[31337, 42424, 1], [2, 42424, 1], [2, 7, 1]])])
    assert b"31337" not in folder.content and b"42424" not in folder.content and b"age" not in folder.content
    first, second, third = folder.rows()
    assert first.values["income"] == second.values["income"] != third.values["income"]
    assert first.values["scores"] == ["***", "***"], "what is no text is not looked into"
    other = SamplingRule(sampling=folder.rule.sampling, columns=folder.rule.columns, key="11" * 32, max_bytes=2**20)
    (tmp_path / "rule.json").write_bytes(msgspec.json.encode(other) + b" ")
    folder.sampler.refresh()
    folder.sampler.take([tabular([[2, 42424, 1]])])
    assert folder.rows()[-1].values["income"] != first.values["income"], "another endpoint's key"


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ("write to jo.doe+x@mail.example.org now", "jo.doe"),
        ("call +49 (30) 1234-5678!", "1234"),
        ("card 4111 1111 1111 1111", "4111"),
        ("from 192.168.17.4 and fe80:1:2:3::1", "168"),
        ("see https://host/secret?token=abc", "secret"),
        ("See HTTP://host/secret", "secret"),
        ("or ftp://host/secret", "secret"),
        ("call 555\u2013123\u20134567", "4567"),
        ("call (555) - 123 - 4567", "4567"),
        ("host_10.1.2.3_a b", "10.1"),
        ("from 2001:db8::8a2e:370:7334", "7334"),
        ("from fe80::1%eth0", "fe80"),
        ("from ::ffff:10.1.2.3", "2.3"),
        ("from [2001:db8::1]:443", "db8"),
    ],
)
def test_patterns_are_crossed_out_and_the_rest_stays(tmp_path, words, gone):
    folder = Folder(tmp_path, TEXTS, mask={"text": tuple(Pattern)})
    folder.sampler.take([text(words)])
    (row,) = folder.rows()
    assert gone not in row.values["text"] and "***" in row.values["text"]
    assert row.values["text"].startswith(words.split("_")[0].split()[0])


@pytest.mark.parametrize(
    "words", ["at 12:30:45 or 7:05", "std::vector and a: b", "chapter 3.2.1, 99.5 %", "to be: or not"]
)
def test_what_is_no_address_stays(words):
    assert samplings._masker(tuple(Pattern))(words) == words


def test_class_of_an_answer_that_is_redacted_is_not_written_and_still_chooses(tmp_path):
    for number, more in enumerate(
        ({"drop": ("scores",)}, {"hash": ("scores",)}, {"mask": {"scores": (Pattern.LINK,)}})
    ):
        place = tmp_path / str(number)
        place.mkdir()
        folder = Folder(place, share=0.0, by_class={"yes": 1.0}, **more)
        folder.sampler.take([tabular([[1, 2, 3]]), tabular([[1, 2, 3]], sure=0.2)])
        (row,) = folder.rows()
        assert (row.said, row.confidence) == ("", None) and b"yes" not in folder.content


NAME = st.text("abc.+-_9ü", min_size=1, max_size=200)


@given(st.text(" 1:@/", max_size=100), NAME, NAME)
def test_nothing_of_an_address_is_left(before, name, host):
    masked = samplings._masker((Pattern.EMAIL,))(f"{before} {name}@{host}")
    assert masked.endswith("***") and f"{name}@" not in masked


@pytest.mark.parametrize("piece", ["a", "1", "a@", "1.", ":", "http://", "+1 "])
def test_long_texts_are_masked_in_no_time(piece):
    samplings._masker(tuple(Pattern))(piece * 100_000)  # a pattern that looks again and again would take minutes


def test_uncertain_rows_are_kept_always_and_classes_have_their_own_shares(tmp_path):
    folder = Folder(tmp_path, share=0.0, uncertain_below=0.7)
    folder.sampler.take([tabular([[1, 1, 1]], sure=0.9), tabular([[2, 2, 2]], sure=0.6)])
    assert [row.values["age"] for row in folder.rows()] == [2.0]
    (tmp_path / "b").mkdir()
    classes = Folder(tmp_path / "b", share=0.0, by_class={"yes": 1.0})
    classes.sampler.take([tabular([[1, 1, 1]], sure=0.9), tabular([[2, 2, 2]], sure=0.2)])
    assert [row.values["age"] for row in classes.rows()] == [1.0]


def test_share_is_kept_about(tmp_path):
    folder = Folder(tmp_path, share=0.3)
    for _ in range(10):
        folder.sampler.take([tabular(np.ones((100, 3)))])
    assert 240 < len(folder.rows()) < 360


def test_model_with_a_column_nobody_spoke_of_keeps_nothing_and_says_how_much(tmp_path):
    folder = Folder(tmp_path, columns=("age", "income", "scores"))
    folder.sampler.take([tabular([[1, 2, 3]])])
    (line,) = folder.lines()
    assert isinstance(line, RowsNotKept) and "nobody has said" in line.reason


def test_rule_that_goes_away_or_breaks_keeps_nothing(tmp_path):
    folder = Folder(tmp_path)
    (tmp_path / "rule.json").write_bytes(b"{")
    folder.sampler.refresh()
    folder.sampler.take([tabular([[1, 2, 3]])])
    (tmp_path / "rule.json").unlink()
    folder.sampler.refresh()
    folder.sampler.take([tabular([[1, 2, 3]])])
    assert not (tmp_path / "samples").exists()


def test_large_rows_and_full_folders_are_counted_and_told_when_there_is_room(tmp_path):
    folder = Folder(tmp_path, TEXTS, max_row_bytes=300, max_bytes=900)
    folder.sampler.take([text("x" * 5_000), text("short")])
    lost, kept = sorted(folder.lines(), key=lambda line: isinstance(line, SampledRow))
    assert (lost.count, kept.values["text"]) == (1, "short")
    for _ in range(8):
        folder.sampler.take([text("y" * 50)])
        folder.sampler.refresh()
    full = len(folder.rows())
    assert full < 9
    for path in (tmp_path / "samples").iterdir():
        path.write_bytes(b"")
    folder.sampler.refresh()
    folder.sampler.take([text("again")])
    told = [line for line in folder.lines() if isinstance(line, RowsNotKept)]
    assert sum(line.count for line in told) == 9 - full and "no room" in told[0].reason


def test_segments_follow_each_other_without_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(samplings, "SEGMENT_BYTES", 500)
    folder = Folder(tmp_path)
    for number in range(20):
        folder.sampler.take([tabular([[number, 0, 0]])])
    assert [row.values["age"] for row in folder.rows()] == list(map(float, range(20)))
    starts = starts_of("rep_a", [path.name for path in (tmp_path / "samples").iterdir()])
    assert len(starts) > 3
    sizes = [(tmp_path / "samples" / log_name("rep_a", start)).stat().st_size for start in starts]
    assert [start + size for start, size in zip(starts, sizes, strict=True)][:-1] == starts[1:]


def test_one_write_beyond_the_bound_does_not_end_the_sampling(tmp_path):
    files = LocalReplicaFiles(tmp_path / "files", MemoryBlobs())
    folder = Folder(tmp_path, max_bytes=2_000)
    folder.sampler = Sampler(
        tmp_path / "rule.json", Path(files.samples_folder("ep")), "rep_a", TABULAR, random.Random(1).random
    )
    folder.sampler.take([tabular(np.ones((50, 3)))])
    folder.sampler.refresh()
    folder.sampler.take([tabular([[7, 7, 7]])])
    taken = {"rep_a": files.samples("ep")["rep_a"][1]}
    files.remove_samples("ep", taken, live={"rep_a"})
    folder.sampler.refresh()
    folder.sampler.take([tabular([[8, 8, 8]])])
    start, end = files.samples("ep")["rep_a"]
    content = (Path(files.samples_folder("ep")) / log_name("rep_a", start)).read_bytes()
    assert start == taken["rep_a"] and end == start + len(content)
    assert b'"age":8.0' in content and b'"count":1' in content and b'"age":7.0' not in content


def test_answers_that_are_redacted_are_not_in_the_request_log_either(tmp_path):
    folder = Folder(tmp_path, drop=("scores",))
    log = SampledLog(Journal(LogFile(tmp_path / "logs", "rep_a"), "rev_1", TABULAR.signature), folder.sampler)
    (tmp_path / "rule.json").write_bytes(b"{")  # damaged: what was said before still holds
    folder.sampler.refresh()
    log.write([tabular([[1, 2, 3]], sure=0.8125)])
    (tmp_path / "rule.json").unlink()
    folder.sampler.refresh()
    log.write([tabular([[1, 2, 3]], sure=0.8125)])
    log.close()
    first, second = (tmp_path / "logs" / "rep_a.jsonl").read_bytes().splitlines()
    assert b"0.8125" not in first and b"0.8125" in second


@pytest.mark.parametrize(
    ("drop", "output", "is_kept"),
    [
        (("scores",), "scores", False),  # said of the guest's output by its name
        (("scores",), "logits", False),  # answers are redacted, and nobody has said anything of this one
        (("age",), "age_years", True),
        (("age",), "age", False),
        ((), "logits", True),
    ],
)
def test_answers_of_a_guest_are_logged_only_where_its_own_outputs_may_be(tmp_path, drop, output, is_kept):
    folder = Folder(tmp_path, drop=drop)
    spec = TensorSpec(name=output, datatype=Datatype.FP32, shape=(-1, 2))
    guest = msgspec.structs.replace(TABULAR, signature=Signature(inputs=TABULAR.signature.inputs, outputs=(spec,)))
    guest = msgspec.structs.replace(guest, columns=("a", "b", "c"))
    journal = Journal(LogFile(tmp_path / "logs", "rep_a"), "rev_1", guest.signature, "version_2")
    log = GuestLog(journal, folder.sampler, guest)
    log.write([tabular([[1, 2, 3]], sure=0.8125)])
    journal.log.close()
    assert (b"0.8125" in (tmp_path / "logs" / "rep_a.jsonl").read_bytes()) is is_kept
    assert not (tmp_path / "samples").exists()


def test_rows_that_a_full_disk_did_not_take_are_counted_once(tmp_path, monkeypatch):
    folder = Folder(tmp_path, share=0.0, by_class={"yes": 1.0})

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(samplings, "write_all", full)
        for sure in (0.9, 0.2, 0.2, 0.9):
            folder.sampler.take([tabular([[1, 2, 3]], sure=sure)])
    folder.sampler.take([tabular([[1, 2, 3]], sure=0.2)])
    assert [line.count for line in folder.lines()] == [2]


def test_failure_of_the_sampling_fails_no_answer(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    log = SampledLog(Journal(LogFile(None, "rep_a"), "rev_1", TABULAR.signature), folder.sampler)

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(samplings, "write_all", full)
        one = tabular([[1, 2, 3]])
        log.write([one])
    assert one.failure is None and one.outputs is not None
    failed = tabular([[4, 4, 4]])
    failed.failure, failed.outputs = RequestLogFull("no", next_action="no"), None
    log.write([failed, tabular([[5, 5, 5]])])
    log.close()
    assert [row.values["age"] for row in folder.rows()] == [5.0]
    assert sum(line.count for line in folder.lines() if isinstance(line, RowsNotKept)) == 1
