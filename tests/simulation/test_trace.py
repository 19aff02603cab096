"""Reading traces: what is read, and that what cannot be is refused by line and column."""

import gzip
from pathlib import Path

import pytest

from skyloom.simulation.model import TraceJob
from skyloom.simulation.trace import TraceMissing, TraceUnreadable, read_trace

HEAD = "job_id,submit_s,duration_s,num_gpus"


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_trace_with_required_columns_is_read_in_order_of_submission(tmp_path: Path) -> None:
    jobs = read_trace(written(tmp_path, f"{HEAD}\nlate,5,1.5,2\nfirst,0,3,1\n\n"))
    assert [(job.job_id, job.submit_s, job.duration_s, job.num_gpus, job.line) for job in jobs] == [
        ("first", 0.0, 3.0, 1, 3),
        ("late", 5.0, 1.5, 2, 2),
    ]


def test_trace_with_every_column_in_another_order_is_read(tmp_path: Path) -> None:
    text = (
        "\ufeffmodel,max_gpus,min_gpus,deadline_s,priority,tenant,num_gpus,duration_s,submit_s,job_id\n"
        'bert,8,1,90,-3,"a, b",4,10,2,j1\n,,,,,,1,0,2,j2\n'
    )
    assert read_trace(written(tmp_path, text)) == (
        TraceJob(
            job_id="j1",
            submit_s=2.0,
            duration_s=10.0,
            num_gpus=4,
            tenant="a, b",
            priority=-3,
            deadline_s=90.0,
            min_gpus=1,
            max_gpus=8,
            model="bert",
            line=2,
        ),
        TraceJob(job_id="j2", submit_s=2.0, duration_s=0.0, num_gpus=1, line=3),
    )


def test_trace_that_is_packed_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(gzip.compress(f"{HEAD}\na,0,1,1\n".encode()))
    assert [job.job_id for job in read_trace(path)] == ["a"]


def test_philly_log_is_read_as_it_is(tmp_path: Path) -> None:
    text = (
        "timestamp,duration,num_gpus,gpu_time,cluster\n"
        "2017-10-09 07:01:55,66.0,1,66.0,11cb48\n2017-10-09 06:13:03,2951.0,4,11804.0,6214e9\n"
    )
    jobs = read_trace(written(tmp_path, text))
    assert [(job.job_id, job.submit_s, job.duration_s, job.num_gpus, job.tenant) for job in jobs] == [
        ("philly-000002", 0.0, 2951.0, 4, "6214e9"),
        ("philly-000001", 2932.0, 66.0, 1, "11cb48"),
    ]


@pytest.mark.parametrize(
    ("row", "where", "why"),
    [
        ("a,0,-3,1", "duration_s", "negative"),
        ("a,-1,3,1", "submit_s", "negative"),
        ("a,0,nan,1", "duration_s", "finite"),
        ("a,inf,3,1", "submit_s", "finite"),
        ("a,0,soon,1", "duration_s", "'soon' is not a number"),
        ("a,0,,1", "duration_s", "empty"),
        ("a,0,3,0", "num_gpus", "less than 1"),
        ("a,0,3,1.5", "num_gpus", "whole"),
        ("a,0,3,1e9", "num_gpus", "more than"),
        (",0,3,1", "job_id", "empty"),
        (f"{'x' * 300},0,3,1", "job_id", "longer"),
    ],
)
def test_trace_with_a_value_that_cannot_be_names_line_and_column(
    tmp_path: Path, row: str, where: str, why: str
) -> None:
    with pytest.raises(TraceUnreadable) as caught:
        read_trace(written(tmp_path, f"{HEAD}\nok,0,1,1\n{row}\n"))
    assert caught.value.message.startswith(f"trace.csv, line 3, column {where}: ")
    assert why in caught.value.message
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "row", "where", "why"),
    [
        ("deadline_s", "5", "deadline_s", "before the job is submitted"),
        ("min_gpus", "4", "min_gpus", "more than num_gpus"),
        ("max_gpus", "1", "max_gpus", "less than num_gpus"),
        ("min_gpus", "0", "min_gpus", "less than 1"),
        ("priority", "1.5", "priority", "whole"),
        ("priority", "5000", "priority", "more than"),
        ("deadline_s", "nan", "deadline_s", "finite"),
    ],
)
def test_trace_with_a_wish_that_cannot_be_names_line_and_column(
    tmp_path: Path, columns: str, row: str, where: str, why: str
) -> None:
    with pytest.raises(TraceUnreadable) as caught:
        read_trace(written(tmp_path, f"{HEAD},{columns}\na,10,3,2,{row}\n"))
    assert f"line 2, column {where}" in caught.value.message
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (f"{HEAD}\n", "no jobs"),
        (f"{HEAD},colour\na,0,1,1,red\n", "column colour unknown"),
        (f"{HEAD},num_gpus\na,0,1,1,1\n", "column num_gpus twice"),
        ("job_id,submit_s\na,0\n", "columns duration_s, num_gpus missing"),
        (f"{HEAD}\na,0,1,1\na,2,1,1\n", "'a' stands in line 2 already"),
        (f"{HEAD}\na,0,1\n", "it has 3 cells, and the header names 4 columns"),
        (f"{HEAD}\na,0,1,1,9\n", "it has 5 cells"),
        (f'{HEAD}\n"a,0,1,1\n', "not CSV"),
        ("x" * 200_000, "longer than"),
    ],
)
def test_trace_of_a_shape_that_cannot_be_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(TraceUnreadable, match=r".") as caught:
        read_trace(written(tmp_path, text))
    assert why in caught.value.message
    assert caught.value.next_action


def test_trace_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(f"{HEAD}\n\xff,0,1,1\n".encode("latin-1"))
    with pytest.raises(TraceUnreadable, match="line 2 is not UTF-8"):
        read_trace(path)


def test_trace_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    rows = "".join(f"{number},0,1,1\n" for number in range(1_000))
    path.write_bytes(gzip.compress(f"{HEAD}\n{rows}".encode())[:-200])
    with pytest.raises(TraceUnreadable, match="damaged"):
        read_trace(path)


def test_trace_whose_packing_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    packed = bytearray(
        gzip.compress(f"{HEAD}\n".encode() + b"".join(b"%d,0,1,1\n" % number for number in range(9_000)))
    )
    packed[100:110] = b"\xff" * 10
    path.write_bytes(packed)
    with pytest.raises(TraceUnreadable, match="damaged"):
        read_trace(path)


def test_trace_that_is_not_there_or_a_folder_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(TraceMissing):
            read_trace(path)
