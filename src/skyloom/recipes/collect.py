"""Samples of requests become the next version of a dataset. Runs inside a job; `collect` is the whole work as a function.

What is new is said by the draft, byte for byte (`making.Collect`), and lies in files that nobody changes any more; what was there is the
version before. Rows keep their ids. Memory holds a few thousand rows.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from skyloom.core.errors import InvalidInput, SkyloomError, rebuild
from skyloom.durable import disk_errors
from skyloom.ports.tables import ROW_ID, Tables, TableVersion
from skyloom.recipes.ingest import commit, committed, summarise
from skyloom.recipes.spool import Spool
from skyloom.rooms.data.contents import Contents, Loss, StepReport
from skyloom.rooms.data.making import Collect, SampleRange
from skyloom.rooms.data.model import Draft
from skyloom.rooms.serving.predictions import log_name, starts_of
from skyloom.rooms.serving.samples import CONFIDENCE, LABEL, PREDICTION, RowsNotKept, SampledRow, SampleLine
from skyloom.runtime.failure import FINAL, fail
from skyloom.sdk.client import Client
from skyloom.sdk.connect import connect
from skyloom.settings import TaskEnvironment
from skyloom.tables.lance import LanceTables

_BATCH_ROWS = 4_096
_EXACT_32, _EXACT_64 = 2**24, 2**53  # whole numbers up to these are floats exactly
_PAGE = 1_000  # labels asked for at a time
_AT = pa.timestamp("us", tz="UTC")
_OWN = pa.schema(
    [
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("at", _AT, nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field(PREDICTION, pa.string()),
        pa.field(CONFIDENCE, pa.float64()),
        pa.field(LABEL, pa.string()),
    ]
)
Labels = Mapping[tuple[str, int], str]
"""Prediction id and row → what was true of it."""
NO_LABELS: Labels = MappingProxyType({})
_UNREADABLE = "its line is torn"


class SamplesGone(InvalidInput):
    """Samples that are to be taken are not there."""


def collect(
    making: Collect,
    tables: Tables,
    table: str,
    base: int | None,
    key: str,
    samples: Path,
    folder: Path,
    labels: Labels = NO_LABELS,
) -> tuple[TableVersion, Contents]:
    """Put new samples behind the rows of version ``base`` and commit all of it.

    Args:
        labels: what was true of rows, old ones too, as far as somebody has said so.
        key: of the commit; a version that was made under it before is returned as it is.
        samples: folder of the segments.
        folder: for working files; may be lost.

    Raises `SamplesGone`, `StorageFull`; then nothing is committed.
    """
    done = committed(tables, table, key)
    if done:
        return done
    lost: dict[str, int] = {}
    kinds = _kinds(making, samples, lost)
    before = tables.schema(table, base) if base is not None else pa.schema([])
    schema = _schema(before, kinds)
    fresh = Spool.write(folder / "fresh.arrow", schema, _fresh(making, samples, schema, labels))
    num_fresh = fresh.num_rows
    room = max(0, making.max_rows - num_fresh)
    kept = Spool.write(
        folder / "rows.arrow", schema, _all(making, tables, table, base, schema, fresh, room, num_fresh, labels)
    )
    rows_in = num_fresh + sum(lost.values())
    losses = tuple(Loss(reason=reason[:400], num_rows=count) for reason, count in lost.items())
    report = StepReport(
        step=f"collect requests of {making.name}",
        rows_in=rows_in,
        rows_out=num_fresh,
        losses=losses,
        notes=(f"{kept.num_rows - num_fresh:,} rows of the version before are kept",) if base is not None else (),
    )
    return commit(tables, table, key, base, kept, summarise(kept, (report,)))


def lines_of(samples: Path, one: SampleRange) -> Iterator[bytes]:
    """The lines of a range, over all of its segments. Raises `SamplesGone`."""
    try:
        starts = starts_of(one.replica, [path.name for path in samples.iterdir()])
        place = one.start
        for start, end in zip(starts, [*starts[1:], one.stop], strict=True):
            end = min(end, one.stop)
            if start > place or end <= place:
                continue
            with (samples / log_name(one.replica, start)).open("rb") as file:
                file.seek(place - start)
                while place < end and (line := file.readline(end - place)):
                    place += len(line)
                    yield line
    except FileNotFoundError:
        place = -1
    if place != one.stop:
        raise SamplesGone(
            f"Samples of replica {one.replica} are gone from {samples}.",
            next_action="What is there still is taken with the next collection.",
        )


def _rows(
    making: Collect, samples: Path, lost: dict[str, int] | None = None
) -> Iterator[tuple[SampleRange, SampledRow]]:
    """All new rows. What is no row is counted, where somebody counts."""
    counted: dict[str, int] = {} if lost is None else lost
    decoder = msgspec.json.Decoder(SampleLine)
    for one in making.ranges:
        for line in lines_of(samples, one):
            if line == b"\n":
                continue
            try:
                read = decoder.decode(line)
            except msgspec.MsgspecError:
                counted[_UNREADABLE] = counted.get(_UNREADABLE, 0) + 1
                continue
            if isinstance(read, RowsNotKept):
                counted[read.reason] = counted.get(read.reason, 0) + read.count
            else:
                yield one, read


def _kinds(making: Collect, samples: Path, lost: dict[str, int]) -> dict[str, pa.DataType]:
    """Column → what holds all of its values."""
    found: dict[str, pa.DataType] = {}
    for _, row in _rows(making, samples, lost):
        for name, value in row.values.items():
            kind = _kind(value)
            if kind is not None:
                found[name] = _joined(found.get(name), kind)
            else:
                found.setdefault(name, pa.null())
    return {name: pa.float64() if pa.types.is_null(kind) else kind for name, kind in found.items()}


def _kind(value: Any) -> pa.DataType | None:
    """What holds a value as it is; a whole number that no float says exactly (an id, most likely) is held by a text."""
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int | float) or item is None for item in items):
        return pa.string()
    largest = max((abs(item) for item in items if isinstance(item, int)), default=0)
    if largest > _EXACT_64:
        return pa.string()
    if not isinstance(value, list):
        return pa.float64()
    return pa.list_(pa.float64() if largest > _EXACT_32 else pa.float32(), len(value))


def _joined(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """What holds values of both; texts hold anything, as JSON."""
    if one is None or pa.types.is_null(one) or _holds(other, one):
        return other
    return one if _holds(one, other) else pa.string()


def _holds(column: pa.DataType, kind: pa.DataType) -> bool:
    """A column takes values of a kind as they are."""
    if column.equals(kind) or pa.types.is_string(column):
        return True
    lists = pa.types.is_fixed_size_list(column) and pa.types.is_fixed_size_list(kind)
    return bool(lists and column.list_size == kind.list_size and pa.types.is_float64(column.value_type))


def _schema(before: pa.Schema, kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of the version before, as they were, then new ones. A column whose values are of another kind now gets a second one."""
    fields = {field.name: field for field in (before if len(before) else _OWN)}
    for name, kind in kinds.items():
        column = _column(name, kind, fields)
        fields.setdefault(column, pa.field(column, kind))
    return pa.schema([pa.field(ROW_ID, pa.int64()), *fields.values()])


