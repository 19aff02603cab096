"""Fetching: interrupted anywhere, tampered with, or larger than promised, a bundle is either whole under its name or not there."""

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from skyloom.core import digests
from skyloom.edge import bundles
from skyloom.edge.bundles import BundleShelf, BytesDiffer, NoRoomForBundle
from skyloom.edge.link import LinkDown
from skyloom.rooms.devices.messages import Assignment
from skyloom.rooms.registry.bundle import BundleFile, Manifest
from tests.edge.pulling import PowerLost
from tests.inference.serving import TOY_SIGNATURE

FILES = {"model.onnx": b"weights" * 500, "profile.json": b"{}", "extra/labels.txt": b"a\nb\n"}
MANIFEST = Manifest(
    signature=TOY_SIGNATURE,
    files=tuple(
        BundleFile(path=path, digest=digests.of_bytes(content), size_bytes=len(content))
        for path, content in FILES.items()
    ),
)
CONTENT = msgspec.json.encode(MANIFEST)
TOLD = Assignment(number=1, version="v1", model="m", label="1", manifest=digests.of_bytes(CONTENT))


class FakeLink:
    """Files in small pieces; dies at the k-th one."""

    def __init__(self, dies_at: int = -1, error: type[BaseException] = LinkDown, **changed: bytes) -> None:
        self.blobs = {digests.of_bytes(content): content for content in (CONTENT, *FILES.values())}
        self.pieces, self.sent_bytes, self._dies_at, self._error = 0, 0, dies_at, error

    def fetch(self, device, digest, offset):
        content = self.blobs[digest][offset:]
        for start in range(0, len(content), 700):
            self.pieces += 1
            if self.pieces == self._dies_at:
                raise self._error("gone", next_action="") if self._error is LinkDown else self._error()
            piece = content[start : start + 700]
            self.sent_bytes += len(piece)
            yield piece


def is_whole(folder: Path) -> bool:
    return all((folder / path).read_bytes() == content for path, content in FILES.items())


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "bundles").mkdir()
    return BundleShelf(tmp_path / "bundles")


def test_bundle_interrupted_at_every_piece_is_never_there_in_part_and_goes_on(tmp_path):
    total = sum(map(len, (CONTENT, *FILES.values())))
    for error in (LinkDown, PowerLost):
        for dies_at in range(1, 9):
            folder = tmp_path / f"{error.__name__}{dies_at}"
            folder.mkdir()
            shelf = BundleShelf(folder)
            with pytest.raises(error):
                shelf.fetch(FakeLink(dies_at, error), "dev", TOLD)
            assert not any(not path.name.startswith("draft-") for path in folder.iterdir())
            link = FakeLink()
            assert is_whole(shelf.path(shelf.fetch(link, "dev", TOLD)))
            assert dies_at == 1 or link.sent_bytes < total, "it began from nothing"


def test_bundle_that_loses_power_before_its_rename_is_not_there(shelf, monkeypatch, tmp_path):
    def lost(source, target):
        raise PowerLost

    monkeypatch.setattr(bundles, "move_into_place", lost)
    with pytest.raises(PowerLost):
        shelf.fetch(FakeLink(), "dev", TOLD)
    monkeypatch.undo()
    link = FakeLink()
    assert is_whole(shelf.path(shelf.fetch(link, "dev", TOLD)))
    assert link.sent_bytes == 0


def test_bundle_that_is_there_is_not_fetched_again(shelf):
    shelf.fetch(FakeLink(), "dev", TOLD)
    link = FakeLink()
    shelf.fetch(link, "dev", TOLD)
    assert link.pieces == 0


def test_bytes_that_are_not_what_the_digest_names_are_refused(shelf):
    link = FakeLink()
    digest = MANIFEST.files[0].digest
    link.blobs[digest] = b"Weights" + link.blobs[digest][7:]
    with pytest.raises(BytesDiffer):
        shelf.fetch(link, "dev", TOLD)
    link.blobs[digest] = FILES["model.onnx"] + b"more"
    with pytest.raises(BytesDiffer):
        shelf.fetch(link, "dev", TOLD)


def test_draft_that_was_changed_on_disk_is_begun_anew(shelf, tmp_path):
    with pytest.raises(LinkDown):
        shelf.fetch(FakeLink(dies_at=5), "dev", TOLD)
    draft = next((tmp_path / "bundles").iterdir()) / "model.onnx"
    draft.write_bytes(b"X" + draft.read_bytes()[1:])
    assert is_whole(shelf.path(shelf.fetch(FakeLink(), "dev", TOLD)))


def test_bundle_that_is_nearly_there_needs_room_for_its_rest_only(shelf, monkeypatch):
    with pytest.raises(LinkDown):
        shelf.fetch(FakeLink(dies_at=6), "dev", TOLD)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_500})())
    assert is_whole(shelf.path(shelf.fetch(FakeLink(), "dev", TOLD)))


def test_file_that_is_complete_is_not_asked_for_again(shelf, monkeypatch):
    monkeypatch.setattr(bundles, "move_into_place", lambda source, target: None)
    shelf.fetch(FakeLink(), "dev", TOLD)
    link = FakeLink()
    monkeypatch.setattr(link, "fetch", None)
    shelf.fetch(link, "dev", TOLD)


def test_every_byte_and_name_of_a_bundle_is_on_disk_before_it_gets_its_own(shelf, monkeypatch):
    """What power may take: a file or folder that was not synced after it was written last."""
    synced: dict[str, int] = {}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = os.fstat(descriptor).st_size

    def moved(source, target):
        for path in [source, *source.rglob("*")]:
            assert str(path) in synced, path
            assert path.is_dir() or synced[str(path)] == path.stat().st_size
        raise PowerLost

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(bundles, "move_into_place", moved)
    with pytest.raises(PowerLost):
        shelf.fetch(FakeLink(), "dev", TOLD)


def test_bundle_that_the_disk_has_no_room_for_is_refused_before_it_is_fetched(shelf, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    link = FakeLink()
    with pytest.raises(NoRoomForBundle):
        shelf.fetch(link, "dev", TOLD)
    assert link.sent_bytes == len(CONTENT)


def test_tidy_keeps_what_is_served_and_what_is_being_fetched(shelf, tmp_path):
    for name in ("a", "b", "c", "draft-c", "draft-d"):
        (tmp_path / "bundles" / name).mkdir()
    shelf.tidy({"a", "b"}, "c")
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == ["a", "b", "draft-c"]
    assert hashlib.sha256(CONTENT).hexdigest() == TOLD.manifest.removeprefix("sha256:")
