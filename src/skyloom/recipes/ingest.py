"""Source files become the first version of a dataset. Runs inside a job; `ingest` is the whole work as a function.

Rows travel through files in the working folder, in batches: memory holds a few megabytes of each file, whatever its size.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa

from skyloom.ports.tables import Tables, TableVersion
from skyloom.recipes.describing import describe
from skyloom.recipes.reading import parquet_rows, typing_columns
from skyloom.recipes.reading.csv_lines import LINE, CsvReader, check_dialect
from skyloom.recipes.reading.images import ImageReader
from skyloom.recipes.reading.json_lines import JsonReader
from skyloom.recipes.reading.source import Rejects, Source, UnreadableSource
from skyloom.recipes.spool import Spool
from skyloom.rooms.data.contents import Contents, StepReport
from skyloom.rooms.data.making import ColumnType, Format, Ingest
from skyloom.tables.rows import ContentDigest

_MAX_NOTES = 200
CONTENTS = "contents"  # table metadata: the JSON of `Contents`
Keep = Callable[[Path], str]  # stores a file as a blob and returns its digest


def ingest(
    making: Ingest, sources: Sequence[Source], tables: Tables, table: str, key: str, folder: Path, keep: Keep
) -> tuple[TableVersion, Contents]:
    """Read all sources into a new version of ``table``.

    Args:
        key: of the commit; a version that was made under it before is returned as it is.
        folder: for working files; may be lost.
        keep: stores the file of rejected rows.

    Raises `UnreadableSource` and its kin; then nothing is committed.
    """
    done = committed(tables, table, key)
    if done:
        return done
    rejects = Rejects(folder / "rejects.jsonl", making.max_bad_rows)
    spool, report = _READERS[making.format](making, list(sources), rejects, folder)
    contents = summarise(spool, (report,))
    if rejects.num_rows:
        contents = msgspec.structs.replace(contents, num_rejects=rejects.num_rows, rejects=keep(rejects.path))
    return commit(tables, table, key, None, spool, contents)


def committed(tables: Tables, table: str, key: str) -> tuple[TableVersion, Contents] | None:
    """What an earlier try committed under this key."""
    for version in tables.versions(table):
        if version.key == key:
            return version, msgspec.json.decode(version.metadata[CONTENTS], type=Contents)
    return None


def summarise(spool: Spool, reports: Sequence[StepReport]) -> Contents:
    """Describe the rows that are about to be committed."""
    digest, num_rows = ContentDigest(spool.schema), 0
    for batch in spool.batches():
        digest.add(batch)
        num_rows += batch.num_rows
    return Contents(num_rows=num_rows, columns=describe(spool), digest=digest.value(), reports=tuple(reports))


def commit(
    tables: Tables, table: str, key: str, base: int | None, spool: Spool, contents: Contents
) -> tuple[TableVersion, Contents]:
    """Write the rows as a new version. The facts about it commit with it, so no crash can part them."""
    metadata = {CONTENTS: msgspec.json.encode(contents).decode()}
    return tables.write(table, spool.reader(), base=base, key=key, metadata=metadata), contents


def _csv(making: Ingest, sources: list[Source], rejects: Rejects, folder: Path) -> tuple[Spool, StepReport]:
    check_dialect(making.delimiter, making.encoding)
    readers = [CsvReader(source, making.delimiter, making.encoding, rejects) for source in sources]
    names = readers[0].header()
    for reader in readers[1:]:
        _same_columns(sources[0], names, reader.source, reader.header())
    unknown = sorted(set(making.types) - set(names))
    if unknown:
        raise UnreadableSource(
            f"{sources[0].name} has no column {unknown[0]!r}, for which a type is given.",
            next_action=f"It has: {', '.join(names[:20])}.",
        )
    for name, kind in making.types.items():
        typing_columns.check_type(name, kind)
    parts = []
    for index, reader in enumerate(readers):
        schema = pa.schema([*((name, pa.large_string()) for name in names), (LINE, pa.int64())])
        parts.append(Spool.write(folder / f"text.{index}.arrow", schema, reader.batches(names)))
    guesses = typing_columns.guess((batch for part in parts for batch in part.batches()), names, making.null_tokens)
    kinds = {name: making.types.get(name, guesses[name].kind()) for name in names}
    typed = _typed(making, parts, sources, kinds, rejects)
    spool = Spool.write(folder / "rows.arrow", typing_columns.arrow_schema(kinds), typed)
    for part in parts:
        part.remove()
    notes = tuple(
        f"Column {name!r}: {one.mixed()}; it is kept as text. Clean it with a cast."
        for name, one in guesses.items()
        if name not in making.types and one.mixed()
    )
    return spool, _report(sum(reader.rows_read for reader in readers), spool, rejects, notes)


def _typed(
    making: Ingest, parts: list[Spool], sources: list[Source], kinds: dict[str, ColumnType], rejects: Rejects
) -> Iterator[pa.RecordBatch]:
    """Text becomes typed values; a value that a given type does not take rejects its row."""
    schema = typing_columns.arrow_schema(kinds)
    columns = [typing_columns.typed(name, kind, making.null_tokens) for name, kind in kinds.items()]
    for part, source in zip(parts, sources, strict=True):
        for batch in part.batches():
            text = pl.DataFrame(batch)
            rows = text.select(columns)
            good = pl.repeat(True, rows.height, eager=True)
            for name in making.types:
                if kinds[name] is ColumnType.TEXT:
                    continue
                missing = text.select(typing_columns.missing(name, making.null_tokens)).to_series()
                bad = rows[name].is_null() & ~missing & good
                for row in text.filter(bad).iter_rows(named=True):
                    line = row.pop(LINE)
                    rejects.add(source.name, line, f"{name!r} is no {kinds[name]}", making.delimiter.join(row.values()))
                good &= ~bad
            yield from rows.filter(good).to_arrow().cast(schema).to_batches()


def _parquet(making: Ingest, sources: list[Source], rejects: Rejects, folder: Path) -> tuple[Spool, StepReport]:
    schema = parquet_rows.schema(sources[0])
    for source in sources[1:]:
        _same_columns(sources[0], schema.names, source, parquet_rows.schema(source).names)
    rows = (batch for source in sources for batch in parquet_rows.batches(source, schema))
    spool = Spool.write(folder / "rows.arrow", schema, rows)
    return spool, _report(spool.num_rows, spool, rejects, ())


def _jsonl(making: Ingest, sources: list[Source], rejects: Rejects, folder: Path) -> tuple[Spool, StepReport]:
    reader = JsonReader(sources, rejects)
    schema = reader.schema()
    spool = Spool.write(folder / "rows.arrow", schema, reader.batches(schema))
    return spool, _report(reader.rows_read, spool, rejects, tuple(reader.notes))


def _images(making: Ingest, sources: list[Source], rejects: Rejects, folder: Path) -> tuple[Spool, StepReport]:
    reader = ImageReader(sources, making, rejects)
    schema = reader.schema()
    spool = Spool.write(folder / "rows.arrow", schema, reader.batches(schema))
    reader.finish()
    return spool, _report(reader.rows_read, spool, rejects, ())


_READERS = {Format.CSV: _csv, Format.PARQUET: _parquet, Format.JSONL: _jsonl, Format.IMAGES: _images}


def _report(rows_in: int, spool: Spool, rejects: Rejects, notes: tuple[str, ...]) -> StepReport:
    if not spool.num_rows:
        raise UnreadableSource(
            f"There is no row: {rows_in} were read and {rejects.num_rows} of them rejected"
            f"{', the first because of ' + rejects.losses()[0].reason if rejects.num_rows else ''}.",
            next_action="Give files with a header and rows; check delimiter, encoding and format.",
        )
    return StepReport(
        step="ingest", rows_in=rows_in, rows_out=spool.num_rows, losses=rejects.losses(), notes=notes[:_MAX_NOTES]
    )


def _same_columns(first: Source, names: Sequence[str], other: Source, others: Sequence[str]) -> None:
    if list(names) != list(others):
        differing = sorted(set(names) ^ set(others)) or list(others)
        raise UnreadableSource(
            f"{other.name} has other columns than {first.name}: {', '.join(map(repr, differing[:5]))}.",
            next_action="Give files with the same columns in the same order.",
        )
