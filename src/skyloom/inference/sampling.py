"""Keeping some requests whole: chosen, redacted, and only then written, beside the request log. No answer fails for it.

Lines lie in segments, named as those of the request log; the control plane takes them into a dataset (`rooms.sampling`) and removes them.
"""

import contextlib
import hashlib
import hmac
import os
import random
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from skyloom.durable import write_all
from skyloom.inference.batcher import Ticket
from skyloom.inference.elements import as_numbers
from skyloom.inference.journal import Journal
from skyloom.inference.tensors import Array
from skyloom.rooms.registry.bundle import Datatype, Manifest, ModelKind
from skyloom.rooms.serving.predictions import log_name, starts_of
from skyloom.rooms.serving.samples import Pattern, RowsNotKept, SampledRow, SamplingRule
from skyloom.rooms.serving.samples_columns import columns_of

SEGMENT_BYTES = 4 * 2**20
_MAX_RULE_BYTES = 2**20
_HASH_CHARACTERS = 24
# Each looks at a character a bounded number of times, so no text makes them slow: an address begins only where a word does.
_PATTERNS = {
    Pattern.EMAIL: re.compile(r"(?<![^\s@<>(),;:])[^\s@<>(),;:]++@[^\s@<>(),;:]+"),
    Pattern.NUMBER: re.compile(r"\+?\d(?:[\s./()\-\u2010-\u2015\u2212]{0,3}\d){6,30}"),
    Pattern.ADDRESS: re.compile(
        r"(?<!\d)\d{1,3}(?:\.\d{1,3}){3}"
        # Of version 6: three groups and more, or fewer and two colons; its end may be written as version 4.
        r"|(?<![0-9a-zA-Z:])(?:(?:[0-9a-fA-F]{1,4}:){3,7}:?|(?:[0-9a-fA-F]{1,4}:){1,2}:|::(?=[0-9a-fA-F]))"
        r"(?:[0-9a-fA-F]{1,4}:){0,6}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{1,4})?"
    ),
    Pattern.LINK: re.compile(r"(?:[a-z][a-z0-9+]{1,15}://|www\.)\S{1,2000}", re.IGNORECASE),
}
_MASK = "***"
_NO_ROOM = "there was no room for it until samples are collected"
_TOO_LARGE = "it is larger than max_row_bytes"
_NEW_COLUMNS = "the model has columns of which nobody has said what may be kept"
_NOT_WRITTEN = "the disk took no more"
Write = Callable[[Any], Any]


