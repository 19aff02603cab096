"""A task's output on disk: in order, bounded, and never in the way of the process that writes it."""

from __future__ import annotations

import errno
import os

_CHUNK_BYTES = 2**20
_TAIL_BYTES = 1000


class Output:
    """Moves bytes from a pipe to a log file.

    What does not fit is read and dropped, so that the writer never blocks and never sees an error; the log then says so in one
    line. A full disk is tried again at each `retry`, and the log goes on once there is room. The file only ever grows.
    """

    def __init__(self, pipe: int, path: str, max_bytes: int) -> None:
        self.pipe = pipe
        self._log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._limit = max_bytes
        self._left = max_bytes
        self._at_line_start = True
        self._tail = b""  # the newest output, kept or not
        self._notice = b""  # the rest of a line of ours that must be in the log before anything else
        self._full = ""  # why the disk takes no more; empty while it does
        self._lost = 0  # bytes lost since the last line that told of it
        self._total_lost = 0
        self._over = 0
        os.set_blocking(pipe, False)

    def move(self, max_chunks: int = 16) -> bool:
        """Move what is there now, at most 16 MiB, so that other events get their turn. False at the end of the pipe."""
        for _ in range(max_chunks):
            try:
                chunk = os.read(self.pipe, _CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._tail = chunk[-_TAIL_BYTES:] if len(chunk) >= _TAIL_BYTES else (self._tail + chunk)[-_TAIL_BYTES:]
            self._take(chunk)
        return True

    def retry(self) -> None:
        """After a full disk: say what was lost and go on, if there is room now."""
        if not self._full:
            return
        if not self._notice:
            told, line = self._lost, self._lost_line()
            written = self._write(line)
            if written == 0:
                return  # still full; the count in the line will have grown by the next time
            self._notice, self._lost = line[written:], self._lost - told
        else:
            self._notice = self._notice[self._write(self._notice) :]
        if not self._notice and not self._lost:
            self._full = ""

    def close(self) -> None:
        """Let go of the pipe and the log."""
        os.close(self.pipe)
        os.close(self._log)

    def last_line(self) -> str:
        """The last line with anything in it, at most 200 printable characters; for a Python program that raised, the exception."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        return "".join(sign for sign in last.strip() if sign.isprintable())[:200]

    def summary(self) -> str:
        """One sentence on what the log lacks; empty when it lacks nothing."""
        if self._total_lost:
            return (
                f"{self._total_lost} bytes of output were lost because the log could not be written; free some space."
            )
        if self._over:
            return f"{self._over} bytes of output beyond the log's limit of {self._limit} were dropped."
        return ""

    def _take(self, chunk: bytes) -> None:
        if self._full:
            self._lose(len(chunk))
            return
        kept = chunk[: self._left]
        written = self._write(kept)
        self._left -= written
        if written < len(kept):
            self._lose(len(kept) - written)
        elif len(kept) < len(chunk):
            if not self._over:
                line = self._over_line()
                self._notice = line[self._write(line) :]
            self._over += len(chunk) - len(kept)

    def _lose(self, count: int) -> None:
        self._lost += count
        self._total_lost += count

    def _write(self, content: bytes) -> int:
        """Write to the log; returns how many bytes are in it. Fewer than asked means that the disk is full."""
        view = memoryview(content)
        done = 0
        while done < len(view):
            try:
                done += os.write(self._log, view[done:])
            except OSError as error:
                self._full = os.strerror(error.errno or errno.EIO)
                break
        if done:
            self._at_line_start = content[done - 1 : done] == b"\n"
        return done

    def _line(self, text: str) -> bytes:
        return (("" if self._at_line_start else "\n") + f"[skyloom] {text}\n").encode()

    def _lost_line(self) -> bytes:
        return self._line(
            f"{self._lost} bytes of output were lost here: the log could not be written ({self._full}). "
            "The task itself was not hurt. Free some space on this disk."
        )

    def _over_line(self) -> bytes:
        return self._line(
            f"The log reached its limit of {self._limit} bytes; what follows is dropped. The task runs on. "
            "Print less, write to a file, or raise max_log_bytes."
        )
