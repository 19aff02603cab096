"""What readers share: a source file on this machine, the errors about it, and the rows that were rejected."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput, LimitExceeded
from skyloom.ports.tables import ROW_ID
from skyloom.rooms.data.contents import MAX_EXAMPLES, Example, Loss

_MAX_TEXT = 400
_MAX_NAME = 200
_MAX_SOURCE = 300
_MAX_COLUMNS = 10_000
_MAX_REASONS = 100
_MAX_KEPT_BYTES = 64 * 2**20


class UnreadableSource(InvalidInput):
    """A source file is not what it should be."""


class SourceTooLarge(LimitExceeded):
    """A source file is, or claims to be, larger than what can be read safely."""


class TooManyBadRows(InvalidInput):
    """More rows were rejected than ``max_bad_rows`` allows."""


def check_names(source: str, names: Sequence[str]) -> None:
    """Raise `UnreadableSource` unless every column has a name of its own that can be used everywhere."""
    empty = [str(index) for index, name in enumerate(names, start=1) if not name]
    if empty:
        raise UnreadableSource(
            f"Column {', '.join(empty)} of {source} has no name.", next_action="Give every column of the header a name."
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UnreadableSource(
            f"{source} has more than one column {', '.join(map(repr, twice[:5]))}.", next_action="Rename one of them."
        )
    odd = [name for name in names if not _is_usable(name)]
    if odd:
        raise UnreadableSource(
            f"{source} has a column that cannot be called {odd[0][:_MAX_NAME]!r}.",
            next_action=f"Give it a plain name of at most {_MAX_NAME} characters that does not start with '__'.",
        )
    if len(names) > _MAX_COLUMNS:
        raise SourceTooLarge(
            f"{source} has {len(names)} columns; at most {_MAX_COLUMNS} can be read.", next_action="Split it."
        )


def _is_usable(name: str) -> bool:
    # Polars takes "*" and "^…$" for patterns; names with two underscores and _rowid are our own.
    pattern = name == "*" or (name.startswith("^") and name.endswith("$"))
    return name.isprintable() and len(name) <= _MAX_NAME and not pattern and not name.startswith(("__", ROW_ID))


@dataclass(frozen=True)
class Source:
    """One file: ``name`` for people, ``path`` on this machine."""

    name: str
    path: Path


class Reject(msgspec.Struct, frozen=True, kw_only=True):
    """One source row that is not in the version, as one line of the rejects file."""

    source: str
    line: int | None
    reason: str
    text: str


@dataclass
class Rejects:
    """Counts what is rejected, keeps the first examples of each reason, and writes every raw row to ``path`` (JSON lines).

    Args:
        max_rows: raise `TooManyBadRows` beyond this; None never.
    """

    path: Path
    max_rows: int | None = None
    num_rows: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[Example]] = field(default_factory=dict)
    _kept_bytes: int = 0

    def add(self, source: str, line: int | None, reason: str, text: str | bytes) -> None:
        """Reject one row."""
        raw = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
        self.num_rows += 1
        if reason not in self._counts and len(self._counts) >= _MAX_REASONS:
            reason = "other reasons"
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(Example(source=source[:_MAX_SOURCE], line=line, text=raw[:_MAX_TEXT]))
        self._keep(msgspec.json.encode(Reject(source=source, line=line, reason=reason, text=raw)) + b"\n")
        if self.max_rows is not None and self.num_rows > self.max_rows:
            where = f"{source}, line {line}" if line else source
            raise TooManyBadRows(
                f"More than {self.max_rows} bad rows; the last one: {where}: {reason}.",
                next_action="Mend the file, or allow more with max_bad_rows.",
            )

    def losses(self) -> tuple[Loss, ...]:
        """What was rejected, by reason."""
        return tuple(
            Loss(reason=reason, num_rows=count, examples=tuple(self._examples[reason]))
            for reason, count in self._counts.items()
        )

    def _keep(self, line: bytes) -> None:
        if self._kept_bytes + len(line) > _MAX_KEPT_BYTES:
            raise SourceTooLarge(
                f"The rejected rows alone are more than {_MAX_KEPT_BYTES >> 20} MiB.",
                next_action="Check delimiter, encoding and format: this file is probably something else.",
            )
        self._kept_bytes += len(line)
        with self.path.open("ab") as file:
            file.write(line)
