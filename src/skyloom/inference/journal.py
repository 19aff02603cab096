"""The request log: append-only files of JSON lines per replica, written before the answers go out.

One write per batch. The line's place in the log is part of the prediction id
(`rooms.serving.predictions`), so that a reader needs no index. A new file begins after 32 MiB or a day; places go on.
"""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from skyloom.core.errors import StorageFull
from skyloom.durable import write_all
from skyloom.inference.batcher import Ticket
from skyloom.inference.codec import encode_outputs
from skyloom.inference.phrases import OutputPhrases
from skyloom.rooms.registry.bundle import Signature
from skyloom.rooms.serving.predictions import (
    MAX_OUTPUT_BYTES,
    Prediction,
    PredictionNames,
    log_name,
    starts_of,
)

# No number of an output is shorter than two characters, comma included: more elements than this cannot fit.
_MAX_OUTPUT_ELEMENTS = MAX_OUTPUT_BYTES // 2
SEGMENT_BYTES = 32 * 2**20
SEGMENT_S = 86_400.0
# What a disk that was full must take before requests come again: more than what is left of a block.
_TRIAL = b" " * 8_191 + b"\n"


class RequestLogFull(StorageFull):
    """The request log cannot be written, so nothing is answered: a prediction that leaves no trace is none."""


class PredictionLog(Protocol):
    """Where a data plane writes down what it predicted, before it answers. Lives on the event loop's thread."""

    @property
    def failed(self) -> bool:
        """The last write did not succeed, so that nothing is answered."""
        ...

    def write(self, tickets: Sequence[Ticket]) -> None:
        """Give each ticket its prediction id and keep its record; on failure every ticket fails with `RequestLogFull`.

        Without tickets it finds out whether it can write again, and says so in `failed`.
        """
        ...

    def close(self) -> None:
        """Put everything on disk and let go."""
        ...


class LogFile:
    """The log that all models of one replica write to, one file after the other. Lives on the event loop's thread.

    Without a folder it keeps nothing: predictions have ids, and nobody can look them up.

    Attributes:
        path: of the file that is written now.
        offset: where in the log the next line begins; ``names`` makes prediction ids of such places.
        torn: a crash, or a full disk, has torn the last line; the next one must start on its own.
        failed: the last write did not succeed.
    """

    def __init__(self, folder: Path | None, replica: str) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._replica, self.failed = folder, replica, False
        self._file = -1
        self.offset = self._start = 0
        self.names = PredictionNames(replica)
        starts = starts_of(replica, os.listdir(folder)) if folder is not None else []  # noqa: PTH208
        self._open(starts[-1] if starts else 0)

    def append(self, lines: bytes | bytearray) -> None:
        """Write whole lines. Raises OSError; then the next ones begin where the file ends.

        Lines that come after `close`, of requests that end while the process does, are on disk when this returns.
        """
        if self._file < 0:
            self._append_late(lines)
            return
        try:
            write_all(self._file, lines)
        except OSError:
            self.failed = True
            self._recover()
            raise
        self.offset += len(lines)
        self.failed = self.torn = False
        now = time.time()
        if self.offset - self._start >= SEGMENT_BYTES or now - self._opened_at >= SEGMENT_S:
            self._rotate(now)

    def close(self) -> None:
        """Flush to disk and let go of the file. Safe to repeat, and what is appended later is kept too."""
        file, self._file = self._file, -1  # its number may be another file's as soon as it is closed
        if file >= 0:
            _let_go(file, self._folder is not None)

    def _append_late(self, lines: bytes | bytearray) -> None:
        offset = self.offset
        try:
            self._open(self._start)
            self.offset = max(offset, self.offset)  # where nothing is kept, no file knows how far the names went
            self.append(lines)
        except OSError:
            self.failed = True
            raise
        finally:
            self.close()

    def _open(self, start: int) -> None:
        """Go on with the segment that begins at ``start``."""
        path = self._folder / log_name(self._replica, start) if self._folder is not None else Path(os.devnull)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.path, self._start, self._opened_at = path, start, time.time()
        self._recover()

    def _rotate(self, now: float) -> None:
        """Begin the next segment; where that fails, this one goes on for another while."""
        before, self._opened_at = self._file, now
        if self._folder is None or self.offset == self._start:
            return
        with contextlib.suppress(OSError):
            self._open(self.offset)
            # Syncing many megabytes takes a while, and this is the event loop's thread.
            threading.Thread(target=_let_go, args=(before, True), daemon=True).start()

    def _recover(self) -> None:
        """Look where the file ends."""
        size = os.fstat(self._file).st_size
        self.offset = self._start + size
        # A crash or a full disk may have torn the last line; the next one must start on its own.
        self.torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"


