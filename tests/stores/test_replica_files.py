import socket
from pathlib import Path

import msgspec
import pytest

from skyloom.blobs.local import LocalBlobs
from skyloom.blobs.memory import MemoryBlobs
from skyloom.ports.blobs import BlobMissing
from skyloom.rooms.serving.load import LoadMemory
from skyloom.rooms.serving.pack import PackTable
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.routes import EndpointRoute, RoutingTable
from skyloom.rooms.serving.scaling import ScaleSignal
from skyloom.stores.replica_files import LocalReplicaFiles

DIGESTS = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)


def read(files: LocalReplicaFiles) -> Access:
    return msgspec.json.decode(Path(files.access_path("p")).read_bytes(), type=Access)


def test_access_list_is_private_and_replaced_whole(tmp_path: Path) -> None:
    files = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs())
    files.publish_access("p", DIGESTS)
    path = Path(files.access_path("p"))
    assert read(files).digests == DIGESTS
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    files.publish_access("p", DIGESTS)
    assert path.stat().st_ino == before, "the same list is not written again"
    files.publish_access("p", DIGESTS[:1])
    assert read(files).digests == DIGESTS[:1]
    assert [item.name for item in path.parent.iterdir()] == ["p.json"]


def test_load_is_kept_and_a_torn_file_is_as_good_as_none(tmp_path: Path) -> None:
    memory = LoadMemory(signal=ScaleSignal.RATE, minute=29_000_000, means=b"\0" * 8)
    LocalReplicaFiles(tmp_path / "requests", MemoryBlobs()).keep_load("ep_1", memory)
    files = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs())
    assert files.read_load("ep_1") == memory and files.read_load("ep_2") is None
    (path,) = (tmp_path / "requests" / "loads").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert files.read_load("ep_1") is None


def test_log_of_an_unknown_replica_is_empty(tmp_path: Path) -> None:
    files = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs())
    assert files.read_log("rep_nobody", 0) is None
    (Path(files.log_folder) / "rep_a.jsonl").write_bytes(b"one\ntwo\n")
    assert files.read_log("rep_a", 4) == b"two\n"
    assert files.read_log("rep_a", 400) == b""


def test_free_port_can_be_listened_on(tmp_path: Path) -> None:
    port = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs()).free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def test_table_of_routes_is_replaced_whole_and_read_again(tmp_path: Path) -> None:
    files = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs())
    assert files.read_routes("p") == RoutingTable()
    route = EndpointRoute(endpoint="ep_1", model="toy", rest_port=1, grpc_port=2, access_file="a")
    files.publish_routes("p", RoutingTable(routes=(route,)))
    path = Path(files.routes_path("p"))
    before = path.stat().st_ino
    files.publish_routes("p", RoutingTable(routes=(route,)))
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (before, 0o600)
    assert LocalReplicaFiles(tmp_path / "requests", MemoryBlobs()).read_routes("p").routes == (route,)
    path.write_bytes(b"{")
    assert files.read_routes("p") == RoutingTable()


def test_bundle_is_laid_out_whole_once_and_from_any_store(tmp_path: Path) -> None:
    for number, blobs in enumerate((MemoryBlobs(), LocalBlobs(tmp_path / "blobs"))):
        files = LocalReplicaFiles(tmp_path / f"requests{number}", blobs)
        digest, _ = blobs.put([b"weights"])
        manifest, _ = blobs.put([b"{}"])
        listed = {"model.onnx": digest, "deep/er/manifest.json": manifest}
        folder = Path(files.lay_out(manifest, listed))
        assert (folder / "model.onnx").read_bytes() == b"weights"
        assert (folder / "deep/er/manifest.json").read_bytes() == b"{}"
        assert files.lay_out(manifest, listed) == str(folder)
        with pytest.raises(BlobMissing):
            files.lay_out("sha256:" + "1" * 64, {"model.onnx": digest, "b": "sha256:" + "0" * 64})
        assert [item.name for item in folder.parent.iterdir()] == [folder.name], "a half of one is never seen"


def test_pack_is_replaced_whole(tmp_path: Path) -> None:
    files = LocalReplicaFiles(tmp_path / "requests", MemoryBlobs())
    table = PackTable(memory_bytes=5, max_loaded=2)
    files.publish_pack("ep_1", table)
    assert msgspec.json.decode(Path(files.pack_path("ep_1")).read_bytes(), type=PackTable) == table
