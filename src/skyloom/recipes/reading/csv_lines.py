"""CSV files, line by line where they are broken and in bulk where they are not.

A broken row must not take its neighbours with it: a quote that is never closed would swallow the rest of the file, so a row over
several lines is believed only when it has the right number of fields; otherwise its first line is rejected and reading goes on behind it.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from skyloom.recipes.reading.source import Rejects, Source, SourceTooLarge, UnreadableSource, check_names

LINE = "__line"  # line number of the first line of each row
_BLOCK_BYTES = 16 * 2**20
_MAX_LINE_BYTES = 4 * 2**20
_MAX_LINES_OF_A_ROW = 100
_OPEN = "a quote is opened and never closed"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

csv.field_size_limit(_MAX_LINE_BYTES)


@dataclass
class CsvReader:
    """Reads one file as text columns plus `LINE`.

    Args:
        rejects: gets what cannot be read.
    """

    source: Source
    delimiter: str
    encoding: str
    rejects: Rejects
    rows_read: int = field(default=0, init=False)

    def header(self) -> list[str]:
        """Column names from the first line. Raises `UnreadableSource`."""
        line = next(self._recoded(), b"").partition(b"\n")[0]
        if not line.strip():
            raise UnreadableSource(
                f"{self.source.name} is empty or starts with an empty line.",
                next_action="Give a file with a header and rows.",
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._undecodable(error) from None
        if "\x00" in text:
            raise UnreadableSource(
                f"{self.source.name} is no text: there is a NUL byte in its first line.",
                next_action="Check the format, or the encoding.",
            )
        names = [name.strip() for name in _fields(text, self.delimiter)[0] or [""]]
        check_names(self.source.name, names)
        return names

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows behind the header, as text."""
        number, content, header_seen = 1, b"", False
        for chunk in self._recoded():
            content += chunk
            if not header_seen:
                content = content.partition(b"\n")[2]
                number, header_seen = 2, True
            cut = content.rfind(b"\n") + 1
            if cut == 0 and len(content) > _MAX_LINE_BYTES:
                raise SourceTooLarge(
                    f"Line {number} of {self.source.name} is longer than {_MAX_LINE_BYTES >> 20} MiB.",
                    next_action="Check the format: a CSV row should be much shorter.",
                )
            batches, used = self._parsed(content[:cut], number, names, final=False)
            yield from batches
            number += content[:used].count(b"\n")
            content = content[used:]
        yield from self._parsed(content, number, names, final=True)[0]

    def _parsed(
        self, content: bytes, first: int, names: Sequence[str], *, final: bool
    ) -> tuple[list[pa.RecordBatch], int]:
        """Parse whole lines; return the rows and how many bytes were used (a row may go on in the next block)."""
        if not content.strip():
            return [], len(content)
        if _is_clean(content):
            return self._bulk(content, names, range(first, first + 2**62)), len(content)
        rows = self._readable(content, first, len(names), final=final)
        return self._bulk(b"".join(rows.lines), names, rows.numbers, quoted=rows.over_lines), rows.used_bytes

    def _bulk(
        self, content: bytes, names: Sequence[str], numbers: Sequence[int], *, quoted: bool = False
    ) -> list[pa.RecordBatch]:
        """Parse rows whose quotes are in order; ``numbers`` are their line numbers."""
        ragged: dict[int, pc.InvalidRow] = {}

        def skip(row: pc.InvalidRow) -> str:
            ragged[row.number - 1] = row  # what is raised in here would be lost in pyarrow
            return "skip"

        if not content:
            return []
        table = pc.read_csv(
            io.BytesIO(content),
            read_options=pc.ReadOptions(column_names=list(names), use_threads=False, block_size=len(content) + 1),
            parse_options=pc.ParseOptions(
                delimiter=self.delimiter, invalid_row_handler=skip, newlines_in_values=quoted
            ),
            convert_options=pc.ConvertOptions(
                column_types={name: pa.large_string() for name in names},
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
        for index, row in ragged.items():
            reason = f"{row.actual_columns} field{'s' * (row.actual_columns != 1)} instead of {row.expected_columns}"
            self.rejects.add(self.source.name, numbers[index], reason, row.text)
        total = table.num_rows + len(ragged)
        self.rows_read += total
        lines = np.fromiter((numbers[index] for index in range(total) if index not in ragged), dtype=np.int64)
        batches: list[pa.RecordBatch] = table.append_column(LINE, pa.chunked_array([pa.array(lines)])).to_batches()
        return batches

    def _readable(self, content: bytes, first: int, width: int, *, final: bool) -> "_Rows":
        """Choose what can be parsed, and reject the other lines."""
        lines, rows, index = io.BytesIO(content).readlines(), _Rows(), 0
        while index < len(lines):
            line, number, count = lines[index], first + index, 1
            reason = _fault(line)
            if not reason and b'"' in line:
                row, reason = _fields(line.decode("utf-8"), self.delimiter)
                if reason == _OPEN:
                    row, count = _long_row(lines, index, width, self.delimiter)
                    if count == 0 and not final and index + _MAX_LINES_OF_A_ROW > len(lines):
                        break  # its end may be in the next block
                    count, reason = (count, "") if row else (1, _OPEN)
                if row:
                    line = _canonical(row, self.delimiter)
                    rows.over_lines |= count > 1
            if reason:
                self._reject(number, reason, line)
            elif line.strip():
                rows.lines.append(line if line.endswith(b"\n") else line + b"\n")
                rows.numbers.append(number)
            index += count
        rows.used_bytes = sum(map(len, lines[:index]))
        return rows

    def _reject(self, number: int, reason: str, line: bytes) -> None:
        self.rows_read += 1
        self.rejects.add(self.source.name, number, reason, line.rstrip(b"\r\n"))

    def _recoded(self) -> Iterator[bytes]:
        decoder = None
        if codecs.lookup(self.encoding).name != "utf-8":
            decoder = codecs.getincrementaldecoder(self.encoding)()
        with self.source.path.open("rb") as file:
            start = True
            while chunk := file.read(_BLOCK_BYTES):
                if start and decoder is None and chunk.startswith(_UTF16):
                    raise UnreadableSource(
                        f"{self.source.name} is UTF-16, not UTF-8.", next_action="Say so: encoding='utf-16'."
                    )
                chunk = chunk.removeprefix(codecs.BOM_UTF8) if start else chunk
                start = False
                try:
                    yield chunk if decoder is None else decoder.decode(chunk).encode()
                except UnicodeDecodeError as error:
                    raise self._undecodable(error) from None

    def _undecodable(self, error: UnicodeDecodeError) -> UnreadableSource:
        return UnreadableSource(
            f"{self.source.name} is not {self.encoding}: {error.reason} at byte {error.start}.",
            next_action="Name its encoding, for example encoding='cp1252'.",
        )


@dataclass
class _Rows:
    """Rows that can be parsed, as bytes, with the number of the first line of each."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    over_lines: bool = False
    used_bytes: int = 0


def check_dialect(delimiter: str, encoding: str) -> None:
    """Raise `UnreadableSource` unless fields can be parted by this delimiter and Python knows this encoding of text."""
    if not delimiter.isascii() or delimiter in '"\r\n\x00':
        raise UnreadableSource(
            f"{delimiter!r} cannot be a delimiter.", next_action="Use one ASCII character, for example ; or |."
        )
    try:
        "a".encode(encoding)
    except LookupError:
        raise UnreadableSource(
            f"There is no text encoding {encoding!r}.", next_action="Use for example utf-8 or cp1252."
        ) from None


def _long_row(lines: Sequence[bytes], start: int, width: int, delimiter: str) -> tuple[list[str] | None, int]:
    """Join lines up to the one that closes the quote; only a row of the right width counts. 0 lines: no end was found."""
    joined = lines[start]
    for count, line in enumerate(lines[start + 1 : start + _MAX_LINES_OF_A_ROW], start=2):
        if _fault(line):
            return None, 1
        joined += line
        if b'"' in line:
            row, reason = _fields(joined.decode("utf-8"), delimiter)
            if reason != _OPEN:
                return (row, count) if row is not None and len(row) == width else (None, 1)
    return None, 0


def _is_clean(content: bytes) -> bool:
    if b'"' in content or b"\x00" in content or b"\n\n" in content or b"\n\r\n" in content:
        return False
    if content[:1] in b"\r\n" or b"\r" in content.replace(b"\r\n", b""):
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _fault(line: bytes) -> str:
    if b"\x00" in line:
        return "a NUL byte"
    if b"\r" in line.rstrip(b"\r\n"):
        return "a carriage return inside of a line"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes that are not in the file's encoding"
    return ""


def _fields(text: str, delimiter: str) -> tuple[list[str] | None, str]:
    """The fields of one row, or why it has none."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), []), ""
    except csv.Error as error:
        return None, _OPEN if "end of data" in str(error) else "text behind a closing quote"


def _canonical(row: Sequence[str], delimiter: str) -> bytes:
    """A row in the one form that every reader of CSV understands alike."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(row)
    return out.getvalue().encode()
