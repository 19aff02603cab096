"""Rows of one version become predictions in another table. `predict` is the whole work as a function; memory holds a shard a worker.

Workers claim ranges of rows, read each where it lies, and put its predictions on disk; the next rows are read meanwhile. The last step
makes one version of all, under the draft's id. Killed anywhere, the next try goes on with the ranges that are missing.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from skyloom.inference.model import Model, ModelFailed
from skyloom.inference.tensors import Array
from skyloom.ports.tables import ROW_ID, Tables, TableVersion
from skyloom.recipes.batch import stride as strides
from skyloom.recipes.batch.ahead import ahead
from skyloom.recipes.batch.inputs import RowReader
from skyloom.recipes.batch.outputs import AnswerWriter
from skyloom.recipes.batch.progress import BatchProgress
from skyloom.recipes.batch.ranges import KeptRanges, LostRow, Range
from skyloom.recipes.batch.stride import Load, Stride
from skyloom.recipes.ingest import Keep, commit, committed, summarise
from skyloom.recipes.spool import Spool
from skyloom.rooms.batch.model import NotPredictable
from skyloom.rooms.data.contents import MAX_EXAMPLES, Contents, Example, Loss, StepReport
from skyloom.rooms.data.making import SPLIT_COLUMN, Predict

_SHARD_S = 2.0
_SHARD_BYTES = 32 * 2**20
_MAX_SHARD_ROWS = 262_144
_READ_ROWS, _READ_BYTES = 8_192, 4 * 2**20  # larger batches cost new pages of memory, and leave the caches
_MEASURED_ROWS, _MEASURED_BYTES, _LEAST_MEASURED = 2_048, 8 * 2**20, 32
_AHEAD = 4  # batches that are read while the model works on one: the first of a range comes after a while
_FAILED = "the model failed on this row"


@dataclass(frozen=True)
class SourceRows:
    """The rows that are to be predicted: a version of a table, and the part of it."""

    tables: Tables
    table: str
    number: int
    split: str = ""

    @property
    def where(self) -> str | None:
        """The condition; the name of a part is letters, digits, dots and dashes (`making.PartName`)."""
        return f"{SPLIT_COLUMN} = '{self.split}'" if self.split else None

    def schema(self) -> pa.Schema:
        """Of all columns."""
        return self.tables.schema(self.table, self.number)

    def count(self) -> int:
        """How many rows there are."""
        columns = [SPLIT_COLUMN] if self.split else []
        found = self.tables.scan(self.table, self.number, columns=columns, where=self.where, batch_rows=65_536)
        return sum(batch.num_rows for batch in found)

    def read(self, columns: Sequence[str], one: Range, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a range with their ids, in batches of at most so many."""
        return self.tables.scan(
            self.table,
            self.number,
            columns=columns,
            where=self.where,
            with_row_ids=True,
            batch_rows=batch_rows,
            offset=one.start,
            limit=len(one),
        )


