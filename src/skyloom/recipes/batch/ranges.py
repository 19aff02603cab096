"""What is done already, on disk: ranges of rows with their predictions. A range is there whole or not at all, and no row is in two.

A range's file is ``<first>-<after last>.arrow``; ``.rejects`` beside it keeps the rows that could not be predicted, and is written first.
Rows are counted in the order of the version's table, which never changes. Whoever dies loses what was not yet a file, and nothing else.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from skyloom.durable import disk_errors, make_folder, write_private

_NAME = re.compile(r"^(\d{12})-(\d{12})\.arrow$")


class LostRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row without a prediction."""

    row_id: int
    reason: str


class Range(msgspec.Struct, frozen=True, order=True):
    """Rows from ``start`` to before ``stop``."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def gaps(done: Sequence[Range], num_rows: int) -> list[Range]:
    """The ranges between those that are done, in order. ``done`` do not overlap."""
    found, place = [], 0
    for one in sorted(done):
        if one.start > place:
            found.append(Range(place, one.start))
        place = one.stop
    return [*found, Range(place, num_rows)] if place < num_rows else found


class KeptRanges:
    """The ranges of one job's rows, shared by its attempts. Thread-safe; one process at a time."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        make_folder(folder)
        for draft in folder.glob(".*"):  # of an attempt that died
            draft.unlink()
        self._folder = folder
        self._lock = threading.Lock()
        self._left = gaps(self.done(), num_rows)

    def done(self) -> list[Range]:
        """The ranges that are on disk, in order."""
        names = (_NAME.match(path.name) for path in self._folder.iterdir())
        return sorted(Range(int(name[1]), int(name[2])) for name in names if name)

    def claim(self, num_rows: int, parts: int = 1, least: int = 1) -> Range | None:
        """The next range to do, of at most so many rows; None when nothing is left. Nobody else gets it.

        Ranges become smaller towards the end, so that all workers end together: at most a ``parts``-th of what is left, in multiples
        of ``least``.
        """
        with self._lock:
            if not self._left:
                return None
            first, left = self._left[0], sum(map(len, self._left))
            wanted = min(num_rows, max(1, -(-left // parts // least)) * least)
            taken = Range(first.start, min(first.stop, first.start + max(1, wanted)))
            self._left[0] = Range(taken.stop, first.stop)
            if not len(self._left[0]):
                del self._left[0]
            return taken

    def keep(
        self, one: Range, schema: pa.Schema, batches: Sequence[pa.RecordBatch], rejects: Sequence[LostRow]
    ) -> None:
        """Put a range on disk. Raises `StorageFull`."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        path = self._path(one)
        with disk_errors(self._folder):
            if rejects:
                lines = b"".join(msgspec.json.encode(reject) + b"\n" for reject in rejects)
                write_private(path.with_suffix(".rejects"), lines)
            else:
                path.with_suffix(".rejects").unlink(missing_ok=True)
            write_private(path, sink.getvalue().to_pybytes())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All predictions, in the order of their rows."""
        for one in self.done():
            with pa.memory_map(str(self._path(one))) as file:
                reader = pa.ipc.open_file(file)
                for place in range(reader.num_record_batches):
                    yield reader.get_batch(place)

    def rejects(self) -> Iterator[LostRow]:
        """All rows without a prediction, in order."""
        for one in self.done():
            path = self._path(one).with_suffix(".rejects")
            if path.exists():
                yield from map(_read, path.read_bytes().splitlines())

    def _path(self, one: Range) -> Path:
        return self._folder / f"{one.start:012}-{one.stop:012}.arrow"


def _read(line: bytes) -> LostRow:
    return msgspec.json.decode(line, type=LostRow)
