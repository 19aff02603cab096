"""Checkpoints: folders of files that are complete and verified, or not there.

    step-000000000120/
        model.safetensors  optimizer.safetensors  …  state.json
        manifest.json      every file's size and SHA-256, and its own; written last

A checkpoint is written under another name, put on disk, and renamed. Nothing in it is a pickle. Knows bytes, not tensors:
`runtime.state` turns a model into bytes.
"""

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from skyloom.core import digests
from skyloom.durable import disk_errors, make_folder, move_into_place, sync_folder, write_new

_NAME = re.compile(r"step-(\d{12})")
_DRAFT = "draft-"
_MANIFEST = "manifest.json"


class _File(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    size_bytes: int
    digest: str


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    format: int = 1
    step: int
    files: tuple[_File, ...]


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    body: _Body
    digest: str


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A verified checkpoint. ``files`` are its bytes by name."""

    step: int
    files: dict[str, bytes]


class Checkpoints:
    """The checkpoints of one job, in one folder. One process writes (rank 0); any may read.

    Args:
        folder: made when missing.
        keep: newest checkpoints to keep; at least two, so that a damaged one can be fallen back from.
        say: where a line about a damaged checkpoint goes.
    """

    def __init__(self, folder: Path, keep: int = 3, say: Callable[[str], None] | None = None) -> None:
        self._folder = folder
        self._keep = max(2, keep)
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Write one checkpoint; it counts when this returns, and at any earlier crash it does not exist.

        Replaces one of the same step. Raises `StorageFull`, and then nothing has changed.
        """
        draft = self._folder / f"{_DRAFT}{step:012d}"
        with disk_errors(self._folder):
            make_folder(self._folder)
            self._clear_drafts()
            try:
                _write(draft, step, files)
                self._place(draft, step)
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        self._thin_out()

    def steps(self) -> list[int]:
        """Steps of all complete, verified checkpoints, oldest first. Reads every byte of them."""
        return [step for step in self._names() if self.load(step) is not None]

    def load(self, step: int) -> Checkpoint | None:
        """One checkpoint, verified; None when it is absent or damaged, and then says so."""
        folder = self._folder / _name(step)
        try:
            return _read(folder, step)
        except (OSError, ValueError) as error:
            self._say(f"Checkpoint {folder.name} is damaged and is passed over: {error}.")
            return None

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint whose every byte is right; says which damaged ones it passed over. None when there is none."""
        for step in reversed(self._names()):
            found = self.load(step)
            if found is not None:
                return found
        return None

    def _names(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _place(self, draft: Path, step: int) -> None:
        target = self._folder / _name(step)
        if target.exists():
            target.rename(self._folder / f"{_DRAFT}old-{step:012d}")
        move_into_place(draft, target)

    def _clear_drafts(self) -> None:
        for entry in self._folder.iterdir():
            if entry.name.startswith(_DRAFT):
                shutil.rmtree(entry)

    def _thin_out(self) -> None:
        """Drop what is older than the newest ``keep``. Renamed first: one that is half removed is never listed."""
        for step in self._names()[: -self._keep]:
            gone = self._folder / f"{_DRAFT}gone-{step:012d}"
            (self._folder / _name(step)).rename(gone)
            shutil.rmtree(gone)


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _write(folder: Path, step: int, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    entries = []
    for path, content in files.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", path) or path == _MANIFEST:
            raise ValueError(f"{path!r} cannot name a checkpoint's file")
        write_new(folder / path, [content])
        entries.append(_File(path=path, size_bytes=len(content), digest=digests.of_bytes(content)))
    body = _Body(step=step, files=tuple(entries))
    write_new(folder / _MANIFEST, [msgspec.json.encode(_Manifest(body=body, digest=digests.of_value(body)))])
    sync_folder(folder)


def _read(folder: Path, step: int) -> Checkpoint:
    manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=_Manifest)
    if digests.of_value(manifest.body) != manifest.digest or manifest.body.step != step:
        raise ValueError("its manifest is not what was written")
    return Checkpoint(step=step, files={entry.path: _read_file(folder, entry) for entry in manifest.body.files})


def _read_file(folder: Path, entry: _File) -> bytes:
    content = (folder / entry.path).read_bytes()
    if len(content) != entry.size_bytes:
        raise ValueError(f"{entry.path} has {len(content)} bytes, not {entry.size_bytes}")
    if digests.of_bytes(content) != entry.digest:
        raise ValueError(f"the bytes of {entry.path} are not those that were written")
    return content
