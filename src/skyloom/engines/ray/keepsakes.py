"""What tasks leave, brought here before their end is told: of a cluster that shrinks, nodes and their disks do not come back."""

import contextlib
from pathlib import Path

import msgspec

from skyloom.durable import make_folder, write_private
from skyloom.engines.ray.asks import MAX_PIECE_BYTES, ReadTaskLog, ReadTaskResult
from skyloom.engines.ray.keepers import Keepers
from skyloom.ports.engine import LogSlice

_CUT = b"\n[skyloom] the rest of the output was on a node that is gone\n"


class Keepsake(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a task's output, and its result.

    Attributes:
        total_bytes: of the output; more than ``output`` when that was cut.
    """

    output: bytes
    total_bytes: int
    result: bytes | None

    @property
    def is_whole(self) -> bool:
        """All of the output is here."""
        return self.total_bytes <= len(self.output)


class Keepsakes:
    """One file for each task, in a folder of the control plane's. Raises ``OSError``.

    Args:
        wanted: whether anything is brought at all.
    """

    def __init__(self, folder: Path, keepers: Keepers, *, wanted: bool) -> None:
        self._folder = folder
        self._keepers = keepers
        self.wanted = wanted

    def bring(self, task_id: str, home: str) -> None:
        """Fetch what an ended task left on a node: 4 MiB of output, and its result. Raises `Unavailable`."""
        part = self._keepers.ask(home, ReadTaskLog(task_id=task_id, offset=0, limit=MAX_PIECE_BYTES), LogSlice)
        result = self._keepers.ask(home, ReadTaskResult(task_id=task_id), bytes | None)
        kept = Keepsake(output=part.content, total_bytes=part.total_bytes, result=result)
        make_folder(self._folder)
        write_private(self._path(task_id), msgspec.msgpack.encode(kept))

    def get(self, task_id: str) -> Keepsake | None:
        """What was brought of a task; None when nothing was, or its file is damaged."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.msgpack.decode(self._path(task_id).read_bytes(), type=Keepsake)
        return None

    def remove(self, task_id: str) -> None:
        """Forget it."""
        self._path(task_id).unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self._folder / task_id


def slice_of(kept: Keepsake, offset: int, limit: int) -> LogSlice:
    """A piece of the output; where it was cut, a line says so."""
    output = kept.output if kept.is_whole else kept.output + _CUT
    content = output[offset : offset + limit]
    return LogSlice(content=content, next_offset=offset + len(content), total_bytes=max(offset, len(output)))
