"""Bundles on a device: fetched beside what is served, every byte compared with its digest, complete before it gets its name."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from skyloom.core.errors import InvalidInput
from skyloom.durable import disk_errors, make_folder, move_into_place, sync_file, sync_folder
from skyloom.edge.deployment import Installed
from skyloom.edge.link import CloudLink
from skyloom.rooms.devices.messages import Assignment
from skyloom.rooms.registry.bundle import MANIFEST_FILE, Manifest

_MAX_MANIFEST_BYTES = 64 * 2**20
_PIECE_BYTES = 2**20
_DRAFT = "draft-"


class BytesDiffer(InvalidInput):
    """What came is not what the digest names."""


class NoRoomForBundle(InvalidInput):
    """The bundle is larger than the disk has room for."""


class BundleShelf:
    """The folder of bundles. A folder under its final name is complete and on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, made: Installed) -> Path:
        """Where a bundle is."""
        return self._folder / made.folder

    def fetch(self, link: CloudLink, device: str, told: Assignment) -> Installed:
        """Bring a bundle here, going on where an earlier try ended. Raises `LinkDown`, `BytesDiffer`, `NoRoomForBundle`, `StorageFull`."""
        assert told.manifest, "what should be served has a manifest"
        made = Installed(version=told.version, model=told.model, label=told.label, manifest=told.manifest)
        target = self.path(made)
        if target.is_dir():
            return made
        draft = self._folder / f"{_DRAFT}{made.folder}"
        with disk_errors(self._folder):
            make_folder(draft)
            self._file(link, device, draft / MANIFEST_FILE, told.manifest, _MAX_MANIFEST_BYTES)
            manifest = msgspec.json.decode((draft / MANIFEST_FILE).read_bytes(), type=Manifest)
            self._check_room(sum(file.size_bytes - _size(draft / file.path) for file in manifest.files))
            for file in manifest.files:
                path = draft / file.path
                make_folder(path.parent)
                self._file(link, device, path, file.digest, file.size_bytes)
            _sync_below(draft)
            move_into_place(draft, target)
        return made

    def remove(self, made: Installed) -> None:
        """Take a bundle away, to be fetched anew."""
        shutil.rmtree(self.path(made), ignore_errors=True)

    def tidy(self, kept: Iterable[str], wanted: str = "") -> None:
        """Take away bundles that are neither kept nor being fetched."""
        names = {*kept, f"{_DRAFT}{wanted}"}
        for path in self._folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def _file(self, link: CloudLink, device: str, path: Path, digest: str, max_bytes: int) -> None:
        """One file, from where an earlier try ended; begun anew once if what is there then does not fit its digest."""
        for offset in dict.fromkeys((min(_size(path), max_bytes), 0)):
            state, size = hashlib.sha256(), offset
            with path.open("r+b" if offset else "wb") as file:
                for start in range(0, offset, _PIECE_BYTES):
                    state.update(file.read(min(_PIECE_BYTES, offset - start)))
                file.truncate()
                is_whole = f"sha256:{state.hexdigest()}" == digest
                for piece in () if is_whole else link.fetch(device, digest, offset):
                    size += len(piece)
                    if size > max_bytes:
                        raise BytesDiffer(
                            f"{path.name} is larger than it should be.", next_action="Nothing of it is used."
                        )
                    file.write(piece)
                    state.update(piece)
                file.flush()
            if f"sha256:{state.hexdigest()}" == digest:
                sync_file(path)
                return
        path.unlink()
        raise BytesDiffer(
            f"{path.name} is not what its digest says.", next_action="Nothing of it is used; it is fetched again later."
        )

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._folder).free
        if needed_bytes > free_bytes:
            raise NoRoomForBundle(
                f"The bundle needs {needed_bytes} bytes, and {free_bytes} are free.", next_action="Free some space."
            )


def _size(path: Path) -> int:
    """Bytes of a file that may not be there."""
    return path.stat().st_size if path.exists() else 0


def _sync_below(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))
