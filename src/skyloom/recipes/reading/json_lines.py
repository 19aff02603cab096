"""JSON lines: one object for each line. Two passes: the first learns the columns, the second makes typed rows."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from skyloom.recipes.reading.source import Rejects, Source, SourceTooLarge, UnreadableSource, check_names

_MAX_LINE_BYTES = 16 * 2**20
_MAX_COLUMNS = 10_000
_BATCH_ROWS = 16_384
_INT64 = range(-(2**63), 2**63)
_KINDS: dict[frozenset[type], pa.DataType] = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
    frozenset({str}): pa.string(),
    frozenset(): pa.string(),
}


@dataclass
class JsonReader:
    """Reads some files as one table.

    Args:
        rejects: gets lines that are no JSON object.

    Attributes:
        notes: what a person should know, after `schema`.
    """

    sources: list[Source]
    rejects: Rejects
    rows_read: int = field(default=0, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    _mixed: set[str] = field(default_factory=set, init=False)

    def schema(self) -> pa.Schema:
        """Look at every line; the columns are the keys, in the order they come. Raises `UnreadableSource`."""
        kinds: dict[str, set[type]] = {}
        for source in self.sources:
            for number, row in self._objects(source, report=True):
                for name, value in row.items():
                    seen = kinds.setdefault(name, set())
                    if value is not None:
                        seen.add(_kind(source, number, name, value))
                if len(kinds) > _MAX_COLUMNS:
                    raise SourceTooLarge(
                        f"{source.name} has more than {_MAX_COLUMNS} different keys by line {number}.",
                        next_action="Turn keys that are data into values.",
                    )
        if not kinds:
            raise UnreadableSource(
                f"{self.sources[0].name} holds no row.", next_action="Give one JSON object for each line."
            )
        check_names(self.sources[0].name, list(kinds))
        return pa.schema([pa.field(name, self._arrow_type(name, seen)) for name, seen in kinds.items()])

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows, in order."""
        rows: list[dict[str, Any]] = []
        for source in self.sources:
            for _, row in self._objects(source, report=False):
                rows.append(row)
                if len(rows) == _BATCH_ROWS:
                    yield self._batch(rows, schema)
                    rows = []
        if rows:
            yield self._batch(rows, schema)

    def _batch(self, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
        columns = []
        for column in schema:
            values = [row.get(column.name) for row in rows]
            if column.name in self._mixed:
                values = [value if value is None or isinstance(value, str) else _as_json(value) for value in values]
            columns.append(pa.array(values, column.type))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _arrow_type(self, name: str, seen: set[type]) -> pa.DataType:
        kind = _KINDS.get(frozenset(seen))
        if kind is None:
            self._mixed.add(name)
            words = " and ".join(sorted(one.__name__ for one in seen))
            self.notes.append(f"Column {name!r} mixes {words}; it is kept as text. Clean it with a cast.")
            return pa.string()
        return kind

    def _objects(self, source: Source, *, report: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        decoder = msgspec.json.Decoder()
        for number, line in _lines(source):
            row, reason = _decoded(decoder, line)
            self.rows_read += report
            if row is not None:
                yield number, row
            elif report:
                self.rejects.add(source.name, number, reason, line.rstrip(b"\r\n"))


def _lines(source: Source) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers. Raises `SourceTooLarge`."""
    with source.path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise SourceTooLarge(
                    f"Line {number} of {source.name} is longer than {_MAX_LINE_BYTES >> 20} MiB.",
                    next_action="Check the format: JSON lines has one object for each line.",
                )
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield number, line


def _decoded(decoder: "msgspec.json.Decoder[Any]", line: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        row = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, "no JSON"
    return (row, "") if isinstance(row, dict) else (None, "JSON, but no object")


def _kind(source: Source, number: int, name: str, value: Any) -> type:
    if isinstance(value, dict | list):
        raise UnreadableSource(
            f"Line {number} of {source.name}: the value of {name!r} is nested.",
            next_action="Flatten it into plain keys, or leave it out.",
        )
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        return str  # more than 64 bits: kept as text, digit for digit
    return type(value)


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