def _column(name: str, kind: pa.DataType, fields: Mapping[str, pa.Field]) -> str:
    """Where values of a kind go."""
    number, column = 1, name
    while column in fields and not _holds(fields[column].type, kind):
        number += 1
        column = f"{name}__{number}"
    return column


def _fresh(making: Collect, samples: Path, schema: pa.Schema, labels: Labels) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    fields = {field.name: field for field in schema}
    for one, row in _rows(making, samples):
        if row.at < making.oldest_at:
            continue
        made: dict[str, Any] = {
            "prediction_id": row.prediction_id,
            "row": row.row,
            "at": datetime.fromtimestamp(row.at, UTC),
            "revision": one.revision,
            "model_version": one.model_version,
            PREDICTION: row.said or None,
            CONFIDENCE: row.confidence,
            LABEL: labels.get((row.prediction_id, row.row)),
        }
        for name, value in row.values.items():
            column = _column(name, _kind(value) or fields[name].type, fields)
            made[column] = _cell(value, fields[column].type)
        rows.append(made)
        if len(rows) == _BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _cell(value: Any, kind: pa.DataType) -> Any:
    if value is not None and pa.types.is_string(kind) and not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return value


def _all(
    making: Collect,
    tables: Tables,
    table: str,
    base: int | None,
    schema: pa.Schema,
    fresh: Spool,
    room: int,
    num_fresh: int,
    labels: Labels,
) -> Iterator[pa.RecordBatch]:
    """The rows of the version before that may stay, the newest of too many, and behind them the new ones."""
    if base is not None:
        oldest = pa.scalar(datetime.fromtimestamp(making.oldest_at, UTC), _AT)
        young = sum(_young(batch, oldest).num_rows for batch in tables.scan(table, base, columns=["at"]))
        skipped = max(0, young - room)
        for batch in tables.scan(table, base, with_row_ids=True, batch_rows=_BATCH_ROWS):
            left = _young(batch, oldest)
            gone = min(skipped, left.num_rows)
            skipped -= gone
            if left.num_rows > gone:
                yield _widened(_labelled(left.slice(gone), labels), schema)
    skipped = max(0, num_fresh - making.max_rows)
    for batch in fresh.batches():
        gone = min(skipped, batch.num_rows)
        skipped -= gone
        if batch.num_rows > gone:
            yield batch.slice(gone)


