"""A version gets a column that says which part each row belongs to. Runs inside a job; `split` is the whole work as a function."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skyloom.ports.tables import ROW_ID, Tables, TableVersion
from skyloom.recipes.clean import unrolled
from skyloom.recipes.ingest import commit, committed, summarise
from skyloom.recipes.spool import Spool
from skyloom.rooms.data import rules
from skyloom.rooms.data.contents import Contents, StepReport
from skyloom.rooms.data.making import SPLIT_COLUMN, TRAINING_PART, Split

PARTS = (TRAINING_PART, "validation", "test")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def split(
    making: Split, tables: Tables, table: str, base: int, parent: Contents, key: str, folder: Path
) -> tuple[TableVersion, Contents]:
    """Divide version ``base`` and commit the outcome; a split that it had is replaced. Idempotent by ``key``.

    Raises `UnknownColumn`, `ImpossibleChange` (a part that was asked for would be empty); then nothing is committed.
    """
    done = committed(tables, table, key)
    if done:
        return done
    rules.check(making, parent.columns)
    before = unrolled(tables, table, base, folder)
    fields = [field for field in before.schema if field.name != SPLIT_COLUMN]
    schema = pa.schema([*fields, pa.field(SPLIT_COLUMN, pa.string(), nullable=False)])
    parts = _parts_of(making, before)
    _refuse_empty(making, parts)
    after = Spool.write(folder / "split.arrow", schema, _with_parts(before, schema, parts))
    rows = before.num_rows
    counts = {part: int((parts == index).sum()) for index, part in enumerate(PARTS)}
    note = ", ".join(f"{part} {count}" for part, count in counts.items() if count)
    report = StepReport(step="split", rows_in=rows, rows_out=rows, num_changed={SPLIT_COLUMN: rows}, notes=(note,))
    contents = msgspec.structs.replace(summarise(after, (report,)), scalings=parent.scalings)
    return commit(tables, table, key, base, after, contents)


def assign(making: Split, row_ids: npt.NDArray[np.int64], strata: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int8]:
    """The part of each row, as an index into `PARTS`. Depends on ids (and strata) only, not on the order of the rows.

    Without strata the hash alone decides, so a row keeps its part whatever other rows there are. With strata the rows of each are
    put in the order of their hash and cut in exact shares.
    """
    mixed = shuffle(row_ids, making.seed)
    cuts = np.array([making.train, making.train + making.validation])
    if strata is None:
        return np.searchsorted(cuts, mixed / 2.0**64, side="right").astype(np.int8).clip(max=_last(making))
    parts = np.zeros(row_ids.size, dtype=np.int8)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        order = members[np.lexsort((row_ids[members], mixed[members]))]
        places = np.rint(cuts * order.size + 1e-9).astype(np.int64)
        parts[order] = np.searchsorted(places, np.arange(order.size), side="right").clip(max=_last(making))
    return parts


def shuffle(row_ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """64 well-mixed bits for each id: SplitMix64 (Steele, Lea and Flood 2014), the same on every machine for ever."""
    with np.errstate(over="ignore"):
        state = row_ids.astype(np.uint64) + np.uint64(1) + _mix(np.array([seed], dtype=np.uint64) + _GOLDEN)
        return _mix(state * _GOLDEN)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


def _last(making: Split) -> int:
    """The last part with a share: rounding must give no row to a part that was not asked for."""
    return max(index for index, share in enumerate(_shares(making)) if share > 0)


def _shares(making: Split) -> tuple[float, float, float]:
    return making.train, making.validation, making.test


def _parts_of(making: Split, spool: Spool) -> npt.NDArray[np.int8]:
    ids = np.concatenate([batch.column(ROW_ID).to_numpy() for batch in spool.batches()])
    if making.stratify is None:
        return assign(making, ids, None)
    column = spool.lazy().select(making.stratify).collect(engine="streaming").to_series()
    if column.dtype.is_nested() or column.dtype.is_float():
        raise rules.ImpossibleChange(
            f"Column {making.stratify!r} cannot stratify: its values are no classes.",
            next_action="Choose a column of texts, whole numbers or truth values.",
        )
    return assign(making, ids, column.rank("dense").fill_null(0).cast(int).to_numpy().astype(np.int64))


def _refuse_empty(making: Split, parts: npt.NDArray[np.int8]) -> None:
    shares = dict(zip(PARTS, _shares(making), strict=True))
    empty = [part for index, part in enumerate(PARTS) if shares[part] > 0 and not (parts == index).any()]
    if empty:
        raise rules.ImpossibleChange(
            f"No row falls into {' and '.join(empty)}: {parts.size} rows are too few for these shares.",
            next_action="Give it a larger share or another seed, or add rows.",
        )


def _with_parts(spool: Spool, schema: pa.Schema, parts: npt.NDArray[np.int8]) -> Iterator[pa.RecordBatch]:
    names, start = pa.array(PARTS), 0
    for batch in spool.batches():
        column = names.take(pa.array(parts[start : start + batch.num_rows]))
        start += batch.num_rows
        columns = [batch.column(name) for name in schema.names[:-1]]
        yield pa.RecordBatch.from_arrays([*columns, column], schema=schema)