@dataclass(frozen=True)
class Work:
    """All that a worker needs. Shared; each worker has its own model."""

    source: SourceRows
    reader: RowReader
    writer: AnswerWriter
    kept: tuple[str, ...]
    pace: Stride
    shards: KeptRanges
    progress: BatchProgress
    shard_rows: int
    read_rows: int
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def least(self) -> int:
        """The smallest range that is worth a file."""
        return max(1, self.shard_rows // 8 // self.pace.batch) * self.pace.batch

    def run(self, model: Model) -> None:
        """Do ranges until none is left."""
        batches: list[pa.RecordBatch] = []
        rejects: list[LostRow] = []
        with contextlib.closing(ahead(self._batches(), _AHEAD)) as found:
            for one, batch in found:
                if batch is None:
                    self.shards.keep(one, self.writer.schema, batches, rejects)
                    batches, rejects = [], []
                    continue
                made, lost = self._predicted(model, batch)
                batches += made
                rejects += lost
                self.progress.add(batch.num_rows)

    def _batches(self) -> Iterator[tuple[Range, pa.RecordBatch | None]]:
        """One range after the other, each in whole batches of the model's size as far as the table gives them, and None behind it."""
        columns = list(dict.fromkeys((*self.reader.names, *self.kept)))
        while not self.stop.is_set() and (one := self.shards.claim(self.shard_rows, 2 * self.pace.workers, self.least)):
            for batch in self.source.read(columns, one, self.read_rows):
                yield one, batch
            yield one, None

    def _predicted(self, model: Model, batch: pa.RecordBatch) -> tuple[list[pa.RecordBatch], list[LostRow]]:
        ids = batch.column(ROW_ID).to_numpy()
        kept, tensors, reasons = self.reader.read(batch)
        if not kept.num_rows:
            return [], [LostRow(row_id=int(ids[place]), reason=why) for place, why in sorted(reasons.items())]
        answers, failed = self._answers(model, tensors)
        if failed:
            good = [place for place in range(batch.num_rows) if place not in reasons]
            reasons |= {good[place]: _FAILED for place in failed}
            kept = kept.take(pa.array(np.setdiff1d(np.arange(kept.num_rows), failed)))
        rejects = [LostRow(row_id=int(ids[place]), reason=why) for place, why in sorted(reasons.items())]
        if not kept.num_rows:
            return [], rejects
        return [self.writer.batch(kept.column(ROW_ID), [kept.column(name) for name in self.kept], answers)], rejects

    def _answers(self, model: Model, tensors: Sequence[Array]) -> tuple[list[Array], list[int]]:
        """What the model says of the rows, and the places of those that it fails on."""
        rows, size = len(tensors[0]), self.pace.batch
        parts: list[list[Array]] = []
        failed: list[int] = []
        for start in range(0, rows, size):
            _run(model, [tensor[start : start + size] for tensor in tensors], start, parts, failed)
        return [np.concatenate(some) for some in zip(*parts, strict=True)], failed


def _run(model: Model, tensors: Sequence[Array], start: int, parts: list[list[Array]], failed: list[int]) -> None:
    """Run rows together; when that fails, halves of them, so that one bad row costs only itself."""
    try:
        parts.append(list(model.run(tensors)))
    except ModelFailed:
        rows = len(tensors[0])
        if rows == 1:
            failed.append(start)
            return
        half = rows // 2
        _run(model, [tensor[:half] for tensor in tensors], start, parts, failed)
        _run(model, [tensor[half:] for tensor in tensors], start + half, parts, failed)


def predict(
    making: Predict,
    source: SourceRows,
    load: Load,
    bundle: Path,
    table: str,
    key: str,
    folder: Path,
    shared: Path,
    cpus: float,
    keep: Keep,
    say: Callable[[str], None],
) -> tuple[TableVersion, Contents]:
    """Predict all rows and commit them as a version of ``table``.

    Args:
        load: loads the verified model for so many threads.
        key: of the commit; a version that was made under it before is returned as it is.
        folder: for working files; may be lost. ``shared``: outlives an attempt, and is this job's alone.
        cpus: cores to use.
        keep: stores the file of rows without a prediction.

    Raises `NotPredictable` (no row is left), `BundleRefused`, `ModelFailed`, `StorageFull`; then nothing is committed.
    """
    done = committed(source.tables, table, key)
    if done:
        return done
    models = LoadedModels(load)
    model = models(1)
    schema = source.schema()
    reader = RowReader(model.manifest, making.columns, bundle)
    writer = AnswerWriter(model.manifest, [schema.field(name) for name in making.keep])
    total = source.count()
    if not total:
        raise NotPredictable("There is no row to predict.", next_action="Choose another version or part.")
    shards = KeptRanges(shared, total)
    ready = sum(map(len, shards.done()))
    note = f"all {total:,} rows were done by an earlier attempt"
    if ready < total:
        say(f"{ready:,} of {total:,} rows are done already" if ready else f"{total:,} rows to predict")
        read_bytes = _row_bytes(schema, (*reader.names, *making.keep))
        some = max(_LEAST_MEASURED, min(_MEASURED_ROWS, _MEASURED_BYTES // read_bytes))
        models.free()
        pace = _pace(models, source, reader, model, cpus, total - ready, some)
        models.free(pace.threads)
        say(f"{pace.workers} x {pace.threads} threads, {pace.batch} rows at once: about {pace.rows_per_s:,.0f} rows/s")
        progress = BatchProgress(total, ready, say)
        rows = _shard_rows(pace, read_bytes + _row_bytes(writer.schema, writer.schema.names))
        read_rows = max(1, min(_READ_ROWS, _READ_BYTES // read_bytes) // pace.batch) * pace.batch
        _all(Work(source, reader, writer, making.keep, pace, shards, progress, rows, read_rows), models)
        note = _note(progress, pace)
    return _committed(making, source, shards, writer.schema, table, key, folder, keep, total, note)


class LoadedModels:
    """Models for so many threads, loaded when none of them is free. Thread-safe."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._given: list[tuple[int, Model]] = []
        self._free: list[tuple[int, Model]] = []

    def __call__(self, threads: int) -> Model:
        """A model that nobody else has. Raises what loading raises."""
        with self._lock:
            found = next((one for one in self._free if one[0] == threads), None)
            if found is not None:
                self._free.remove(found)
        given = found or (threads, self._load(threads))
        with self._lock:
            self._given.append(given)
        return given[1]

    def free(self, threads: int = 0) -> None:
        """All that were given are free again; those for another number of threads are let go of, unless it is 0."""
        with self._lock:
            everything, self._given = [*self._free, *self._given], []
            self._free = [one for one in everything if threads in (0, one[0])]


def _pace(
    load: Load, source: SourceRows, reader: RowReader, model: Model, cpus: float, num_rows: int, some: int
) -> Stride:
    """Measure on the first ``some`` rows, those that can be predicted; on zeros when there are none among them."""
    first = Range(0, some)
    for batch in source.read(reader.names, first, len(first)):
        good, tensors, _ = reader.read(batch.slice(0, some))
        if good.num_rows:
            try:
                return strides.measure(load, tensors, cpus, num_rows)
            except ModelFailed:
                break  # a row among them; it will be found and told
    return strides.measure(load, model.example(64), cpus, num_rows)


def _row_bytes(schema: pa.Schema, names: Sequence[str]) -> int:
    """About what a row holds in memory."""
    found = 0
    for name in names:
        kind = schema.field(name).type
        found += kind.list_size * kind.value_type.bit_width // 8 if pa.types.is_fixed_size_list(kind) else 16
    return max(found, 1)


def _shard_rows(pace: Stride, row_bytes: int) -> int:
    """Rows of a shard: a few seconds of work, so that little is lost, and few megabytes; whole batches."""
    wanted = min(pace.rows_per_s / pace.workers * _SHARD_S, _SHARD_BYTES / row_bytes, _MAX_SHARD_ROWS)
    return max(1, int(wanted) // pace.batch) * pace.batch


def _all(work: Work, load: Load) -> None:
    """Run all workers to their end. Raises the first failure, once all have stopped."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work.run(load(work.pace.threads))
        except BaseException as error:
            failures.append(error)
            work.stop.set()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(work.pace.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _committed(
    making: Predict,
    source: SourceRows,
    shards: KeptRanges,
    schema: pa.Schema,
    table: str,
    key: str,
    folder: Path,
    keep: Keep,
    total: int,
    note: str,
) -> tuple[TableVersion, Contents]:
    losses, count, rejects = _lost(shards, folder / "rejects.jsonl")
    if count == total:
        raise NotPredictable(
            f"None of {total:,} rows could be predicted; row {losses[0].examples[0].row_id}: {losses[0].reason}.",
            next_action="Clean the rows, or say which columns the model takes: --column NAME=COLUMN.",
        )
    spool = Spool.write(folder / "predictions.arrow", schema, shards.batches())
    report = StepReport(
        step=f"predict {making.dataset}:{making.version} by {making.model}:{making.model_version}",
        rows_in=total,
        rows_out=total - count,
        losses=losses,
        notes=(note,),
    )
    contents = summarise(spool, (report,))
    if rejects is not None:
        contents = msgspec.structs.replace(contents, num_rejects=count, rejects=keep(rejects))
    return commit(source.tables, table, key, None, spool, contents)


def _lost(shards: KeptRanges, path: Path) -> tuple[tuple[Loss, ...], int, Path | None]:
    """Rows without a prediction, by reason with examples, as far as a report holds them; how many, and the file that names all."""
    counts: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}
    with path.open("wb") as file:
        for reject in shards.rejects():
            counts[reject.reason] = counts.get(reject.reason, 0) + 1
            if counts[reject.reason] <= MAX_EXAMPLES:
                examples.setdefault(reject.reason, []).append(Example(row_id=reject.row_id))
            file.write(msgspec.json.encode(reject) + b"\n")
    found = [
        Loss(reason=reason[:400], num_rows=count, examples=tuple(examples[reason])) for reason, count in counts.items()
    ]
    largest = sorted(found, key=lambda loss: -loss.num_rows)[:200]
    return tuple(largest), sum(counts.values()), path if counts else None


def _note(progress: BatchProgress, pace: Stride) -> str:
    threads = f"{pace.workers} x {pace.threads} threads, {pace.batch} rows at once"
    return f"{progress.new_rows:,} rows in {progress.duration_s:.1f} s: {progress.rows_per_s:,.0f} rows/s ({threads})"