class Sampler:
    """Keeps some rows of one replica's requests. Lives on the event loop's thread.

    Args:
        rule_file: the `SamplingRule`; gone or unreadable, nothing is kept.
        folder: where segments go.
        dice: a number from 0 to 1.

    Attributes:
        redacts_outputs: something that the model answers may not be written as it is; so it stays while a rule cannot be read.
            Class and confidence are read off the first output: while that one is redacted, they choose rows and are not written.
    """

    def __init__(
        self, rule_file: Path, folder: Path, replica: str, manifest: Manifest, dice: Callable[[], float] = random.random
    ) -> None:
        self._rule_file, self._folder, self._replica = rule_file, folder, replica
        self._manifest = manifest
        self._columns = columns_of(manifest)
        self._dice = dice
        self._rule: SamplingRule | None = None
        self._seen: tuple[int, int, int] | None = None
        self._writers: dict[str, Write | None] = {}
        self._lost: dict[str, int] = {}
        self._encoder = msgspec.json.Encoder()
        self._file = -1
        self._start = self._size = 0
        self._torn = self._is_full = self.redacts_outputs = self._tells = False
        self._redacted: frozenset[str] = frozenset()
        self._spoken_of: frozenset[str] = frozenset()
        self.refresh()

    def redacts(self, outputs: Collection[str]) -> bool:
        """Whether answers of another model may not be written: one of its outputs is redacted by name, or some of this model's are and
        nobody has said anything of one of the other's."""
        return not self._redacted.isdisjoint(outputs) or (
            self.redacts_outputs and not self._spoken_of.issuperset(outputs)
        )

    def refresh(self) -> None:
        """Look at the rule again, and whether there is room. Called about once a second, never per request."""
        try:
            found = self._rule_file.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._seen, self._rule = seen, None
                if found.st_size <= _MAX_RULE_BYTES:
                    self._take(msgspec.json.decode(self._rule_file.read_bytes(), type=SamplingRule))
        except FileNotFoundError:
            self._rule, self._seen, self.redacts_outputs = None, None, False
            self._redacted = self._spoken_of = frozenset()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._rule = None
            print(f"the rule of sampling cannot be read, nothing is kept: {type(error).__name__}", file=sys.stderr)
        if self._rule is not None:
            self._is_full = self._kept_bytes() >= self._rule.max_bytes
            if self._is_full and self._size:
                self._next_segment()

    def take(self, tickets: Sequence[Ticket]) -> None:
        """Choose among answered rows and write what may be kept of them."""
        rule = self._rule
        if rule is None or not self._columns:
            return
        lines, now = bytearray(), time.time()
        for ticket in tickets:
            if ticket.outputs is not None and ticket.failure is None:
                lines += self._ticket(rule, ticket, now)
        rows = lines.count(b"\n")
        if self._lost and not self._is_full:
            lines += b"".join(
                self._encoder.encode(RowsNotKept(reason=reason, count=count)) + b"\n"
                for reason, count in self._lost.items()
            )
        if lines and not self._is_full:
            self._append(lines, rows)

    def close(self) -> None:
        """Put what was written on disk."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _take(self, rule: SamplingRule) -> None:
        self._rule, redaction, key = rule, rule.sampling, bytes.fromhex(rule.key)
        outputs = _outputs(self._manifest, self._columns)
        redacted = frozenset((*redaction.drop, *redaction.hash, *redaction.mask))
        self._redacted, self._spoken_of = redacted, frozenset(rule.columns)
        self.redacts_outputs = not redacted.isdisjoint(outputs)
        self._tells = not outputs or outputs[0] not in redacted
        unknown = [name for name in self._columns if name not in rule.columns]
        self._writers = dict.fromkeys(self._columns, _plain)
        for name in self._columns:
            if name in redaction.drop:
                self._writers[name] = None
            elif name in redaction.hash:
                self._writers[name] = _hasher(key)
            elif name in redaction.mask:
                self._writers[name] = _masker(redaction.mask[name])
        if unknown:
            print(f"no request is sampled: {_NEW_COLUMNS}: {', '.join(unknown[:5])}", file=sys.stderr)
            self._writers = {}

    def _ticket(self, rule: SamplingRule, ticket: Ticket, now: float) -> bytes:
        assert ticket.outputs is not None, "only answers are sampled"
        said, confidence = self._said(ticket.outputs)
        chosen = [
            row
            for row in range(ticket.call.rows)
            if self._is_chosen(rule, said[row] if said else "", confidence[row] if confidence else None)
        ]
        if not chosen:
            return b""
        if self._is_full or not self._writers:
            return self._lose(_NO_ROOM if self._writers else _NEW_COLUMNS, len(chosen))
        lines = bytearray()
        for row in chosen:
            if self._weighs(ticket, row) > rule.sampling.max_row_bytes:
                self._lose(_TOO_LARGE, 1)
                continue
            made = SampledRow(
                prediction_id=ticket.prediction_id,
                row=row,
                at=now,
                said=said[row] if said and self._tells else "",
                confidence=confidence[row] if confidence and self._tells else None,
                values=self._values(ticket.call.inputs, ticket.outputs, row),
            )
            line = self._encoder.encode(made)
            if len(line) > rule.sampling.max_row_bytes:
                self._lose(_TOO_LARGE, 1)
            else:
                lines += line + b"\n"
        return bytes(lines)

    def _is_chosen(self, rule: SamplingRule, said: str, confidence: float | None) -> bool:
        below = rule.sampling.uncertain_below
        if below is not None and confidence is not None and confidence < below:
            return True
        return self._dice() < rule.sampling.by_class.get(said, rule.sampling.share)

    def _said(self, outputs: Sequence[Array]) -> tuple[list[str], list[float]]:
        """Class and confidence of each row, of a classifier; empty for others."""
        first = self._manifest.signature.outputs[0]
        if self._manifest.kind is not ModelKind.CLASSIFICATION or outputs[0].ndim != 2 or not outputs[0].shape[1]:
            return [], []
        scores = as_numbers(first.datatype, outputs[0])
        labels, best = self._manifest.labels, scores.argmax(axis=1)
        said = [labels[place] if place < len(labels) else str(place) for place in best.tolist()]
        are_chances = bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-2))
        return said, scores.max(axis=1).astype(float).tolist() if are_chances else []

    def _weighs(self, ticket: Ticket, row: int) -> int:
        """At least so many bytes, before anything is made of the row: a large one is not turned into text to be thrown away."""
        tensors = (*ticket.call.inputs, *(ticket.outputs or ()))
        size = 0
        for tensor in tensors:
            cells = tensor[row]
            size += 2 * cells.size if tensor.dtype != object else sum(len(text) for text in cells.ravel().tolist())
        return size

    def _values(self, inputs: Sequence[Array], outputs: Sequence[Array], row: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        specs = (*self._manifest.signature.inputs, *self._manifest.signature.outputs)
        names = iter(self._columns)
        for spec, tensor in zip(specs, (*inputs, *outputs), strict=True):
            cells = tensor[row : row + 1]
            values: list[Any]
            if spec.datatype is Datatype.BYTES:
                values = [_text(value) for value in cells.ravel().tolist()]
            else:
                values = as_numbers(spec.datatype, cells).ravel().tolist()
            if spec is specs[0] and self._manifest.is_tabular:
                for value in values:
                    self._put(found, next(names), value)
            else:
                self._put(found, next(names), values[0] if len(values) == 1 else values)
        return found

    def _put(self, found: dict[str, Any], name: str, value: Any) -> None:
        writer = self._writers[name]
        if writer is not None:
            found[name] = writer(value)

    def _lose(self, reason: str, count: int) -> bytes:
        self._lost[reason] = self._lost.get(reason, 0) + count
        return b""

    def _append(self, lines: bytearray, rows: int) -> None:
        try:
            if self._file < 0 or self._size >= SEGMENT_BYTES:
                self._open()
            write_all(self._file, b"\n" + lines if self._torn else lines)
            self._size, self._torn = os.fstat(self._file).st_size, False
            self._lost.clear()
        except OSError:
            # Sampled rows are no reason to fail an answer: they are counted, and told when there is room again.
            if rows:
                self._lose(_NOT_WRITTEN, rows)
            self._torn = self._file >= 0

    def _next_segment(self) -> None:
        """Let go of the file that is full: the newest is never removed, and nothing would ever make room."""
        with contextlib.suppress(OSError):  # tried again in a second
            self._open()

    def _open(self) -> None:
        """Begin a segment behind the last one."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._file >= 0:
            os.close(self._file)
            self._file, self._start, self._size = -1, self._start + self._size, 0
        else:
            starts = starts_of(self._replica, os.listdir(self._folder))  # noqa: PTH208
            self._start = starts[-1] if starts else 0
        path = self._folder / log_name(self._replica, self._start)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        self._torn = self._size > 0  # whoever wrote there may have died in a line

    def _kept_bytes(self) -> int:
        """What of this replica nobody has collected yet."""
        total = 0
        try:
            with os.scandir(self._folder) as entries:
                total = sum(entry.stat().st_size for entry in entries if entry.name.startswith(f"{self._replica}."))
        except OSError:
            return 0
        return total