def _young(batch: pa.RecordBatch, oldest: pa.Scalar) -> pa.RecordBatch:
    return batch.filter(pc.greater_equal(batch.column("at"), oldest))


def _labelled(batch: pa.RecordBatch, labels: Labels) -> pa.RecordBatch:
    """The same rows with what was said of them since."""
    if not labels:
        return batch
    ids, rows, known = (batch.column(name).to_pylist() for name in ("prediction_id", "row", LABEL))
    fresh = [labels.get((one, row), before) for one, row, before in zip(ids, rows, known, strict=True)]
    place = batch.schema.get_field_index(LABEL)
    return batch.set_column(place, batch.schema.field(place), pa.array(fresh, pa.string()))


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The same rows in all the columns that there are now."""
    names = set(batch.schema.names)
    columns: Sequence[pa.Array] = [
        batch.column(field.name) if field.name in names else pa.nulls(batch.num_rows, field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(list(columns), schema=schema)


def _labels(cloud: Client, endpoint: str) -> Labels:
    """All labels of an endpoint's answers."""
    found: dict[tuple[str, int], str] = {}
    cursor: str | None = None
    while True:
        some = cloud.feedback.list(endpoint, _PAGE, cursor)
        for truth in some.items:
            prediction_id, _, row = truth.id.rpartition(".")
            found[prediction_id, int(row)] = truth.actual
        cursor = some.next_cursor
        if cursor is None:
            return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the version of ``--draft`` from ``--samples``; returns the exit code."""
    parser = argparse.ArgumentParser(description="Take samples of requests into a dataset.")
    parser.add_argument("--draft", required=True)
    parser.add_argument("--samples", required=True, type=Path)
    asked = parser.parse_args(arguments)
    try:
        with connect() as cloud:
            status = cloud.data.draft(asked.draft)
            if status.draft.error is not None:
                return fail(rebuild(status.draft.error))  # an earlier attempt has said it
            return _told(cloud, status.draft, LanceTables(TaskEnvironment.read().tables), asked.samples)
    except SkyloomError as error:
        return fail(error)


def _told(cloud: Client, draft: Draft, tables: Tables, samples: Path) -> int:
    making, folder = draft.making, Path.cwd()
    assert isinstance(making, Collect), "this program is begun for samples only"
    table = cloud.data.get(draft.dataset_id).table
    try:
        with disk_errors(folder):
            labels = _labels(cloud, making.endpoint)
            version, contents = collect(making, tables, table, draft.parent, draft.id, samples, folder, labels)
    except SkyloomError as error:
        if error.category in FINAL:
            cloud.data.fail(draft.id, error.body())
        return fail(error)
    cloud.data.commit(draft.id, version.number, contents)
    print(
        f"version {version.number}: {contents.num_rows:,} rows, {contents.reports[0].rows_out:,} of them new",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
