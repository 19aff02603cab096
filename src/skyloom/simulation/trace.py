"""Reading traces: a CSV file with one job a row, exact about what is wrong and where.

Columns: ``job_id,submit_s,duration_s,num_gpus`` and, in any order and when wanted, ``tenant,priority,deadline_s,min_gpus,max_gpus,model``.
The public log of Microsoft's Philly clusters (columns ``timestamp,duration,num_gpus,gpu_time,cluster``) is read as it is.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.simulation.model import MAX_GPUS, MAX_JOBS, TraceJob

REQUIRED = ("job_id", "submit_s", "duration_s", "num_gpus")
OPTIONAL = ("tenant", "priority", "deadline_s", "min_gpus", "max_gpus", "model")
PHILLY = ("timestamp", "duration", "num_gpus", "gpu_time", "cluster")
_MAX_PRIORITY = 1_000
_MAX_SECONDS = 1e10
_MAX_TEXT = 200
_MAX_LINE = 100_000
_GZIP = b"\x1f\x8b"


class TraceMissing(NotFound):
    """There is no such file, or it cannot be opened."""


class TraceUnreadable(InvalidInput):
    """A file of rows says what cannot be: a column that is unknown, a number that is none."""


class Sheet:
    """The rows of one CSV file, with the place of each for messages."""

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        self.name = path.name
        self._rows = csv.reader(lines, strict=True)
        self.columns = next(self.rows(), ())

    def rows(self) -> Iterator[Sequence[str]]:
        """Rows that hold anything. Raises `TraceUnreadable`."""
        try:
            for row in self._rows:
                if row and not (len(row) == 1 and not row[0].strip()):
                    yield [cell.strip() for cell in row]
        except csv.Error as error:
            raise self.wrong(f"it is not CSV: {error}") from error

    @property
    def line(self) -> int:
        return self._rows.line_num

    def cells(self, row: Sequence[str]) -> Mapping[str, str]:
        """A row by the names of its columns. Raises `TraceUnreadable`."""
        if len(row) != len(self.columns):
            raise self.wrong(f"it has {len(row)} cells, and the header names {len(self.columns)} columns")
        return dict(zip(self.columns, row, strict=True))

    def check_columns(self, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Raise `TraceUnreadable` when the header lacks a column or has one that is not known."""
        allowed = f"Columns: {','.join(required)}" + (f"[,{','.join(optional)}]" if optional else "")
        if not self.columns:
            raise TraceUnreadable(f"{self.name} is empty.", next_action=f"{allowed}; the first line names them.")
        twice = [name for place, name in enumerate(self.columns) if name in self.columns[:place]]
        unknown = [name for name in self.columns if name not in required and name not in optional]
        missing = [name for name in required if name not in self.columns]
        for names, what in ((twice, "twice"), (unknown, "unknown"), (missing, "missing")):
            if names:
                word = "columns" if len(names) > 1 else "column"
                raise TraceUnreadable(
                    f"{self.name}, line {self.line}: {word} {', '.join(name[:40] or '(unnamed)' for name in names[:5])} {what}.",
                    next_action=f"{allowed}.",
                )

    def wrong(self, what: str, column: str = "") -> TraceUnreadable:
        """An error about the row that was read last."""
        where = f", column {column}" if column else ""
        return TraceUnreadable(
            f"{self.name}, line {self.line}{where}: {what}.", next_action="Correct that line, or leave it out."
        )

    def number(self, cells: Mapping[str, str], column: str, low: float = 0.0, high: float = _MAX_SECONDS) -> float:
        """A finite number between two bounds. Raises `TraceUnreadable`."""
        text = cells[column]
        try:
            value = float(text)
        except ValueError:
            raise self.wrong(f"{text[:40]!r} is not a number" if text else "it is empty", column) from None
        if not math.isfinite(value):
            raise self.wrong(f"{text[:40]!r} is not a finite number", column)
        if value < low:
            raise self.wrong(f"{text[:40]} is {'negative' if low == 0 else f'less than {low:g}'}", column)
        if value > high:
            raise self.wrong(f"{text[:40]} is more than {high:g}", column)
        return value

    def whole(self, cells: Mapping[str, str], column: str, low: int = 1, high: int = MAX_GPUS) -> int:
        """A whole number between two bounds. Raises `TraceUnreadable`."""
        value = self.number(cells, column, low, high)
        if value != int(value):
            raise self.wrong(f"{cells[column][:40]} is not a whole number", column)
        return int(value)

    def text(self, cells: Mapping[str, str], column: str) -> str:
        """A short text. Raises `TraceUnreadable`."""
        if len(cells[column]) > _MAX_TEXT:
            raise self.wrong(f"it is longer than {_MAX_TEXT} characters", column)
        return cells[column]


