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
from skyloom.rooms.registry.bundle import Signature
from skyloom.rooms.serving.predictions import (
    MAX_OUTPUT_BYTES,
    Prediction,
    log_name,
    name_prediction,
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
    """Where a data plane writes down what it predicted, before it answers. Lives on the event loop's thread.

    Attributes:
        failed: the last write did not succeed, so that nothing is answered.
    """

    @property
    def failed(self) -> bool: ...

    def write(self, tickets: Sequence[Ticket]) -> None:
        """Give each ticket its prediction id and keep its record; on failure every ticket fails with `RequestLogFull`.

        Without tickets it finds out whether it can write again, and says so in `failed`.
        """
        ...

    def close(self) -> None:
        """Put everything on disk and let go."""
        ...


class Journal:
    """Writes one replica's request log. Lives on the event loop's thread.

    Without a folder it keeps nothing: predictions have ids, and nobody can look them up.
    """

    def __init__(self, folder: Path | None, replica: str, revision: str, signature: Signature) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._torn = folder, False
        self._replica = replica
        starts = starts_of(replica, os.listdir(folder)) if folder is not None else []  # noqa: PTH208
        self._open(starts[-1] if starts else 0)
        self._revision = revision
        self._outputs = signature.outputs
        self._encoder = msgspec.json.Encoder()
        self.failed = False
        self.keeps_outputs = True  # False: somebody wants an output redacted, so no answer is kept here

    def write(self, tickets: Sequence[Ticket]) -> None:
        """Name each ticket's prediction and append its line; on failure every ticket fails with `RequestLogFull`."""
        lines = bytearray(b"\n" if self._torn else b"" if tickets else _TRIAL)
        now = time.time()
        clock = time.perf_counter()
        for ticket in tickets:
            ticket.prediction_id = name_prediction(self._replica, self._offset + len(lines))
            lines += self._line(ticket, now, clock)
        try:
            write_all(self._file, lines)
            self._offset += len(lines)
        except OSError as error:
            self.failed = True
            failure = RequestLogFull(
                "The request log cannot be written.",
                next_action="Ask the operator to free disk space; then send again.",
            )
            failure.__cause__ = error
            for ticket in tickets:
                ticket.failure, ticket.outputs = failure, None
            self._recover()
        else:
            self.failed = self._torn = False
            if self._offset - self._start >= SEGMENT_BYTES or now - self._opened_at >= SEGMENT_S:
                self._rotate(now)

    def close(self) -> None:
        """Flush to disk and let go of the file."""
        _let_go(self._file, self._folder is not None)

    def _open(self, start: int) -> None:
        """Go on with the segment that begins at ``start``."""
        path = self._folder / log_name(self._replica, start) if self._folder is not None else Path(os.devnull)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.path, self._start, self._opened_at = path, start, time.time()
        self._recover()

    def _rotate(self, now: float) -> None:
        """Begin the next segment; where that fails, this one goes on for another while."""
        before, self._opened_at = self._file, now
        if self._folder is None or self._offset == self._start:
            return
        with contextlib.suppress(OSError):
            self._open(self._offset)
            # Syncing many megabytes takes a while, and this is the event loop's thread.
            threading.Thread(target=_let_go, args=(before, True), daemon=True).start()

    def _line(self, ticket: Ticket, now: float, clock: float) -> bytes:
        outputs = b"null"
        if ticket.outputs is not None and sum(output.size for output in ticket.outputs) <= _MAX_OUTPUT_ELEMENTS:
            outputs = encode_outputs(self._outputs, ticket.outputs)
            if len(ticket.call.outputs) == len(ticket.outputs):
                ticket.logged_outputs = outputs
        prediction = Prediction(
            prediction_id=ticket.prediction_id,
            at=now,
            revision=self._revision,
            rows=ticket.call.rows,
            latency_us=int((clock - ticket.arrived_at) * 1e6),
            status=200 if ticket.failure is None else 500,
            client_id=ticket.call.client_id,
            outputs=msgspec.Raw(outputs if self.keeps_outputs and len(outputs) <= MAX_OUTPUT_BYTES else b"null"),
        )
        return self._encoder.encode(prediction) + b"\n"

    def _recover(self) -> None:
        """Look where the file ends."""
        size = os.fstat(self._file).st_size
        self._offset = self._start + size
        # A crash or a full disk may have torn the last line; the next one must start on its own.
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"


def _let_go(file: int, sync: bool) -> None:
    try:
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
