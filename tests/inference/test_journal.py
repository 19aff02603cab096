"""The request log and its ids."""

import errno
import json
import os
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.blobs.memory import MemoryBlobs
from skyloom.inference import journal as journals
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import encode_outputs
from skyloom.inference.journal import Journal, LogFile, RequestLogFull
from skyloom.inference.tensors import Call
from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.rooms.serving.predictions import (
    PredictionIdUnreadable,
    PredictionMissing,
    PredictionNames,
    locate,
    log_name,
    name_prediction,
)
from skyloom.stores.replica_files import LocalReplicaFiles
from tests.inference.serving import TOY_SIGNATURE, find_prediction


def ticket(rows: int, value: float = 1.0) -> Ticket:
    inputs = np.zeros((rows, 4), dtype=np.float32)
    made = Ticket(Call((inputs,), rows, (0,), ""), 0.0, lambda _: None)
    made.outputs = [np.full((rows, 3), value, dtype=np.float32)]
    return made


def open_journal(folder) -> Journal:
    return Journal(LogFile(folder, "rep_abc"), "rev_1", TOY_SIGNATURE)


@given(st.integers(0, 2**50))
def test_prediction_id_leads_to_its_replica_and_place(offset):
    assert locate(name_prediction("rep_01k9", offset)) == ("rep_01k9", offset)


@given(st.lists(st.integers(0, 2**40), max_size=5))
def test_names_made_one_after_the_other_are_those_made_alone(offsets):
    names = PredictionNames("rep_01k9")
    for offset in [*offsets, *(offset + 300 for offset in offsets)]:
        assert names.name(offset) == name_prediction("rep_01k9", offset)


@given(st.text(max_size=60))
def test_any_text_is_a_prediction_id_or_refused(text):
    try:
        replica, _ = locate(text)
    except PredictionIdUnreadable:
        return
    assert replica.removeprefix("rep_").isalnum()


@pytest.mark.parametrize(
    "text", ["pred_../../etc_1", "pred_A/B_1", "pred__1", "pred_a_", "pred_a_!", "pred_a_1_2", "run_a_1"]
)
def test_text_that_could_leave_the_folder_is_no_prediction_id(text):
    with pytest.raises(PredictionIdUnreadable):
        locate(text)


def test_every_written_prediction_is_found_again_across_reopening(tmp_path):
    written = {}
    for life in range(3):
        journal = open_journal(tmp_path)
        batch = [ticket(rows, rows + life) for rows in (1, 2, 500)]
        journal.write(batch)
        journal.log.close()
        written |= {item.prediction_id: item for item in batch}
    assert len(written) == 9
    for prediction_id, item in written.items():
        found = find_prediction(tmp_path, prediction_id)
        assert found.rows == item.call.rows
        outputs = json.loads(bytes(found.outputs))
        if item.call.rows < 500:
            assert np.ravel(outputs[0]["data"]).tolist() == item.outputs[0].ravel().tolist()
        else:
            assert outputs is None


def test_batch_of_one_model_run_is_logged_as_its_requests_alone_would_be(tmp_path):
    journal = open_journal(tmp_path)
    whole = np.arange(18, dtype=np.float32).reshape(6, 3) / 7
    batch, start = [ticket(rows) for rows in (1, 3, 2)], 0
    batch[1].call = batch[1].call._replace(client_id='one"\n')
    for item in batch:
        item.batch, item.start = [whole], start
        start += item.call.rows
    journal.write(batch)
    for item in batch:
        found = find_prediction(tmp_path, item.prediction_id)
        assert (found.rows, found.client_id, found.status) == (item.call.rows, item.call.client_id, 200)
        assert bytes(found.outputs) == encode_outputs(TOY_SIGNATURE.outputs, item.outputs) == item.logged_outputs
        assert np.ravel(json.loads(bytes(found.outputs))[0]["data"]).tolist() == item.outputs[0].ravel().tolist()
    journal.log.close()


def test_request_that_ends_after_the_log_was_closed_keeps_its_line_and_writes_into_nobodys_file(tmp_path):
    journal = open_journal(tmp_path)
    early = ticket(1)
    journal.write([early])
    journal.log.close()
    with (tmp_path / "another").open("w+b") as another:  # it gets the number that the log had
        late = [ticket(2), ticket(3)]
        for one in late:
            journal.write([one])
            assert one.failure is None
        assert another.read() == b""
    journal.log.close()
    assert [find_prediction(tmp_path, one.prediction_id).rows for one in (early, *late)] == [1, 2, 3]
    assert not journal.failed


def test_names_stay_apart_after_the_end_of_a_log_that_keeps_nothing():
    journal = Journal(LogFile(None, "rep_abc"), "rev_1", TOY_SIGNATURE)
    tickets = [ticket(1) for _ in range(3)]
    for one in tickets:
        journal.write([one])
        journal.log.close()
    assert len({one.prediction_id for one in tickets}) == 3