@contextmanager
def open_sheet(path: Path) -> Iterator[Sheet]:
    """Open a CSV file, gzipped or not. Raises `TraceMissing` and `TraceUnreadable`, also for what is read from it later."""
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP
            yield Sheet(path, _lines(path, gzip.GzipFile(fileobj=raw) if packed else raw))
    except (FileNotFoundError, NotADirectoryError):
        raise TraceMissing(f"There is no file {path}.", next_action="Check the path.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceUnreadable(f"{path.name} is damaged: {error}.", next_action="Fetch it again.") from error
    except OSError as error:
        raise TraceMissing(
            f"{path} cannot be read: {error.strerror or error}.", next_action="Check the file and its rights."
        ) from error


def read_trace(path: Path) -> tuple[TraceJob, ...]:
    """Read a trace, in the order of submission, with its first submission at the file's own time.

    Raises:
        TraceMissing: there is no such file.
        TraceUnreadable: it says what cannot be; the message names the line and the column.
    """
    with open_sheet(path) as sheet:
        if tuple(sheet.columns) == PHILLY:
            jobs = _philly(sheet)
        else:
            sheet.check_columns(REQUIRED, OPTIONAL)
            jobs = _jobs(sheet)
    if not jobs:
        raise TraceUnreadable(f"{path.name} has no jobs.", next_action="Give it at least one line below the header.")
    return tuple(sorted(jobs, key=lambda job: job.submit_s))


def _jobs(sheet: Sheet) -> list[TraceJob]:
    jobs: list[TraceJob] = []
    first_line: dict[str, int] = {}
    for row in sheet.rows():
        job = _job(sheet, sheet.cells(row))
        if job.job_id in first_line:
            raise sheet.wrong(f"{job.job_id!r} stands in line {first_line[job.job_id]} already", "job_id")
        first_line[job.job_id] = sheet.line
        jobs.append(_counted(sheet, job, len(jobs)))
    return jobs


def _job(sheet: Sheet, cells: Mapping[str, str]) -> TraceJob:
    if not cells["job_id"]:
        raise sheet.wrong("it is empty", "job_id")
    given: dict[str, Any] = {}
    for column, read in _READERS.items():
        if cells.get(column):
            given[column] = read(sheet, cells, column)
    job = TraceJob(
        job_id=sheet.text(cells, "job_id"),
        submit_s=sheet.number(cells, "submit_s"),
        duration_s=sheet.number(cells, "duration_s"),
        num_gpus=sheet.whole(cells, "num_gpus"),
        line=sheet.line,
        **given,
    )
    _check_sizes(sheet, job)
    if job.deadline_s is not None and job.deadline_s < job.submit_s:
        raise sheet.wrong(
            f"{job.deadline_s:g} is before the job is submitted ({job.submit_s:g}); "
            "a deadline is a moment on the clock of submit_s",
            "deadline_s",
        )
    return job


def _check_sizes(sheet: Sheet, job: TraceJob) -> None:
    if job.min_gpus > job.num_gpus:
        raise sheet.wrong(f"{job.min_gpus} is more than num_gpus, {job.num_gpus}", "min_gpus")
    if 0 < job.max_gpus < job.num_gpus:
        raise sheet.wrong(f"{job.max_gpus} is less than num_gpus, {job.num_gpus}", "max_gpus")


_READERS: Mapping[str, Callable[[Sheet, Mapping[str, str], str], Any]] = {
    "tenant": Sheet.text,
    "model": Sheet.text,
    "priority": lambda sheet, cells, column: sheet.whole(cells, column, -_MAX_PRIORITY, _MAX_PRIORITY),
    "deadline_s": Sheet.number,
    "min_gpus": Sheet.whole,
    "max_gpus": Sheet.whole,
}


def _philly(sheet: Sheet) -> list[TraceJob]:
    """The Philly log: local times instead of seconds, no names; a virtual cluster is a tenant."""
    found: list[tuple[datetime, TraceJob]] = []
    for row in sheet.rows():
        cells = sheet.cells(row)
        try:
            at = datetime.fromisoformat(cells["timestamp"]).replace(tzinfo=None)
        except ValueError:
            raise sheet.wrong(f"{cells['timestamp'][:40]!r} is not a time", "timestamp") from None
        job = TraceJob(
            job_id=f"philly-{len(found) + 1:06}",
            submit_s=0.0,
            duration_s=sheet.number(cells, "duration"),
            num_gpus=sheet.whole(cells, "num_gpus"),
            tenant=sheet.text(cells, "cluster"),
            line=sheet.line,
        )
        found.append((at, _counted(sheet, job, len(found))))
    began = min((at for at, _ in found), default=datetime.min)
    return [msgspec.structs.replace(job, submit_s=(at - began).total_seconds()) for at, job in found]


def _counted(sheet: Sheet, job: TraceJob, num_before: int) -> TraceJob:
    if num_before >= MAX_JOBS:
        raise sheet.wrong(f"a trace has at most {MAX_JOBS:,} jobs")
    return job


def _lines(path: Path, file: BufferedIOBase) -> Iterator[str]:
    """Lines as text; none of them may fill the memory."""
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise TraceUnreadable(
                f"{path.name}, line {number} is longer than {_MAX_LINE:,} bytes.",
                next_action="Give a CSV file with one job a line.",
            )
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise TraceUnreadable(
                f"{path.name}, line {number} is not UTF-8 text.", next_action="Give a CSV file in UTF-8."
            ) from None