def _let_go(file: int, sync: bool) -> None:
    try:
        if sync:
            os.fsync(file)
    finally:
        os.close(file)


class Journal:
    """Writes down what one model of a replica predicted. Lives on the event loop's thread.

    Args:
        version: id of the registered version, where it is not that of the revision.

    Attributes:
        keeps_outputs: False while somebody wants an output redacted, so that no answer is kept here.
    """

    def __init__(self, log: LogFile, revision: str, signature: Signature, version: str = "") -> None:
        self.log = log
        self._version = version
        self._revision = revision
        self._outputs = signature.outputs
        self._all_outputs = tuple(range(len(signature.outputs)))
        self._phrases = OutputPhrases(signature.outputs)
        self._encoder = msgspec.json.Encoder()
        self.keeps_outputs = True

    @property
    def failed(self) -> bool:
        """The last write did not succeed, so that nothing is answered."""
        return self.log.failed

    def write(self, tickets: Sequence[Ticket]) -> None:
        """Name each ticket's prediction and append its line; on failure every ticket fails with `RequestLogFull`."""
        log = self.log
        lines = bytearray(b"\n" if log.torn else b"" if tickets else _TRIAL)
        now, clock = time.time(), time.perf_counter()
        told = self._told(tickets) if tickets else ()
        if not self.keeps_outputs:
            told = [b"null"] * len(tickets)
        middle = b'","at":%b,"revision":"%b","rows":' % (repr(now).encode(), self._revision.encode())
        for ticket, outputs in zip(tickets, told, strict=True):
            name = ticket.prediction_id = log.names.name(log.offset + len(lines))
            is_usual = ticket.failure is None and not ticket.call.client_id and not ticket.cached_from
            if is_usual and not self._version and len(outputs) <= MAX_OUTPUT_BYTES:
                latency_us = int((clock - ticket.arrived_at) * 1e6)
                line = (name.encode(), middle, ticket.call.rows, latency_us, outputs)
                lines += b'{"prediction_id":"%b%b%d,"latency_us":%d,"outputs":%b}\n' % line
            else:
                lines += self._line(ticket, now, clock, outputs)
        try:
            log.append(lines)
        except OSError as error:
            failure = RequestLogFull(
                "The request log cannot be written.",
                next_action="Ask the operator to free disk space; then send again.",
            )
            failure.__cause__ = error
            for ticket in tickets:
                ticket.failure, ticket.outputs = failure, None

    def close(self) -> None:
        """Nothing: the log is that of all models of the replica."""

    def _told(self, tickets: Sequence[Ticket]) -> Sequence[bytes]:
        """Each ticket's outputs as JSON, or ``null``. A batch is written in one go, where all of it is short."""
        batch = tickets[0].batch
        if batch and batch is tickets[-1].batch and len(tickets) > 1:
            rows = [ticket.call.rows for ticket in tickets]
            most = _MAX_OUTPUT_ELEMENTS * sum(rows) // max(rows)
            # Kept answers that are given again may share one list, and are no parts of it.
            if len(batch[0]) == sum(rows) and sum([output.size for output in batch]) <= most:
                told = self._phrases.write(batch, rows)
                if told is not None:
                    for ticket, outputs in zip(tickets, told, strict=True):
                        if ticket.call.outputs == self._all_outputs:
                            ticket.logged_outputs = outputs
                    return told
        return [self._outputs_of(ticket) for ticket in tickets]

    def _outputs_of(self, ticket: Ticket) -> bytes:
        outputs = ticket.outputs
        if outputs is None or sum([output.size for output in outputs]) > _MAX_OUTPUT_ELEMENTS:
            return b"null"
        told = self._phrases.write(outputs, (ticket.call.rows,)) or (encode_outputs(self._outputs, outputs),)
        if ticket.call.outputs == self._all_outputs:
            ticket.logged_outputs = told[0]
        return told[0]

    def _line(self, ticket: Ticket, now: float, clock: float, outputs: bytes) -> bytes:
        prediction = Prediction(
            prediction_id=ticket.prediction_id,
            at=now,
            revision=self._revision,
            version=self._version,
            cached_from=ticket.cached_from,
            rows=ticket.call.rows,
            latency_us=int((clock - ticket.arrived_at) * 1e6),
            status=200 if ticket.failure is None else 500,
            client_id=ticket.call.client_id,
            outputs=msgspec.Raw(outputs if len(outputs) <= MAX_OUTPUT_BYTES else b"null"),
        )
        return self._encoder.encode(prediction) + b"\n"
