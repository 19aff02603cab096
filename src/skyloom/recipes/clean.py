"""A version is cleaned, step by step, into a new one. Runs inside a job; `clean` is the whole work as a function.

Each step reads one file and writes the next with Polars' streaming engine, so no step needs the data in memory; rows carry their stable
ids along. What was fitted (means, scales) is taken from the training split when there is one, and kept with the version.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa

from skyloom.ports.tables import ROW_ID, Tables, TableVersion
from skyloom.recipes import steps
from skyloom.recipes.ingest import commit, committed, summarise
from skyloom.recipes.spool import Spool
from skyloom.rooms.data import rules
from skyloom.rooms.data.contents import MAX_EXAMPLES, Contents, Example, Loss, Scaling, StepReport
from skyloom.rooms.data.making import SPLIT_COLUMN, TRAINING_PART, Clean, Step

_MAX_REASON = 400


def clean(
    making: Clean, tables: Tables, table: str, base: int, parent: Contents, key: str, folder: Path
) -> tuple[TableVersion, Contents]:
    """Apply the steps to version ``base`` and commit the outcome.

    Args:
        parent: what ``base`` holds.
        key: of the commit; a version that was made under it before is returned as it is.
        folder: for working files; may be lost.

    Raises `UnknownColumn`, `ImpossibleChange`, `NotFound`; then nothing is committed.
    """
    done = committed(tables, table, key)
    if done:
        return done
    rules.check(making, parent.columns)
    spool = unrolled(tables, table, base, folder)
    reports: list[StepReport] = []
    scalings: list[Scaling] = list(parent.scalings)
    for number, step in enumerate(making.steps, start=1):
        after, report, fitted = _applied(step, spool, folder / f"step.{number}.arrow")
        spool.remove()
        spool = after
        reports.append(report)
        scalings += fitted
    if not spool.num_rows:
        raise rules.ImpossibleChange(
            f"No row is left after {reports[-1].step}.",
            next_action="Clean less strictly; name the columns that matter.",
        )
    contents = msgspec.structs.replace(summarise(spool, reports), scalings=tuple(scalings))
    return commit(tables, table, key, base, spool, contents)


def unrolled(tables: Tables, table: str, base: int, folder: Path) -> Spool:
    """A version as a file, row ids included."""
    fields = list(tables.schema(table, base))
    schema = pa.schema([pa.field(ROW_ID, pa.int64(), nullable=False), *fields])
    rows = tables.scan(table, base, with_row_ids=True, batch_rows=16_384)
    return Spool.write(
        folder / "base.arrow",
        schema,
        (pa.RecordBatch.from_arrays(batch.select(schema.names).columns, schema=schema) for batch in rows),
    )


def _applied(step: Step, spool: Spool, path: Path) -> tuple[Spool, StepReport, Sequence[Scaling]]:
    """Run one step into a new file."""
    rows = spool.lazy()
    fit = rows.filter(pl.col(SPLIT_COLUMN) == TRAINING_PART) if SPLIT_COLUMN in spool.schema.names else rows
    plan = steps.plan(step, spool.schema, rows, fit)
    after = Spool.sink(path, plan.schema, plan.rows)
    before, left = spool.num_rows, after.num_rows
    losses = () if before == left else (_loss(plan.reason, rows, after, before - left),)
    report = StepReport(
        step=steps.name_of(step),
        rows_in=before,
        rows_out=left,
        losses=losses,
        num_changed={name: count for name, count in plan.num_changed.items() if count},
        notes=plan.notes,
    )
    return after, report, plan.scalings


def _loss(reason: str, rows: pl.LazyFrame, after: Spool, count: int) -> Loss:
    gone = rows.select(ROW_ID).join(after.lazy().select(ROW_ID), on=ROW_ID, how="anti").sort(ROW_ID).head(MAX_EXAMPLES)
    examples = tuple(Example(row_id=row) for row in gone.collect(engine="streaming")[ROW_ID])
    return Loss(reason=reason[:_MAX_REASON], num_rows=count, examples=examples)