class SampledLog:
    """`PredictionLog` that lets a sampler see what was logged, and logs no answers that are to be redacted."""

    def __init__(self, log: Journal, sampler: Sampler) -> None:
        self._log, self._sampler = log, sampler
        self._trouble = ""

    @property
    def failed(self) -> bool:
        """The last write of the log did not succeed."""
        return self._log.failed

    def write(self, tickets: Sequence[Ticket]) -> None:
        self._log.keeps_outputs = not self._sampler.redacts_outputs
        self._log.write(tickets)
        try:
            self._sampler.take(tickets)
        except Exception as error:  # a defect of the sampling; the answer is there, and the queue must go on
            if self._trouble != (told := f"{type(error).__name__}: {error}"):
                print(f"requests are not sampled: {told}", file=sys.stderr)
                self._trouble = told

    def close(self) -> None:
        self._sampler.close()
        self._log.close()


class GuestLog:
    """`PredictionLog` of a guest: no row of its is sampled, and no answer of its is logged that a rule might mean to be redacted.

    Args:
        manifest: the guest's own, whose outputs the rule is held against.
    """

    def __init__(self, log: Journal, sampler: Sampler, manifest: Manifest) -> None:
        self._log, self._sampler = log, sampler
        self._outputs = _outputs(manifest, columns_of(manifest))

    @property
    def failed(self) -> bool:
        """The last write of the log did not succeed."""
        return self._log.failed

    def write(self, tickets: Sequence[Ticket]) -> None:
        self._log.keeps_outputs = not self._sampler.redacts(self._outputs)
        self._log.write(tickets)

    def close(self) -> None:
        self._log.close()


def _outputs(manifest: Manifest, columns: Sequence[str]) -> Sequence[str]:
    """The columns that a model answers; those before them go in."""
    return columns[len(columns) - len(manifest.signature.outputs) :]


def _plain(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")


def _hasher(key: bytes) -> Write:
    def hashed(value: Any) -> str:
        content = msgspec.json.encode(value)
        return hmac.new(key, content, hashlib.sha256).hexdigest()[:_HASH_CHARACTERS]

    return hashed


def _masker(patterns: Sequence[Pattern]) -> Write:
    found = [_PATTERNS[pattern] for pattern in patterns]

    def masked(value: Any) -> Any:
        if isinstance(value, list):
            return [masked(item) for item in value]
        if not isinstance(value, str):
            return _MASK  # a number in a column of texts to be masked: it is not looked into
        for pattern in found:
            value = pattern.sub(_MASK, value)
        return value

    return masked