def test_kept_answers_that_are_given_again_in_one_go_are_each_whole(tmp_path):
    journal = open_journal(tmp_path)
    kept, other = ticket(2, 1.0), ticket(1, 5.0)
    again = [ticket(2), ticket(1), ticket(2)]
    for one, said in zip(again, (kept, other, kept), strict=True):
        one.outputs, one.cached_from = said.outputs, "before"
    journal.write(again)
    told = [msgspec.json.decode(one.logged_outputs)[0]["data"] for one in again]
    assert told == [[1.0] * 6, [5.0] * 3, [1.0] * 6]
    journal.log.close()
    found = [msgspec.json.decode(find_prediction(tmp_path, one.prediction_id).outputs)[0]["data"] for one in again]
    assert found == told


def test_line_torn_by_a_crash_does_not_damage_the_next_one(tmp_path):
    journal = open_journal(tmp_path)
    first = ticket(1)
    journal.write([first])
    journal.log.close()
    size = journal.log.path.stat().st_size
    os.truncate(journal.log.path, size - 7)
    journal = open_journal(tmp_path)
    second = ticket(2)
    journal.write([second])
    journal.log.close()
    assert find_prediction(tmp_path, second.prediction_id).rows == 2
    with pytest.raises(PredictionMissing):
        find_prediction(tmp_path, first.prediction_id)


def test_log_goes_on_in_a_new_file_and_every_id_still_leads_to_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1_000)
    journal = open_journal(tmp_path)
    batches = [[ticket(1 + number), ticket(2 + number)] for number in range(9)]
    for number, batch in enumerate(batches):
        journal.write(batch)
        if number == 4:  # dies, and its last line is torn
            journal.log.close()
            os.truncate(journal.log.path, journal.log.path.stat().st_size - 3)
            journal = open_journal(tmp_path)
    journal.log.close()
    assert len(list(tmp_path.iterdir())) > 2
    for number, (first, second) in enumerate(batches):
        assert find_prediction(tmp_path, first.prediction_id).rows == 1 + number
        if number != 4:
            assert find_prediction(tmp_path, second.prediction_id).rows == 2 + number


def test_old_segment_is_removed_and_the_ids_of_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1)
    files = LocalReplicaFiles(tmp_path, MemoryBlobs(), keep_s=3_600.0)
    journal = open_journal(tmp_path / "logs")
    tickets = [ticket(1 + number) for number in range(3)]
    for one in tickets:
        journal.write([one])
    journal.log.close()
    segments = sorted((tmp_path / "logs").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    assert files.trim_logs({"rep_abc"}) == 0
    for path in segments:
        os.utime(path, (1.0, 1.0))
    assert files.trim_logs({"rep_abc"}) == 3, "all but the newest, which is empty"
    assert files.read_log(*locate(tickets[0].prediction_id)) is None
    assert files.trim_logs(set()) == 1


def test_oldest_segments_make_room_for_the_newest(tmp_path):
    files = LocalReplicaFiles(tmp_path, MemoryBlobs(), keep_bytes=250)
    for number, start in enumerate((0, 100, 200, 300)):
        path = tmp_path / "logs" / log_name("rep_abc", start)
        path.write_bytes(bytes(100))
        os.utime(path, (time.time() - 1_000 + number,) * 2)
    assert files.trim_logs(()) == 2
    assert files.read_log("rep_abc", 150) is None and len(files.read_log("rep_abc", 250) or b"") == 50


def test_log_that_could_not_be_written_is_tried_again_without_a_request(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "write", full)
        journal.write([ticket(1)])
        journal.write(())
        assert journal.failed
    journal.write(())
    assert not journal.failed
    later = ticket(2)
    journal.write([later])
    journal.log.close()
    assert find_prediction(tmp_path, later.prediction_id).rows == 2


def test_full_disk_fails_the_batch_and_the_next_one_is_whole(tmp_path, monkeypatch):
    journal = open_journal(tmp_path)
    real = os.write

    def full(file, content):
        real(file, bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "write", full)
        lost = ticket(1)
        journal.write([lost])
    assert isinstance(lost.failure, RequestLogFull)
    assert lost.outputs is None
    assert journal.failed
    later = ticket(3)
    journal.write([later])
    assert not journal.failed
    assert find_prediction(tmp_path, later.prediction_id).rows == 3
    journal.log.close()


def test_log_is_private(tmp_path):
    journal = open_journal(tmp_path / "requests")
    journal.log.close()
    assert journal.log.path.stat().st_mode & 0o777 == 0o600
    assert journal.log.path.parent.stat().st_mode & 0o777 == 0o700


def test_unknown_prediction_is_missing(tmp_path):
    with pytest.raises(PredictionMissing):
        find_prediction(tmp_path, name_prediction("rep_abc", 5))


def test_outputs_asked_in_another_order_are_not_answered_as_they_were_logged(tmp_path):
    names = ("a", "b")
    specs = tuple(TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, 3)) for name in names)
    journal = Journal(LogFile(tmp_path, "rep_abc"), "rev_1", Signature(inputs=TOY_SIGNATURE.inputs, outputs=specs))
    for number, order in enumerate([(0, 1), (1, 0), (1,)]):
        item = ticket(1)
        item.call = item.call._replace(outputs=order)
        item.outputs = [np.full((1, 3), place, np.float32) for place in range(2)]
        journal.write([item])
        assert (item.logged_outputs is not None) == (number == 0)
    journal.log.close()
